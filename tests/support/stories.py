"""Six tiny Chinese stories with questions and answers: training data that a small model learns in seconds."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from running import write_file

from qa_ray.schemas import DOCUMENTS, QUESTIONS

# Who, did what, and felt how.
STORIES = [
    ("小明", "在公园放风筝", "很高兴"),
    ("小红", "把花瓶打碎了", "很难过"),
    ("小刚", "一个人走夜路", "很害怕"),
    ("小丽", "收到一封来信", "很惊喜"),
    ("小华", "输掉了一场球", "很失望"),
    ("小军", "跑完了马拉松", "很疲倦"),
]
TEXTS = [f"{who}{what}。{who}觉得{feeling}。" for who, what, feeling in STORIES]
VOCABULARY = "".join(TEXTS) + "谁做了什么？怎么样"


def stories() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    documents, questions = [], []
    for i, (text, (who, what, feeling)) in enumerate(zip(TEXTS, STORIES, strict=True)):
        documents.append({"document_id": f"story {i}", "text": text})
        questions_and_answers = ((f"谁{what}？", who), (f"{who}做了什么？", what), (f"{who}觉得怎么样？", feeling))
        for question, answer in questions_and_answers:
            gold = [{"text": answer, "start_char": text.index(answer)}]
            row = {"question_id": question, "question": question, "document_id": f"story {i}", "answers": gold}
            questions.append(row)
    return documents, questions


def write_tables(folder: Path, documents: list[dict[str, Any]], questions: list[dict[str, Any]]) -> dict[str, str]:
    for name, rows, schema in (("documents", documents, DOCUMENTS), ("questions", questions, QUESTIONS)):
        (folder / name).mkdir(parents=True)
        write_file(folder / name / "part.parquet", pa.Table.from_pylist(rows, schema), 2)
    return {name: str(folder / name) for name in ("documents", "questions")}
