"""Tokens -> answers, in Ray's actors with the model: Arrow tables in, parts out, one row a document.

Here is the boundary of rejects: a document that makes the model fail becomes a row that says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from qa_ray.answering.crash_guard import run_guarded
from qa_ray.answering.part_files import write_part
from qa_ray.errors import JobError, ModelError
from qa_ray.inference.reader import Reader
from qa_ray.inference.settings import InferenceSettings
from qa_ray.io.row_checks import failure, reject
from qa_ray.io.storage import configure_s3
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import use_threads
from qa_ray.process import keep_memory, private_bytes
from qa_ray.schemas import PART, TOKENIZED, BatchSize, ReadableDocument, Tokens


@dataclass(frozen=True)
class ActorSettings:
    """What an AnswerDocuments actor needs to know."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    model_fingerprint: str
    id_column: str
    reading: InferenceSettings
    device: str
    dtype: str
    forward: str
    batch_tokens: int | None
    num_threads: int
    parts: str  # where to write


class AnswerDocuments:
    """An actor with the model: answers the questions of a block of documents, and writes them as schemas.PART."""

    def __init__(self, settings: ActorSettings, stats: Any, crash_guard: Any):
        configure_s3(**settings.storage)
        # Ray calls __call__ in another thread than this one. Two threads with OpenMP workers of their own would be more
        # than the cores, so that all wait asleep for each other: the forward pass then took 1.4 to 2 times as long.
        use_threads(1)
        keep_memory()
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
        self._settings, self._stats, self._crash_guard = settings, stats, crash_guard
        self._name = ray.get(stats.register.remote("answer"))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Writes the block's documents, each with all its answers and rejects; tells how many they are."""
        use_threads(self._settings.num_threads)
        if abort_reason := ray.get(self._stats.abort_reason.remote()):
            raise JobError(abort_reason)
        asked = table["questions"].to_pylist()
        documents = [_readable(table, row, asked[row]) for row in range(table.num_rows)]
        rejects = table["rejects"].to_pylist()
        answers = run_guarded(
            self._crash_guard,
            "logits",
            [str(id_) for id_ in table[self._settings.id_column].to_pylist()],
            together=lambda: self._answers(documents, asked, rejects),
            alone=lambda row: self._answers_alone(documents[row], asked[row], rejects[row]),
            give_up=lambda row, detail: self._give_up(asked[row], rejects[row], detail),
        )
        num_windows = [sum(answer["num_windows"] for answer in found) for found in answers]
        rows = {
            "answers": [_with_questions(*row) for row in zip(asked, answers, strict=True)],
            "rejects": rejects,
            "num_tokens": [len(document.tokens) for document in documents],
            "num_windows": num_windows,
        }
        kept = table.drop_columns(TOKENIZED.names)
        part = pa.table([*kept.columns, *pa.table(rows, PART).columns], [*kept.column_names, *PART.names])
        if part.num_rows:
            with self._reader.model.stopwatch.stage("write"):
                write_part(self._settings.parts, part)
        self._stats.add_block.remote(
            self._name,
            table.num_rows,
            sum(map(len, answers)),
            [reject for row in rejects for reject in row],
            self._reader.model.stopwatch.take(),
            private_bytes(),
        )
        return pa.table({"num_documents": [table.num_rows]})

    def _on_batch(self, size: BatchSize) -> None:
        self._stats.add_batch.remote(size)

    def _answers(
        self, documents: list[ReadableDocument], asked: list[list[dict]], rejects: list[list[dict]]
    ) -> list[list[dict[str, Any]]]:
        """The answers of each document; one that makes the model fail is rejected alone."""
        try:
            return self._reader.read(documents, self._settings.reading, self._on_batch)
        except Exception:  # the reject boundary: find the culprit
            return [self._answers_alone(*row) for row in zip(documents, asked, rejects, strict=True)]

    def _answers_alone(
        self, document: ReadableDocument, asked: list[dict], rejects: list[dict]
    ) -> list[dict[str, Any]]:
        try:
            return self._reader.read([document], self._settings.reading, self._on_batch)[0]
        except Exception as error:  # the reject boundary
            rejects.extend(failure(question["question_id"], "logits", error) for question in asked)
            return []

    def _give_up(self, asked: list[dict], rejects: list[dict], detail: str) -> list[dict[str, Any]]:
        rejects.extend(reject(question["question_id"], "logits", "process_died", detail) for question in asked)
        return []


def _with_questions(asked: list[dict], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"question_id": q["question_id"], "question": q["question"]} | fields for q, fields in zip(asked, found)]


def _readable(table: pa.Table, row: int, asked: list[dict]) -> ReadableDocument:
    columns = (table[name][row].values for name in ("token_ids", "start_char", "stop_char"))
    tokens = Tokens(*(column.to_numpy() for column in columns))
    return ReadableDocument(table["text"][row].as_py(), tokens, [np.array(q["token_ids"], np.int32) for q in asked])
