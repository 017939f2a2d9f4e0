"""Documents with their questions -> tokens, in Ray actors on CPUs: Arrow tables in and out, one row per document."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from qa_ray.answering.crash_guard import run_guarded
from qa_ray.answering.previous import take_known
from qa_ray.answering.watchdog import Watchdog
from qa_ray.io.id_hashes import hash_ids, is_in
from qa_ray.io.question_lists import QuestionLists
from qa_ray.io.row_checks import CheckedDocument, check, only_these, reject, too_long
from qa_ray.io.storage import configure_s3
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.process import Stopwatch
from qa_ray.schemas import TOKENIZED, Tokens


@dataclass(frozen=True)
class TokenizeSettings:
    """The settings of a TokenizeDocuments actor; what is large is in Ray's object store, one copy per node."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    questions: ray.ObjectRef
    only: ray.ObjectRef | None  # a QuestionTable of the pairs to ask; None: all
    previous: ray.ObjectRef | None  # a PairIndex of the pairs that have an answer; None: no such pair
    finished: ray.ObjectRef  # hashes of the ids of the documents in part files, sorted
    hash_key: str
    id_column: str
    text_column: str
    lists: QuestionLists | None
    max_question_tokens: int
    long_questions: str
    block_timeout_s: float | None


class TokenizeDocuments:
    """An actor with the tokenizer and all questions."""

    def __init__(self, settings: TokenizeSettings, stats: Any, crash_guard: Any):
        configure_s3(**settings.storage)
        self._settings, self._stats, self._crash_guard = settings, stats, crash_guard
        self._watchdog = Watchdog(settings.block_timeout_s)
        self._name, self._stopwatch = ray.get(stats.register.remote("tokenize")), Stopwatch()
        self._questions = ray.get(settings.questions)
        self._only = ray.get(settings.only) if settings.only else None
        self._previous = ray.get(settings.previous) if settings.previous else None
        self._finished = ray.get(settings.finished)
        self._tokenizer = Tokenizer(open_checkpoint(settings.model).folder)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Attaches each document's questions, checks both, and tokenizes: passed-through columns, then TOKENIZED."""
        with self._stopwatch.stage("tokenize"):
            tokenized = self._tokenize(table)
        self._stats.add_tokenized.remote(self._name, tokenized.num_rows, self._stopwatch.take())
        return tokenized

    def _tokenize(self, table: pa.Table) -> pa.Table:
        settings = self._settings
        is_finished = is_in(hash_ids(table[settings.id_column], settings.hash_key), self._finished)
        table = table.filter(pa.array(~is_finished))
        ids = [str(id_) for id_ in table[settings.id_column].to_pylist()]
        listed = table[settings.lists.column] if settings.lists else [None] * len(ids)
        documents = [self._checked(*row) for row in zip(ids, table[settings.text_column], listed, strict=True)]
        reused = None
        if self._previous is not None:
            documents, reused = take_known(self._previous, ids, documents)
        rows = run_guarded(
            self._crash_guard,
            self._watchdog,
            "tokens",
            ids,
            batched=lambda: [self._row(document) for document in documents],
            one_by_one=lambda row: self._row(documents[row]),
            on_failure=lambda row, reason, detail: _rejected_row(documents[row], reason, detail),
        )
        passed_through = table.drop_columns([settings.text_column, *(settings.lists[:1] if settings.lists else ())])
        tokenized = pa.Table.from_pylist(rows, TOKENIZED)
        if reused is not None:
            tokenized = tokenized.set_column(TOKENIZED.get_field_index("reused"), TOKENIZED.field("reused"), reused)
        return pa.table([*passed_through.columns, *tokenized.columns], [*passed_through.column_names, *TOKENIZED.names])

    def _checked(self, document_id: str, text: pa.Scalar, listed: pa.Scalar | None) -> CheckedDocument:
        document = check(document_id, text, self._questions.of(document_id), listed)
        if self._only is None:
            return document
        return only_these(document, {question.question_id for question in self._only.of(document_id)})

    def _row(self, document: CheckedDocument) -> dict[str, Any]:
        self._watchdog.progress()  # the row before is done
        try:
            return _tokenized_row(document, self._tokenizer, self._settings)
        except Exception as error:  # the reject boundary
            return _rejected_row(document, type(error).__name__, str(error)[:1000])


def _tokenized_row(document: CheckedDocument, tokenizer: Tokenizer, settings: TokenizeSettings) -> dict[str, Any]:
    """The fields of TOKENIZED; questions that are too long, or have no known word to answer from, become rejects."""
    tokens = tokenizer(document.text) if document.questions else Tokens(*(np.empty(0, np.int32) for _ in range(3)))
    questions, rejects = [], list(document.rejects)
    limit = settings.max_question_tokens
    document_fault = tokenizer.document_fault(tokens) if document.questions else None
    for question in document.questions:
        ids = tokenizer.question(question.question or "")
        if fault := document_fault or tokenizer.question_fault(ids):
            rejects.append(reject(question.question_id, "tokens", *fault))
        elif len(ids) > limit and settings.long_questions == "reject":
            rejects.append(reject(question.question_id, "tokens", "question_too_long", too_long(len(ids), limit)))
        else:
            questions.append(
                {"question_id": question.question_id, "question": question.question, "token_ids": ids[:limit]}
            )
    return {
        "text": document.text,
        "text_sha256": hashlib.sha256(document.text.encode()).hexdigest() if document.questions else None,
        "token_ids": tokens.ids_T,
        "start_char": tokens.start_char_T,
        "stop_char": tokens.stop_char_T,
        "questions": questions,
        "rejects": rejects,
    }


def _rejected_row(document: CheckedDocument, reason: str, detail: str) -> dict[str, Any]:
    """The fields of TOKENIZED for a document whose questions are all rejected."""
    rejects = [reject(question.question_id, "tokens", reason, detail) for question in document.questions]
    return {
        "text": "",
        "text_sha256": None,
        "token_ids": [],
        "start_char": [],
        "stop_char": [],
        "questions": [],
        "rejects": document.rejects + rejects,
    }
