"""Documents with their questions -> tokens, in Ray actors on CPUs: Arrow tables in and out, one row per document."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from qa_ray.answering.crash_guard import run_guarded
from qa_ray.io.question_table import hash_ids
from qa_ray.io.row_checks import CheckedDocument, check, reject, too_long
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
    finished: ray.ObjectRef  # hashes of the ids of the documents in part files, sorted
    id_column: str
    text_column: str
    max_question_tokens: int
    long_questions: str


class TokenizeDocuments:
    """An actor with the tokenizer and all questions."""

    def __init__(self, settings: TokenizeSettings, stats: Any, crash_guard: Any):
        configure_s3(**settings.storage)
        self._settings, self._stats, self._crash_guard = settings, stats, crash_guard
        self._name, self._stopwatch = ray.get(stats.register.remote("tokenize")), Stopwatch()
        self._questions = ray.get(settings.questions)
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
        table = table.filter(pa.array(~np.isin(hash_ids(table[settings.id_column]), self._finished)))
        ids = [str(id_) for id_ in table[settings.id_column].to_pylist()]
        documents = [
            check(id_, text, self._questions.of(id_))
            for id_, text in zip(ids, table[settings.text_column], strict=True)
        ]
        rows = run_guarded(
            self._crash_guard,
            "tokens",
            ids,
            batched=lambda: [self._row(document) for document in documents],
            one_by_one=lambda row: self._row(documents[row]),
            on_crash=lambda row, detail: _rejected_row(documents[row], "process_died", detail),
        )
        passed_through = table.drop_columns([settings.text_column])
        tokenized = pa.Table.from_pylist(rows, TOKENIZED)
        return pa.table([*passed_through.columns, *tokenized.columns], [*passed_through.column_names, *TOKENIZED.names])

    def _row(self, document: CheckedDocument) -> dict[str, Any]:
        try:
            return _tokenized_row(document, self._tokenizer, self._settings)
        except Exception as error:  # the reject boundary
            return _rejected_row(document, type(error).__name__, str(error)[:1000])


def _tokenized_row(document: CheckedDocument, tokenizer: Tokenizer, settings: TokenizeSettings) -> dict[str, Any]:
    """The fields of TOKENIZED; questions that are too long or have no token to answer from become rejects."""
    tokens = tokenizer(document.text) if document.questions else Tokens(*(np.empty(0, np.int32) for _ in range(3)))
    questions, rejects = [], list(document.rejects)
    limit = settings.max_question_tokens
    for question in document.questions:
        ids = tokenizer.question(question.question or "")
        if not len(tokens):
            detail = "the tokenizer finds no token in the document"
            rejects.append(reject(question.question_id, "tokens", "no_tokens", detail))
        elif len(ids) > limit and settings.long_questions == "reject":
            rejects.append(reject(question.question_id, "tokens", "question_too_long", too_long(len(ids), limit)))
        else:
            questions.append(
                {"question_id": question.question_id, "question": question.question, "token_ids": ids[:limit]}
            )
    return {
        "text": document.text,
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
        "token_ids": [],
        "start_char": [],
        "stop_char": [],
        "questions": [],
        "rejects": document.rejects + rejects,
    }
