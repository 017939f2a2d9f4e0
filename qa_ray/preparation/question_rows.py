"""Questions as people's sources have them -> rows of schemas.QUESTIONS, or an InputError naming the place."""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.schemas import QUESTIONS

Row = dict[str, Any]
Fault = tuple[str, str]  # a reason to count by, a detail to read


def read_questions(uri: str) -> tuple[list[Row], list[pa.Field]]:
    """The questions, and the fields of their extra columns."""
    filesystem, path = storage.open_filesystem(uri)
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in (".txt", ".jsonl", ".json"):
        records = _line_records(storage.read_bytes(filesystem, path), uri, is_json=suffix != ".txt")
    elif suffix in (".parquet", ".pq") or filesystem.isdir(path):
        files = storage.parquet_files(uri, "questions")
        records = [r for file in files for r in storage.open_parquet(filesystem, file, "questions").read().to_pylist()]
    else:
        raise InputError(
            f"questions {uri!r}: no .txt, .jsonl or .parquet file and no folder of Parquet; check the path"
        )
    rows = []
    for number, record in enumerate(records, 1):
        question = question_row(record, number, f"questions {uri!r}, question {number}")
        rows.append(record | question)
    return rows, _extra_fields([row for row in rows if not invalid_unicode(row)], uri)


def _line_records(content: bytes, uri: str, is_json: bool) -> list[Any]:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"questions {uri!r}: {error}; save the file as UTF-8") from error
    records = []
    for number, line in enumerate(map(str.strip, lines), 1):
        try:
            if line:
                records.append(json.loads(line) if is_json else {"question": line})
        except ValueError as error:
            raise InputError(f"questions {uri!r}, line {number}: {error}; write one JSON object a line") from error
    return records


def _extra_fields(rows: list[Row], uri: str) -> list[pa.Field]:
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row if name not in QUESTIONS.names):
        try:
            fields.append(pa.field(name, pa.array([row.get(name) for row in rows]).type))
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"questions {uri!r}: column {name!r} has no one type ({error}); use one or drop it"
            ) from error
    return fields


def question_row(record: Row, number: int, place: str) -> Row:
    """The record's question as schemas.QUESTIONS has it."""
    text = value_of(record, "question", place, str, type(None))
    question_id, document_id = record.get("question_id"), record.get("document_id")
    return {
        "question_id": f"q{number}" if question_id is None else str(question_id),
        "question": text,
        "document_id": None if document_id is None else str(document_id),
        "answers": _gold(record.get("answers"), place),
    }


def _gold(answers: Any, place: str) -> list[Row] | None:
    """Gold from ``[{text, start_char or answer_start}]``, the hub's ``{text: […], answer_start: […]}``, or None."""
    if isinstance(answers, dict):
        texts, starts = (value_of(answers, name, f"{place}: answers", list) for name in ("text", "answer_start"))
        if len(starts) != len(texts):
            raise InputError(f"{place}: {len(texts)} answer texts, {len(starts)} answer_start; give one for each")
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if answers is None:
        return None
    gold = []
    for answer in value_of({"answers": answers}, "answers", place, list):
        text = value_of(answer, "text", f"{place}: answers", str)
        start = answer.get("start_char", answer.get("answer_start"))
        if not isinstance(start, int | None):
            raise InputError(f"{place}: answer_start={start!r} of {text!r} is no whole number; mend or leave it out")
        gold.append({"text": text, "start_char": start})
    return gold


def value_of(record: Any, key: str, place: str, *kinds: type) -> Any:
    """``record[key]``, which must be there and of one of these kinds."""
    if isinstance(record, dict) and isinstance(record.get(key, ...), kinds):
        return record[key]
    names = {str: "text", int: "a whole number", list: "a list", type(None): "null"}
    is_there = isinstance(record, dict) and key in record
    fault = f"{key!r} is {record[key]!r:.60}" if is_there else f"there is no {key!r}"
    raise InputError(f"{place}: {fault}, where {' or '.join(names[kind] for kind in kinds)} should be; mend the source")


def invalid_unicode(row: Row) -> Fault | None:
    """The first lone surrogate in the row, which no Parquet file can hold."""
    for column, value in row.items():
        for text in _texts(value):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                detail = f"{column}: character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
                return "invalid_unicode", f"{detail}; mend the source"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
