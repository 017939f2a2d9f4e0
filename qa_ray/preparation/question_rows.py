"""Reads questions from records of any source into rows of schemas.QUESTIONS, or raises an InputError with the place."""

import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.schemas import QUESTIONS

Row = dict[str, Any]
Fault = tuple[str, str]  # the reason and the detail of a reject


def read_questions(uri: str) -> tuple[list[Row], list[pa.Field]]:
    """The questions of a file (.txt, .jsonl, .parquet) or a folder of Parquet, and the fields of their extra columns.

    Raises:
        InputError: the file cannot be read, a question is malformed, or a column mixes types.
    """
    filesystem, path = storage.open_filesystem(uri)
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in (".txt", ".jsonl", ".json"):
        records = _read_lines(storage.read_bytes(filesystem, path), uri, is_json=suffix != ".txt")
    elif suffix in (".parquet", ".pq") or filesystem.isdir(path):
        files = storage.parquet_files(uri, "questions")
        tables = (storage.open_parquet(filesystem, file, "questions").read() for file in files)
        records = [record for table in tables for record in table.to_pylist()]
    else:
        raise InputError(
            f"questions {uri!r}: not a .txt, .jsonl or .parquet file, nor a folder of Parquet; check the path"
        )
    rows = []
    for number, record in enumerate(records, 1):
        question = question_row(record, number, f"questions {uri!r}, question {number}")
        rows.append(record | question)
    return rows, _extra_fields([row for row in rows if not invalid_unicode(row)], uri)


def _read_lines(content: bytes, uri: str, is_json: bool) -> list[Any]:
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
            raise InputError(f"questions {uri!r}, line {number}: {error}; write one JSON object per line") from error
    return records


def _extra_fields(rows: list[Row], uri: str) -> list[pa.Field]:
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row if name not in QUESTIONS.names):
        try:
            fields.append(pa.field(name, pa.array([row.get(name) for row in rows]).type))
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"questions {uri!r}: column {name!r} mixes types ({error}); use one type or drop the column"
            ) from error
    return fields


def question_row(record: Row, number: int, place: str) -> Row:
    """The record's question as a row of schemas.QUESTIONS; without an id of its own it is ``q{number}``.

    ``place`` is where the record is in the source, for error messages.

    Raises:
        InputError: no question, or malformed gold answers.
    """
    text = checked_value(record, "question", place, str, type(None))
    question_id, document_id = record.get("question_id"), record.get("document_id")
    return {
        "question_id": f"q{number}" if question_id is None else str(question_id),
        "question": text,
        "document_id": None if document_id is None else str(document_id),
        "answers": _gold_answers(record.get("answers"), place),
    }


def _gold_answers(answers: Any, place: str) -> list[Row] | None:
    """Gold from ``[{text, start_char or answer_start}]``, the hub's ``{text: […], answer_start: […]}``, or None."""
    if answers is None:
        return None
    answers_place = f"{place}: answers"
    if isinstance(answers, dict):
        texts, starts = (checked_value(answers, name, answers_place, list) for name in ("text", "answer_start"))
        if len(starts) != len(texts):
            raise InputError(
                f"{place}: {len(texts)} answer texts, but {len(starts)} answer_start; give one for each text"
            )
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    gold = []
    for answer in checked_value({"answers": answers}, "answers", place, list):
        text = checked_value(answer, "text", answers_place, str)
        start_char = answer.get("start_char", answer.get("answer_start"))
        if not isinstance(start_char, int | None):
            raise InputError(
                f"{place}: answer_start={start_char!r} of {text!r} is not a whole number; fix it or leave it out"
            )
        gold.append({"text": text, "start_char": start_char})
    return gold


def checked_value(record: Any, key: str, place: str, *types: type) -> Any:
    """``record[key]``.

    Raises:
        InputError: ``record`` is not a dict, has no such key, or the value has none of these types.
    """
    if isinstance(record, dict) and isinstance(record.get(key, ...), types):
        return record[key]
    names = {str: "text", int: "a whole number", list: "a list", type(None): "null"}
    expected = " or ".join(names[each] for each in types)
    if isinstance(record, dict) and key in record:
        raise InputError(f"{place}: {key!r} is {record[key]!r:.60}, not {expected}; fix the source")
    raise InputError(f"{place}: there is no {key!r} (expected {expected}); fix the source")


def invalid_unicode(row: Row) -> Fault | None:
    """The first lone surrogate in the row's strings, if there is one: Parquet cannot store it, as it has no UTF-8."""
    for column, value in row.items():
        for text in _strings(value):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                detail = f"{column}: character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
                return "invalid_unicode", f"{detail}; fix the source"
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
