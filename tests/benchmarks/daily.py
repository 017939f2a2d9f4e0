"""A daily run over a growing lake: how much of it is read again, and whether its output is that of a run from nothing.

    PYTHONPATH=tests/support .venv/bin/python tests/benchmarks/daily.py [2000]

That many documents are answered; then, for each 1,000 of them, 10 are new, 5 have changed, and 2.5 are removed, and the
run of the second day takes the other answers from the first. The model is a small one with random weights.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from models import TEXT, save_model
from running import assert_same_answers, changed, read_rows, write_job

from qa_ray.answering.job import answer_documents
from qa_ray.config import AnswerConfig
from qa_ray.process import num_cores
from qa_ray.runtime.resources import SPARE_CPUS
from qa_ray.runtime.session import start_ray

WORDS = 400  # of a document
QUESTIONS = [
    {"question_id": str(number), "question": text}
    for number, text in enumerate(("Who built the lighthouse?", "Who signed the agreement?", "What did it cost?"))
]


def document(number: int, version: int = 0) -> dict[str, Any]:
    words = random.Random(f"{number} {version}").choices(TEXT.split(), k=WORDS)
    return {"document_id": f"d{number:07}", "text": " ".join(words), "version": version}


def seconds_of(config: AnswerConfig) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    manifest = answer_documents(config)
    return round(time.perf_counter() - started, 1), manifest


def main(num_documents: int) -> None:
    num_new, num_changed, num_removed = num_documents // 100, num_documents // 200, num_documents // 400
    settings = {"max_tokens": 128, "overlap_tokens": 32, "max_question_tokens": 30}
    start_ray(num_cores() + SPARE_CPUS)
    with tempfile.TemporaryDirectory() as folder:
        model = save_model("bert", Path(folder, "model"), settings=settings)
        first = write_job(Path(folder, "first"), model, [*map(document, range(num_documents))], QUESTIONS)
        documents = [document(i, version=int(i < num_removed + num_changed)) for i in range(num_removed, num_documents)]
        documents += map(document, range(num_documents, num_documents + num_new))
        fresh = write_job(Path(folder, "second"), model, documents, QUESTIONS)
        daily = changed(fresh, previous=first.output, output=f"{folder}/daily")
        (first_s, _), (daily_s, manifest), (fresh_s, _) = map(seconds_of, (first, daily, fresh))
        answers, expected = ([row.pop("run_id") and row for row in read_rows(job, "answers")] for job in (daily, fresh))
        assert_same_answers(answers, expected)
        asked = {row["document_id"] for row in read_rows(daily, "answers") if row["run_id"] == manifest["run_id"]}
    figures = {
        "documents": [num_documents, len(documents)],
        "new_changed_removed": [num_new, num_changed, num_removed],
        "documents_read_by_the_model": len(asked),
        "answers_reused": manifest["counts"]["reused"],
        "rows_equal_to_a_run_from_nothing": len(answers),
        "windows": manifest["counts"]["windows"],
        "windows_this_run": manifest["windows_this_run"],
        "seconds": {"first day": first_s, "daily run": daily_s, "second day from nothing": fresh_s},
    }
    print(json.dumps(figures, indent=2), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 2_000)
