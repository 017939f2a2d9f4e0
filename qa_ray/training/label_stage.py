"""Documents with gold answers -> tokens and labels, in Ray's CPU workers: Arrow in, Arrow out, one row per document.

Questions that cannot be used for training become rejects, with the reason. For every gold answer, the row records how
it was located in the text, or why not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from qa_ray.evaluation.predictions import Gold
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids
from qa_ray.io.row_checks import Fault, check, reject, too_long
from qa_ray.io.storage import configure_s3
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import LABELED, Question, ReadableDocument, Tokens
from qa_ray.training.labels import locate_gold
from qa_ray.training.sampling import LabeledDocument, LabeledQuestion
from qa_ray.training.validation import ValidationDocument


@dataclass(frozen=True)
class LabelSettings:
    """The plan's part for the CPU workers."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    questions: ray.ObjectRef
    id_column: str
    text_column: str
    max_question_tokens: int
    long_questions: str
    held_out: float  # the share of documents for validation, chosen by the hash of their ids


class LabelDocuments:
    """An actor that holds the tokenizer and all questions."""

    def __init__(self, settings: LabelSettings):
        configure_s3(**settings.storage)
        self._settings = settings
        self._questions = ray.get(settings.questions)
        self._tokenizer = Tokenizer(open_checkpoint(settings.model, needs_head=False).folder)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The documents of the table, labeled, as schemas.LABELED."""
        ids, texts = table[self._settings.id_column], table[self._settings.text_column]
        is_held_out = hash_ids(ids, HASH_KEYS[0]) < self._settings.held_out * 2.0**64
        rows = [
            self._row(str(document_id), text, bool(held_out))
            for document_id, text, held_out in zip(ids.to_pylist(), texts, is_held_out, strict=True)
        ]
        return pa.Table.from_pylist(rows, LABELED)

    def _row(self, document_id: str, text: pa.Scalar, is_held_out: bool) -> dict[str, Any]:
        checked = check(document_id, text, self._questions.of(document_id))
        tokens = self._tokenizer(checked.text if checked.questions else "")
        questions, rejects, gold_outcomes, seen = [], list(checked.rejects), [], set()
        document_fault = self._tokenizer.document_fault(tokens) if checked.questions else None
        for question in checked.questions:
            labeled = document_fault or self._label(question, checked.text, tokens, seen, gold_outcomes)
            if isinstance(labeled, Fault):
                rejects.append(reject(question.question_id, "labels", *labeled))
            else:
                questions.append(labeled)
        return {
            "document_id": document_id,
            "is_held_out": is_held_out,
            "text": checked.text,
            "token_ids": tokens.ids_T,
            "start_char": tokens.start_char_T,
            "stop_char": tokens.stop_char_T,
            "questions": questions,
            "rejects": rejects,
            "gold_outcomes": gold_outcomes,
        }

    def _label(
        self, question: Question, text: str, tokens: Tokens, seen: set[Any], gold_outcomes: list[str]
    ) -> dict[str, Any] | Fault:
        """The fields of schemas.LABELED_QUESTION, or why the question cannot be used.

        Adds the question to ``seen``, and how each of its gold answers was located, or why not, to ``gold_outcomes``.
        """
        if question.answers is None:
            return Fault("no_gold", "the gold answers are unknown (null); for a question without an answer, give []")
        token_ids = self._tokenizer.question(question.question or "")
        if fault := self._tokenizer.question_fault(token_ids):
            return fault
        limit = self._settings.max_question_tokens
        if len(token_ids) > limit and self._settings.long_questions == "reject":
            return Fault("question_too_long", too_long(len(token_ids), limit))
        answers, outcomes, fault = locate_gold(text, tokens, question.answers)
        gold_outcomes += outcomes
        if fault:
            return fault
        if (key := (question.question, frozenset(answers))) in seen:
            return Fault("duplicate", "the document has the same question with the same answers already")
        seen.add(key)
        return {
            "question_id": question.question_id,
            "question": question.question,
            "token_ids": token_ids[:limit],
            "answers": [{"start_token": start, "stop_token": stop} for start, stop in sorted(answers)],
            "gold": [gold["text"] for gold in question.answers if (gold["text"] or "").strip()],
        }


def training_documents(table: pa.Table) -> pa.Table:
    """The documents of schemas.LABELED that have questions and are not held out, with the columns for training."""
    rows = _with_questions(table).filter(~pc.field("is_held_out"))
    return rows.select(["document_id", "token_ids", "questions"])


def validation_documents(table: pa.Table) -> pa.Table:
    """The documents of schemas.LABELED that have questions and are held out, with the columns for validation."""
    rows = _with_questions(table).filter(pc.field("is_held_out"))
    return rows.select(["document_id", "text", "token_ids", "start_char", "stop_char", "questions"])


def _with_questions(table: pa.Table) -> pa.Table:
    return table.filter(pc.list_value_length(table["questions"]).to_numpy() > 0)  # pyright: ignore[reportAttributeAccessIssue]


def read_labeled(tables: Sequence[pa.Table]) -> list[LabeledDocument]:
    """Tables of ``training_documents`` as documents, sorted by id; token ids are views of the tables."""
    documents: list[tuple[str, LabeledDocument]] = []
    for table in tables:
        for row in range(table.num_rows):
            token_ids = table["token_ids"][row].values.to_numpy()
            questions = [
                LabeledQuestion(np.array(question["token_ids"], np.int32), _answers(question["answers"]))
                for question in table["questions"][row].as_py()
            ]
            documents.append((table["document_id"][row].as_py(), LabeledDocument(token_ids, questions)))
    return [document for _, document in sorted(documents, key=lambda pair: pair[0])]


def read_validation(tables: Sequence[pa.Table]) -> list[ValidationDocument]:
    """Tables of ``validation_documents`` as documents, sorted by id."""
    documents: list[tuple[str, ValidationDocument]] = []
    for table in tables:
        for row in table.to_pylist():
            tokens = Tokens(*(np.array(row[name], np.int32) for name in ("token_ids", "start_char", "stop_char")))
            questions = row["questions"]
            readable = ReadableDocument(row["text"], tokens, [np.array(q["token_ids"], np.int32) for q in questions])
            golds = [Gold(row["document_id"], q["question_id"], q["gold"]) for q in questions]
            document = ValidationDocument(readable, golds, [q["question"] for q in questions])
            documents.append((row["document_id"], document))
    return [document for _, document in sorted(documents, key=lambda pair: pair[0])]


def _answers(rows: list[dict[str, int]]) -> np.ndarray:
    return np.array([(row["start_token"], row["stop_token"]) for row in rows], dtype=np.int64).reshape(-1, 2)
