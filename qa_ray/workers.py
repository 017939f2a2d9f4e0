"""What runs in Ray's worker processes: Arrow tables in, Arrow tables out, one row a document.

Here is the boundary of rejects: whatever goes wrong with one document becomes a row that says so.
"""

import resource
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from qa_ray.checkpoints import open_checkpoint
from qa_ray.documents import CheckedDocument, Questions, check, reject
from qa_ray.errors import ModelError
from qa_ray.progress import Counts
from qa_ray.reader import ReadableDocument, Reader, ReadingSettings, use_threads
from qa_ray.records import PART, TOKENISED, Tokens
from qa_ray.tokens import Tokeniser


@dataclass(frozen=True)
class TokeniseSettings:
    """What tokenise_documents needs to know; ``questions`` is an object of Ray's store, one copy a machine."""

    model: str
    questions: ray.ObjectRef
    id_column: str
    text_column: str
    max_question_tokens: int
    long_questions: str


@dataclass(frozen=True)
class ActorSettings:
    """What an AnswerDocuments actor needs to know."""

    model: str
    model_fingerprint: str
    reading: ReadingSettings
    device: str
    dtype: str
    forward: str
    batch_tokens: int | None
    num_threads: int


class Progress:
    """The actor that counts; the driver asks it."""

    def __init__(self):
        self._counts = Counts()

    def add_windows(self, windows: int) -> None:
        """Notes a batch that went through the model."""
        self._counts.windows += windows

    def add_block(self, documents: int, rejects: int, peak_bytes: int) -> None:
        """Notes a finished block."""
        self._counts.documents += documents
        self._counts.rejects += rejects
        self._counts.peak_actor_bytes = max(self._counts.peak_actor_bytes, peak_bytes)

    def counts(self) -> Counts:
        """All blocks so far."""
        return self._counts


def tokenise_documents(table: pa.Table, settings: TokeniseSettings) -> pa.Table:
    """Attaches each document's questions, checks both, and tokenises: the passed-through columns, then TOKENISED."""
    questions, tokeniser = _questions(settings.questions), _tokeniser(settings.model)
    rows = []
    for document_id, text in zip(table[settings.id_column], table[settings.text_column], strict=True):
        key = str(document_id.as_py())
        checked = check(key, text, questions.of(key))
        try:
            rows.append(_tokenised(checked, tokeniser, settings))
        except Exception as error:  # the reject boundary
            rows.append(_all_rejected(checked, "tokens", error))
    kept = table.drop_columns([settings.text_column])
    return pa.table(
        [*kept.columns, *pa.Table.from_pylist(rows, TOKENISED).columns], [*kept.column_names, *TOKENISED.names]
    )


@lru_cache(maxsize=1)
def _questions(reference: ray.ObjectRef) -> Questions:
    return ray.get(reference)


@lru_cache(maxsize=1)
def _tokeniser(model: str) -> Tokeniser:
    return Tokeniser(open_checkpoint(model).folder)


def _tokenised(checked: CheckedDocument, tokeniser: Tokeniser, settings: TokeniseSettings) -> dict[str, Any]:
    tokens = tokeniser(checked.text) if checked.questions else Tokens(*(np.empty(0, np.int32) for _ in range(3)))
    questions, rejects = [], list(checked.rejects)
    limit = settings.max_question_tokens
    for asked in checked.questions:
        ids = tokeniser.question(asked.question or "")
        if not len(tokens):
            detail = "the document has no token that the model knows of"
            rejects.append(reject(asked.question_id, "tokens", "no_tokens", detail))
        elif len(ids) > limit and settings.long_questions == "reject":
            detail = f"{len(ids)} tokens, more than windows.max_question_tokens={limit}; raise it or truncate"
            rejects.append(reject(asked.question_id, "tokens", "question_too_long", detail))
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


def _all_rejected(checked: CheckedDocument, stage: str, error: Exception) -> dict[str, Any]:
    rejects = [_failure(question.question_id, stage, error) for question in checked.questions]
    return {
        "text": "",
        "token_ids": [],
        "start_char": [],
        "stop_char": [],
        "questions": [],
        "rejects": checked.rejects + rejects,
    }


def _failure(question_id: str, stage: str, error: Exception) -> dict[str, Any]:
    return reject(question_id, stage, type(error).__name__, str(error)[:1000])


class AnswerDocuments:
    """An actor with the model: answers the questions of a block of documents, as records.PART."""

    def __init__(self, settings: ActorSettings, progress: Any):
        use_threads(settings.num_threads)
        if open_checkpoint(settings.model).fingerprint != settings.model_fingerprint:
            raise ModelError(
                f"model {settings.model!r}: this worker's copy differs from the driver's; install the same version of "
                "qa-ray on every node, or give the model by a URI"
            )
        self._reader = Reader(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            forward=settings.forward,  # pyright: ignore[reportArgumentType] (checked by the config)
            batch_tokens=settings.batch_tokens,
        )
        self._reading = settings.reading
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """The block's documents, each with all its answers and rejects."""
        asked = table["questions"].to_pylist()
        documents = [_readable(table, row, asked[row]) for row in range(table.num_rows)]
        rejects = table["rejects"].to_pylist()
        answers = self._answers(documents, asked, rejects)
        num_windows = [sum(answer["num_windows"] for answer in found) for found in answers]
        rows = {
            "answers": answers,
            "rejects": rejects,
            "num_tokens": [len(document.tokens) for document in documents],
            "num_windows": num_windows,
        }
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._progress.add_block.remote(table.num_rows, sum(map(len, rejects)), peak_bytes)
        kept = table.drop_columns(TOKENISED.names)
        return pa.table([*kept.columns, *pa.table(rows, PART).columns], [*kept.column_names, *PART.names])

    def _answers(
        self, documents: list[ReadableDocument], asked: list[list[dict]], rejects: list[list[dict]]
    ) -> list[list[dict[str, Any]]]:
        """The answers of each document; one that makes the model fail is rejected alone."""
        try:
            found = self._reader.read(documents, self._reading, self._progress.add_windows.remote)
        except Exception:  # the reject boundary: find the culprit
            found = [self._answers_alone(*row) for row in zip(documents, asked, rejects, strict=True)]
        return [
            [
                {"question_id": q["question_id"], "question": q["question"]} | fields
                for q, fields in zip(questions, answers)
            ]
            for questions, answers in zip(asked, found, strict=True)
        ]

    def _answers_alone(
        self, document: ReadableDocument, asked: list[dict], rejects: list[dict]
    ) -> list[dict[str, Any]]:
        try:
            return self._reader.read([document], self._reading, self._progress.add_windows.remote)[0]
        except Exception as error:  # the reject boundary
            rejects.extend(_failure(question["question_id"], "logits", error) for question in asked)
            return []


def _readable(table: pa.Table, row: int, asked: list[dict]) -> ReadableDocument:
    columns = (table[name][row].values for name in ("token_ids", "start_char", "stop_char"))
    tokens = Tokens(*(column.to_numpy() for column in columns))
    return ReadableDocument(table["text"][row].as_py(), tokens, [np.array(q["token_ids"], np.int32) for q in asked])
