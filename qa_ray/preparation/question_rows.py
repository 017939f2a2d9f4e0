"""The question of a source's record as a row of schemas.QUESTIONS, or an InputError with the place."""

from collections.abc import Iterator
from typing import Any

from qa_ray.preparation.gold import gold_answers
from qa_ray.preparation.values import Row, identifier, text_or_none, truth

Fault = tuple[str, str]  # the reason and the detail of a reject


def question_row(record: Row, number: int, place: str) -> Row:
    """The record's question as a row of schemas.QUESTIONS; without an id of its own it is ``q{number}``.

    It also has ``is_impossible`` if the record does: true, false or None. ``place`` is where the record is in the
    source, for error messages.

    Raises:
        InputError: no question, or an id, a gold answer or ``is_impossible`` that cannot be read.
    """
    question = text_or_none(record, "question", place)
    question_id = identifier(record, "question_id", place)
    row = {
        "question_id": f"q{number}" if question_id is None else question_id,
        "question": question,
        "document_id": identifier(record, "document_id", place),
        "answers": gold_answers(record.get("answers"), place),
    }
    if "is_impossible" in record:
        row["is_impossible"] = truth(record, "is_impossible", place)
    return row


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
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _strings(item)
