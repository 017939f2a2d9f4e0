"""Documents with a list column of questions."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from running import DOCUMENT, changed, write_job

from qa_ray.config import AnswerConfig
from qa_ray.schemas import GOLD

ENTRY = pa.struct([("question_id", pa.string()), ("question", pa.string()), ("answers", pa.list_(GOLD))])
TEXT = DOCUMENT["text"]


def entry(question_id: Any, question: str | None = "Who built it?", **others: Any) -> dict[str, Any]:
    return {"question_id": question_id, "question": question, **others}


def documents_with(*lists: Any, text: str | None = TEXT, type: pa.DataType | None = None) -> pa.Table:  # noqa: A002
    """One document for each list: d0, d1, and so on."""
    ids = [f"d{i}" for i in range(len(lists))]
    texts = pa.array([text] * len(lists), pa.string())
    return pa.table({"document_id": ids, "text": texts, "questions": pa.array(lists, type or pa.list_(ENTRY))})


def listed_job(folder: Path, model: str, documents: Any, questions: Any = None, **settings: Any) -> AnswerConfig:
    """The config of a job without a table of questions, unless there are ``questions``."""
    config = write_job(folder, model, documents, questions, **settings)
    return config if questions else changed(config, questions=None)
