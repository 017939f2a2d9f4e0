"""Tokens -> answers, in Ray actors with the model: Arrow tables in, part files out, one row per document.

This is the reject boundary: a document on which the model fails becomes rejects with the reason. An error that the GPU
does not recover from ends the process instead (crash_guard goes on from there).
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from qa_ray.answering.crash_guard import run_guarded
from qa_ray.answering.part_files import write_part
from qa_ray.answering.watchdog import REPORT_SECONDS, Watchdog
from qa_ray.errors import JobError, ModelError
from qa_ray.inference.reader import Reader
from qa_ray.inference.settings import InferenceSettings
from qa_ray.io.row_checks import failure, reject
from qa_ray.io.storage import configure_s3
from qa_ray.log import LOG
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import is_device_failure, use_threads
from qa_ray.model.proof import Proof, trust
from qa_ray.process import keep_memory, private_bytes
from qa_ray.schemas import PART, TOKENIZED, BatchSize, ReadableDocument, Tokens

NUM_WINDOWS = ("num_windows", "num_windows_read")


@dataclass(frozen=True)
class ActorSettings:
    """The settings of an AnswerDocuments actor."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    gate: str | None
    proof: Proof  # of the driver's copy of the model
    id_column: str
    inference: InferenceSettings
    device: str
    dtype: str
    forward: str
    batch_tokens: int | None
    num_threads: int
    parts: str  # the folder of the part files
    block_timeout_s: float | None


class AnswerDocuments:
    """An actor with the model: answers the questions of a block of documents and writes them as schemas.PART."""

    def __init__(self, settings: ActorSettings, stats: Any, crash_guard: Any):
        configure_s3(**settings.storage)
        # Ray calls __call__ in another thread than __init__. OpenMP workers of both threads would outnumber the cores
        # and wait for each other asleep: the forward pass then took 1.4 to 2 times as long.
        use_threads(1)
        keep_memory()
        if open_checkpoint(settings.model).fingerprint != settings.proof.fingerprint:
            raise ModelError(
                f"model {settings.model!r}: this worker's copy differs from the driver's; install the same version of "
                "qa-ray on every node, or give the model by a URI"
            )
        trust(settings.proof)
        self._reader = Reader(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            forward=settings.forward,  # pyright: ignore[reportArgumentType] (checked by the config)
            batch_tokens=settings.batch_tokens,
            threads=settings.num_threads,
            gate=settings.gate,
            **settings.inference.model_dump(),
        )
        self._settings, self._stats, self._crash_guard = settings, stats, crash_guard
        self._watchdog = Watchdog(settings.block_timeout_s)
        self._name = ray.get(stats.register.remote("answer"))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Writes a part file with the answers and rejects of each document; returns the number of documents."""
        use_threads(self._settings.num_threads)
        if abort_reason := ray.get(self._stats.abort_reason.remote()):
            raise JobError(abort_reason)
        questions = table["questions"].to_pylist()
        ids = [str(id_) for id_ in table[self._settings.id_column].to_pylist()]
        documents = [_readable(table, row, questions[row]) for row in range(table.num_rows)]
        rejects = table["rejects"].to_pylist()
        answers = run_guarded(
            self._crash_guard,
            self._watchdog,
            "logits",
            ids,
            batched=lambda: self._answer_batch(documents, questions, rejects),
            one_by_one=lambda row: self._answer_document(documents[row], questions[row], rejects[row], ids[row]),
            on_failure=lambda row, reason, detail: self._reject_document(questions[row], rejects[row], reason, detail),
        )
        rows = {
            "answers": [_with_questions(*row) for row in zip(questions, answers, strict=True)],
            "rejects": rejects,
            "num_tokens": [len(document.tokens) for document in documents],
            **{name: [sum(answer[name] for answer in row) for row in answers] for name in NUM_WINDOWS},
            "text_sha256": table["text_sha256"],
            "reused": table["reused"],
        }
        passed_through = table.drop_columns(TOKENIZED.names)
        part = pa.table(
            [*passed_through.columns, *pa.table(rows, PART).columns], [*passed_through.column_names, *PART.names]
        )
        if part.num_rows:
            with self._reader.model.stopwatch.stage("write"):
                write_part(self._settings.parts, part)
        self._stats.add_block.remote(
            self._name,
            table.num_rows,
            sum(map(len, answers)),
            sum(rows["num_windows"]) - sum(rows["num_windows_read"]),
            [reject for row in rejects for reject in row],
            self._reader.model.stopwatch.take(),
            private_bytes(),
        )
        return pa.table({"num_documents": [table.num_rows]})

    def _on_batch(self, size: BatchSize) -> None:
        self._watchdog.progress()
        self._stats.add_batch.remote(size)

    def _answer_batch(
        self, documents: list[ReadableDocument], questions: list[list[dict]], rejects: list[list[dict]]
    ) -> list[list[dict[str, Any]]]:
        """The answers of each document; if the model fails on one, only that one is rejected."""
        try:
            return self._reader.read(documents, self._settings.inference, self._on_batch)
        except Exception as error:  # the reject boundary
            _end_process_if_gpu_failed(error)
        # Not in the except clause, where the error still holds the batch's tensors: find the document that caused it.
        return [self._answer_document(*row) for row in zip(documents, questions, rejects, strict=True)]

    def _answer_document(
        self, document: ReadableDocument, questions: list[dict], rejects: list[dict], alone: str | None = None
    ) -> list[dict[str, Any]]:
        """The answers of the document; if the GPU fails on it ``alone``, by this id, the crash guard gets the error."""
        try:
            return self._reader.read([document], self._settings.inference, self._on_batch)[0]
        except Exception as error:  # the reject boundary
            if alone is not None and is_device_failure(error):
                self._report_error(alone, error)
            _end_process_if_gpu_failed(error)
            rejects.extend(failure(question["question_id"], "logits", error) for question in questions)
            return []

    def _report_error(self, id_: str, error: Exception) -> None:
        """Tells the crash guard the first line of the error; the others of CUDA's are advice on debugging."""
        with suppress(RayError):  # the process ends in any case
            recorded = self._crash_guard.add_error.remote("logits", id_, str(error).splitlines()[0][:500])
            ray.get(recorded, timeout=REPORT_SECONDS)

    def _reject_document(
        self, questions: list[dict], rejects: list[dict], reason: str, detail: str
    ) -> list[dict[str, Any]]:
        rejects.extend(reject(question["question_id"], "logits", reason, detail) for question in questions)
        return []


def _end_process_if_gpu_failed(error: Exception) -> None:
    """Ends this process if ``error`` left its GPU unusable: every later document would be rejected, too.

    Ray starts another process, in which the crash guard finds the document that caused it.
    """
    if is_device_failure(error):
        LOG.critical("the GPU failed, so this process ends and another one goes on: %s", error)
        os._exit(1)


def _with_questions(questions: list[dict], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"question_id": q["question_id"], "question": q["question"]} | a for q, a in zip(questions, answers)]


def _readable(table: pa.Table, row: int, questions: list[dict]) -> ReadableDocument:
    columns = (table[name][row].values for name in ("token_ids", "start_char", "stop_char"))
    tokens = Tokens(*(column.to_numpy() for column in columns))
    return ReadableDocument(table["text"][row].as_py(), tokens, [np.array(q["token_ids"], np.int32) for q in questions])
