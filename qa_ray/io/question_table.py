"""Raw rows -> checked documents with their questions; bad rows become rejects, and their neighbours go on.

The questions are the small side: one sorted Arrow table that every process of a machine shares without a copy. A
document finds its questions by binary search.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.errors import InputError


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Eight bytes for each document id, uint64: what millions of ids are compared and remembered by."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)  # pyright: ignore[reportAttributeAccessIssue]


class Question(NamedTuple):
    """A question's id and its text, which may still be null or empty; its gold answers where the table has them."""

    question_id: str
    question: str | None
    answers: list[dict[str, Any]] | None = None  # the fields of records.GOLD


class CheckedDocument(NamedTuple):
    """What can be asked of a document, and what cannot. ``text`` is empty only if ``questions`` is."""

    text: str
    questions: list[Question]
    rejects: list[dict[str, Any]]


class Questions:
    """All questions of a job, by document.

    ``table`` has the string columns ``document_id`` (null: asked of every document), ``question_id`` and ``question``,
    and may have ``answers``.
    """

    def __init__(self, table: pa.Table):
        document_ids = table["document_id"]
        self.to_all = _rows(table.filter(document_ids.is_null()))
        # Sorting is stable: the questions of one document keep their order.
        self._bound = table.filter(document_ids.is_valid()).sort_by("document_id").combine_chunks()
        self._check_ids()

    def __reduce__(self) -> tuple:
        return _restore, (self.to_all, self._bound)

    def __len__(self) -> int:
        """Bound questions and questions to all, each once."""
        return self.num_bound + len(self.to_all)

    @property
    def num_bound(self) -> int:
        """Questions that name their document."""
        return self._bound.num_rows

    def of(self, document_id: str) -> list[Question]:
        """The questions bound to the document, then those asked of all; each in the order of its table."""
        rows = self.rows_of(document_id)
        return _rows(self._bound.slice(rows.start, rows.stop - rows.start)) + self.to_all

    def rows_of(self, document_id: str) -> slice:
        """Where the questions bound to this document stand among all bound ones."""
        ids = _Column(self._bound["document_id"])
        start = bisect_left(ids, document_id)
        return slice(start, bisect_right(ids, document_id, lo=start))

    def bound(self, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        """(document_id, question_id) of the bound questions that ``mask`` [num_bound] selects."""
        for batch in self._bound.filter(pa.array(mask)).to_batches(max_chunksize=10_000):
            yield from zip(batch["document_id"].to_pylist(), batch["question_id"].to_pylist(), strict=True)

    def _check_ids(self) -> None:
        to_all = [question.question_id for question in self.to_all]
        for question in self.to_all:
            if reason := text_fault(question.question):
                raise InputError(
                    f"questions: question {question.question_id!r}, asked of every document, has {FAULTS[reason]}; "
                    "write the question or drop the row"
                )
        if len(set(to_all)) < len(to_all):
            twice = next(id_ for id_ in to_all if to_all.count(id_) > 1)
            raise InputError(
                f"questions: question_id {twice!r} occurs {to_all.count(twice)} times among those asked of every "
                "document; give each its own id"
            )
        ids = self._bound.select(["document_id", "question_id"])
        counts = ids.group_by(["document_id", "question_id"]).aggregate([([], "count_all")])
        if twice := counts.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist():
            raise InputError(
                f"questions: question_id {twice[0]['question_id']!r} occurs {twice[0]['count_all']} times for document "
                f"{twice[0]['document_id']!r}; ids must be unique within a document"
            )
        both = ids.filter(pc.field("question_id").isin(pa.array(to_all, pa.string()))).slice(0, 1).to_pylist()
        if both:
            raise InputError(
                f"questions: question_id {both[0]['question_id']!r} is asked of every document and of "
                f"{both[0]['document_id']!r} by name too; give one of them another id"
            )


class _Column(Sequence):
    """A string column that ``bisect`` can look into, without turning it into a list."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> str:
        return self._column[index].as_py()


def _rows(table: pa.Table) -> list[Question]:
    columns = [name for name in Question._fields if name in table.column_names]
    return [Question(*row) for row in zip(*(table[name].to_pylist() for name in columns), strict=True)]


def _restore(to_all: list[Question], bound: pa.Table) -> Questions:
    questions = Questions.__new__(Questions)
    questions.to_all, questions._bound = to_all, bound
    return questions


FAULTS = {"null_text": "null as its text", "empty_text": "an empty text", "blank_text": "a text of white space only"}


def text_fault(text: str | None) -> str | None:
    """Why a text can neither be read nor asked: a key of FAULTS, or None if nothing is wrong with it."""
    if text is None:
        return "null_text"
    if not text:
        return "empty_text"
    return "blank_text" if text.isspace() else None


def reject(question_id: str, stage: str, reason: str, detail: str) -> dict[str, Any]:
    """The fields of records.REJECT."""
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
