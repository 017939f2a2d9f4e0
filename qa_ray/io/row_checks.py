"""Checks single rows, and makes the rejects of those that fail."""

from typing import Any, NamedTuple

import pyarrow as pa

from qa_ray.schemas import Question


class CheckedDocument(NamedTuple):
    """A document with the questions to answer and the rejects of the others; an empty ``text`` has no questions."""

    text: str
    questions: list[Question]
    rejects: list[dict[str, Any]]


FAULTS = {"null_text": "null as its text", "empty_text": "an empty text", "blank_text": "a text of white space only"}


def text_fault(text: str | None) -> str | None:
    """Why a document's or question's text cannot be used: a key of FAULTS, or None if it can."""
    if text is None:
        return "null_text"
    if not text:
        return "empty_text"
    return "blank_text" if text.isspace() else None


def reject(question_id: str, stage: str, reason: str, detail: str) -> dict[str, Any]:
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


def check(document_id: str, text: pa.Scalar, questions: list[Question]) -> CheckedDocument:
    """Separates the questions that can be asked of the document from those that become rejects.

    ``text`` is an Arrow scalar, because invalid UTF-8 raises an error only on conversion to str: here.
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
    valid_questions, rejects = [], []
    for question in questions:
        if fault := text_fault(question.question):
            detail = f"question {question.question_id!r} has {FAULTS[fault]}"
            rejects.append(reject(question.question_id, "documents", fault.replace("text", "question"), detail))
        else:
            valid_questions.append(question)
    return CheckedDocument(document, valid_questions, rejects)
