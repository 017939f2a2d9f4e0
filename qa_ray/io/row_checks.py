"""What can be wrong with one row, and the rejects that say so."""

from typing import Any, NamedTuple

import pyarrow as pa

from qa_ray.schemas import Question


class CheckedDocument(NamedTuple):
    """What can be asked of a document, and what cannot. ``text`` is empty only if ``questions`` is."""

    text: str
    questions: list[Question]
    rejects: list[dict[str, Any]]


FAULTS = {"null_text": "null as its text", "empty_text": "an empty text", "blank_text": "a text of white space only"}


def text_fault(text: str | None) -> str | None:
    """Why a text can neither be read nor asked: a key of FAULTS, or None if nothing is wrong with it."""
    if text is None:
        return "null_text"
    if not text:
        return "empty_text"
    return "blank_text" if text.isspace() else None


def reject(question_id: str, stage: str, reason: str, detail: str) -> dict[str, Any]:
    """The fields of schemas.REJECT."""
    return {"question_id": question_id, "stage": stage, "reason": reason, "detail": detail}


def unknown_document(document_id: str, question_id: str) -> dict[str, Any]:
    """The row of the rejects table for a question whose document is not there."""
    detail = f"question {question_id!r} is bound to document {document_id!r}, which is not among the documents"
    return {"document_id": document_id} | reject(question_id, "documents", "unknown_document", detail)


def too_long(num_tokens: int, limit: int) -> str:
    """What is said of a question with so many tokens."""
    return f"{num_tokens} tokens, more than windows.max_question_tokens={limit}; raise it or truncate"


def failure(question_id: str, stage: str, error: Exception) -> dict[str, Any]:
    """The reject of a question that made a stage fail."""
    return reject(question_id, stage, type(error).__name__, str(error)[:1000])


def check(document_id: str, text: pa.Scalar, questions: list[Question]) -> CheckedDocument:
    """The document with those of its questions that can be asked; the others as rejects.

    ``text`` is a scalar still, because text that is no valid UTF-8 fails only when it is turned into a str.
    """
    try:
        document = text.as_py()
        fault = text_fault(document)
        detail = f"document {document_id!r} has {FAULTS[fault]}" if fault else ""
    except UnicodeDecodeError as error:
        document, fault = "", "invalid_unicode"
        detail = f"document {document_id!r} has text that is not valid UTF-8: {error}"
    if fault:
        return CheckedDocument("", [], [reject(q.question_id, "documents", fault, detail) for q in questions])
    rejects = [
        reject(
            q.question_id,
            "documents",
            fault.replace("text", "question"),
            f"question {q.question_id!r} has {FAULTS[fault]}",
        )
        for q in questions
        if (fault := text_fault(q.question))
    ]
    return CheckedDocument(document, [q for q in questions if not text_fault(q.question)], rejects)
