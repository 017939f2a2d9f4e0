"""Small tables of questions with gold answers, and of predicted answers, for the tests of evaluation."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.schemas import ANSWERS, QUESTIONS


def golds(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "start_char": 0} for text in texts]


def question(question_id: str, answers: list[dict[str, Any]] | None, document_id: str | None = "d", **others: Any):
    return {"question_id": question_id, "answers": answers, "document_id": document_id, **others}


def answer(
    question_id: str, text: str | None, no_answer_score: float | None = None, document_id: str = "d", best: str = ""
):
    n_best = [{"answer": span} for span in (best or text, "another") if span]
    row = {"document_id": document_id, "question_id": question_id, "answer": text, "n_best": n_best}
    return row | {"no_answer_score": no_answer_score}


class Folder:
    """Writes the tables of one test below ``path``; each method returns the path of what it wrote."""

    def __init__(self, path: Path):
        self.path = path

    def questions(self, *rows: dict[str, Any], others: tuple[str, ...] = ()) -> str:
        return self.table("questions", rows, pa.schema([*QUESTIONS, *((name, pa.string()) for name in others)]))

    def answers(self, *rows: dict[str, Any], others: tuple[str, ...] = ()) -> str:
        return self.table("predicted", rows, pa.schema([*ANSWERS, *((name, pa.string()) for name in others)]))

    def predictions(self, texts: Any) -> str:
        return self.text("predictions.json", json.dumps(texts))

    def text(self, name: str, text: str) -> str:
        (self.path / name).write_text(text, encoding="utf-8")
        return str(self.path / name)

    def table(self, name: str, rows: Any, schema: pa.Schema | None = None) -> str:
        (self.path / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema), self.path / name / "part-0.parquet")
        return str(self.path / name)


def scored(*spans: tuple[str, float], no_answer_score: float = 0.0) -> dict[str, Any]:
    n_best = [{"answer": text, "start_char": 0, "stop_char": 1, "score": score} for text, score in spans]
    return {"answer": spans[0][0], "n_best": n_best, "no_answer_score": no_answer_score}
