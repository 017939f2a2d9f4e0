"""Checks single rows, and makes the rejects of those that fail."""

from collections.abc import Collection
from typing import Any, NamedTuple

import pyarrow as pa

from qa_ray.schemas import Question


class Fault(NamedTuple):
    """Why a text, a question or an answer cannot be used: a reason to count by, and what exactly is wrong."""

    reason: str
    detail: str


class CheckedDocument(NamedTuple):
    """A document with the questions to answer and the rejects of the others; an empty ``text`` has no questions."""

    text: str
    questions: list[Question]
    rejects: list[dict[str, Any]]


NOT_RETRIED = frozenset({"unknown_document", "null_question_id", "invalid_question_id", "duplicate_question_id"})
"""Reasons of rejects whose (document_id, question_id) names no question that could be asked, or also another one."""

FAULTS = {"null_text": "null as its text", "empty_text": "an empty text", "blank_text": "a text of white space only"}


def text_fault(text: str | None) -> str | None:
    """Why a document's or question's text cannot be used: a key of FAULTS, or None if it can."""
    if text is None:
        return "null_text"
    if not text:
        return "empty_text"
    return "blank_text" if text.isspace() else None


def reject(question_id: str | None, stage: str, reason: str, detail: str) -> dict[str, Any]:
    """A row of schemas.REJECT."""
    return {"question_id": question_id, "stage": stage, "reason": reason, "detail": detail}


def unknown_document(document_id: str, question_id: str) -> dict[str, Any]:
    """The row of the rejects table for a question about a document that does not exist."""
    detail = f"question {question_id!r} is bound to document {document_id!r}, which is not among the documents"
    return {"document_id": document_id} | reject(question_id, "documents", "unknown_document", detail)


def too_long(num_tokens: int, limit: int) -> str:
    """The detail of the reject of a question with more than ``limit`` tokens."""
    return f"{num_tokens} tokens, more than windows.max_question_tokens={limit}; raise it or truncate"


def failure(question_id: str, stage: str, error: Exception) -> dict[str, Any]:
    """The reject of a question for which a stage raised ``error``."""
    return reject(question_id, stage, type(error).__name__, str(error)[:1000])


def check(document_id: str, text: pa.Scalar, asked: list[Question], listed: pa.Scalar | None = None) -> CheckedDocument:
    """Separates the questions that can be asked about the document from those that become rejects.

    ``asked`` are those of the questions table; ``listed`` is the document's own list, as ``question_lists.LISTED``. An
    id occurs once among the questions that are returned: of two in the list, or one there and one ``asked``, the
    first is kept.

    Texts are Arrow scalars, because invalid UTF-8 raises an error only on conversion to str: here.
    """
    questions, rejects = asked, []
    if listed is not None and listed.is_valid:
        own, rejects = _check_listed(listed.values, {question.question_id for question in asked})
        questions = asked + own
    try:
        document = text.as_py()
        fault = text_fault(document)
        detail = f"document {document_id!r} has {FAULTS[fault]}" if fault else ""
    except UnicodeDecodeError as error:
        document, fault = "", "invalid_unicode"
        detail = f"document {document_id!r} has text that is not valid UTF-8: {error}"
    if fault:
        return CheckedDocument("", [], rejects + [reject(q.question_id, "documents", fault, detail) for q in questions])
    valid_questions = []
    for question in questions:
        if fault := text_fault(question.question):
            detail = f"question {question.question_id!r} has {FAULTS[fault]}"
            rejects.append(reject(question.question_id, "documents", fault.replace("text", "question"), detail))
        else:
            valid_questions.append(question)
    return CheckedDocument(document, valid_questions, rejects)


def only_these(document: CheckedDocument, question_ids: Collection[str]) -> CheckedDocument:
    """The document with only these of its questions and rejects; those of NOT_RETRIED are dropped."""
    return CheckedDocument(
        document.text,
        [question for question in document.questions if question.question_id in question_ids],
        [row for row in document.rejects if row["question_id"] in question_ids and row["reason"] not in NOT_RETRIED],
    )


def _check_listed(entries: pa.StructArray, ids: set[str]) -> tuple[list[Question], list[dict[str, Any]]]:
    """The entries of one list as questions, and the rejects of those without an id of their own; ``ids`` are taken.

    Every entry is one or the other, so that their counts add up.
    """
    ids, questions, rejects = set(ids), [], []
    for number, (id_, text) in enumerate(zip(entries.field("question_id"), entries.field("question")), 1):
        place = f"question {number} of the document's list"
        question_id, error = _decode(id_)
        if error:
            rejects.append(_listed_reject(question_id, "invalid_question_id", f"{place} has an id that is {error}"))
        elif question_id is None:
            rejects.append(_listed_reject(None, "null_question_id", f"{place} has null as its id; give it one"))
        elif question_id in ids:
            detail = f"{place} has the id {question_id!r} of another one, which is kept; give each its own id"
            rejects.append(_listed_reject(question_id, "duplicate_question_id", detail))
        else:
            ids.add(question_id)
            question, error = _decode(text)
            if error:
                rejects.append(_listed_reject(question_id, "invalid_unicode", f"{place} has a text that is {error}"))
            else:
                questions.append(Question(question_id, question))
    return questions, rejects


def _listed_reject(question_id: str | None, reason: str, detail: str) -> dict[str, Any]:
    return reject(question_id, "documents", reason, detail)


def _decode(text: pa.Scalar) -> tuple[str | None, str]:
    """The text, and what is wrong with it; bytes that are not valid UTF-8 are replaced."""
    try:
        return text.as_py(), ""
    except UnicodeDecodeError as error:
        return text.as_buffer().to_pybytes().decode(errors="replace"), f"not valid UTF-8: {error}"
