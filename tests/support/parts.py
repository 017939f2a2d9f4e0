"""Part files and the plan of a run without a model, for tests of what follows the answering."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from qa_ray.answering.plan import max_rejects
from qa_ray.answering.previous import NO_ANSWERS
from qa_ray.config import AnswerConfig, check_config
from qa_ray.config.sections import StorageSettings
from qa_ray.io.id_hashes import HASH_KEYS
from qa_ray.io.question_table import QuestionTable
from qa_ray.schemas import PART


def plan_of(
    ids: Sequence[str], bound_to: Sequence[str], storage: StorageSettings | None = None, **settings: Any
) -> Any:
    """What a commit needs of a plan: documents, and a question "q" bound to each of ``bound_to``."""
    num_pairs = len(bound_to)
    questions = {"document_id": list(bound_to), "question_id": ["q"] * num_pairs, "question": ["Who?"] * num_pairs}
    documents = SimpleNamespace(
        id_column="document_id",
        hash_key=HASH_KEYS[0],
        num_documents=len(ids),
        id_type=pa.string(),
        listed_id_type=None,
    )
    values = {"documents": "d", "questions": "q", "output": "o", "limits": {"max_rejected_fraction": 1}}
    values |= {"export": ["jsonl"], "storage": (storage or StorageSettings()).model_dump(), **settings}
    config = check_config(AnswerConfig, values, "test")
    return SimpleNamespace(
        documents=documents,
        questions=QuestionTable(pa.table(questions)),
        num_pairs=num_pairs,
        max_rejects=max_rejects(config.limits.max_rejected_fraction, num_pairs, len(ids)),
        config=config,
        previous=NO_ANSWERS,
        inputs={},
    )


def part_of(ids: Sequence[str], rejected: str | None = None, **columns: Sequence[Any]) -> pa.Table:
    """A part file with an answer for each document, but a reject for one; ``columns`` are passed through."""
    answer = {"question_id": "q", "question": "Who?", "answer": "Ada", "score": 0.5, "n_best": []}
    answer |= {"num_windows": 1, "num_windows_read": 1}
    reject = {"question_id": "q", "stage": "logits", "reason": "process_died", "detail": ""}
    rows = [
        {
            "answers": [] if id_ == rejected else [answer],
            "rejects": [reject] if id_ == rejected else [],
            "num_tokens": 1,
            "num_windows": 1,
            "num_windows_read": 1,
            "text_sha256": "t",
        }
        for id_ in ids
    ]
    part = pa.Table.from_pylist(rows, PART).append_column("document_id", pa.array(list(ids), pa.string()))
    for name, values in columns.items():
        part = part.append_column(name, pa.array(values))
    return part
