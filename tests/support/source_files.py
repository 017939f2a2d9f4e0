"""Writes small sources, and reads back the tables that prepare made of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def rows(output: object, table: str) -> list[dict[str, Any]]:
    return pq.read_table(f"{output}/{table}").to_pylist()


def ids(output: object) -> list[str]:
    return [row["document_id"] for row in rows(output, "documents")]


def write_json(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def squad(*articles: object) -> dict[str, Any]:
    return {"version": "1.1", "data": list(articles)}


def article(title: object, *paragraphs: object) -> dict[str, Any]:
    return {"title": title, "paragraphs": list(paragraphs)}


def paragraph(text: str, *qas: object, **more: object) -> dict[str, Any]:
    return {"context": text, "qas": list(qas), **more}


def qa(question_id: object, question: str = "Who?", **more: object) -> dict[str, Any]:
    return {"id": question_id, "question": question, **more}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)
