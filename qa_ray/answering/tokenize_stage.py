"""Documents with their questions -> tokens, in Ray's CPU workers: Arrow in, Arrow out, one row a document."""

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
    """What TokenizeDocuments needs to know; what is large lies in Ray's store, one copy a machine."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    questions: ray.ObjectRef
    finished: ray.ObjectRef  # hashes of the ids of documents that have a part, sorted
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
            tokenized = self._tokenized(table)
        self._stats.add_tokenized.remote(self._name, tokenized.num_rows, self._stopwatch.take())
        return tokenized

    def _tokenized(self, table: pa.Table) -> pa.Table:
        settings = self._settings
        table = table.filter(pa.array(~np.isin(hash_ids(table[settings.id_column]), self._finished)))
        ids = [str(id_) for id_ in table[settings.id_column].to_pylist()]
        checked = [
            check(id_, text, self._questions.of(id_))
            for id_, text in zip(ids, table[settings.text_column], strict=True)
        ]
        rows = run_guarded(
            self._crash_guard,
            "tokens",
            ids,
            together=lambda: [self._row(document) for document in checked],
            alone=lambda row: self._row(checked[row]),
            give_up=lambda row, detail: _all_rejected(checked[row], "process_died", detail),
        )
        kept = table.drop_columns([settings.text_column])
        tokenized = pa.Table.from_pylist(rows, TOKENIZED)
        return pa.table([*kept.columns, *tokenized.columns], [*kept.column_names, *TOKENIZED.names])

    def _row(self, checked: CheckedDocument) -> dict[str, Any]:
        try:
            return _tokens_and_questions(checked, self._tokenizer, self._settings)
        except Exception as error:  # the reject boundary
            return _all_rejected(checked, type(error).__name__, str(error)[:1000])


def _tokens_and_questions(checked: CheckedDocument, tokenizer: Tokenizer, settings: TokenizeSettings) -> dict[str, Any]:
    tokens = tokenizer(checked.text) if checked.questions else Tokens(*(np.empty(0, np.int32) for _ in range(3)))
    questions, rejects = [], list(checked.rejects)
    limit = settings.max_question_tokens
    for asked in checked.questions:
        ids = tokenizer.question(asked.question or "")
        if not len(tokens):
            detail = "the document has no token that the model knows of"
            rejects.append(reject(asked.question_id, "tokens", "no_tokens", detail))
        elif len(ids) > limit and settings.long_questions == "reject":
            rejects.append(reject(asked.question_id, "tokens", "question_too_long", too_long(len(ids), limit)))
        else:
            questions.append({"question_id": asked.question_id, "question": asked.question, "token_ids": ids[:limit]})
    return {
        "text": checked.text,
        "token_ids": tokens.ids_T,
        "start_char": tokens.start_char_T,
        "stop_char": tokens.stop_char_T,
        "questions": questions,
        "rejects": rejects,
    }


def _all_rejected(checked: CheckedDocument, reason: str, detail: str) -> dict[str, Any]:
    rejects = [reject(question.question_id, "tokens", reason, detail) for question in checked.questions]
    return {
        "text": "",
        "token_ids": [],
        "start_char": [],
        "stop_char": [],
        "questions": [],
        "rejects": checked.rejects + rejects,
    }
