"""Detects documents that crash or block workers, by tracking work that was started and never finished.

Ray restarts a dead actor and gives it the same block again, forever. So the actors report to one CrashGuard what they
begin and end. If a document of a block was begun before and never ended, the block is processed one document at a time;
a document that was being processed alone at MAX_CRASHES crashes is rejected, and its neighbors are answered. A process
that dies for another reason (a preempted node) costs its block the batching, and nothing else.

A process without progress is ended by its Watchdog, and its block goes the same way. A document that made no progress
alone is rejected at once: other than a death, which may have another cause, a time-out is of the document's own making,
and each further attempt would take as long. It has cost two time-outs: one in its block, one alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import ray

from qa_ray.answering.watchdog import REPORT_SECONDS, Watchdog

MAX_CRASHES = 3

Result = TypeVar("Result")


class CrashGuard:
    """An actor that counts, for each (stage, document), the times it was begun and not ended, in a batch or alone."""

    def __init__(self):
        self._open_batches: Counter[tuple[str, str]] = Counter()
        self._open_documents: Counter[tuple[str, str]] = Counter()
        self._timed_out: set[tuple[str, str]] = set()
        self._last_errors: dict[tuple[str, str], str] = {}

    def begin_batch(self, stage: str, ids: Sequence[str]) -> bool:
        """Records that a batch was begun; whether one of its documents was begun before and never ended."""
        is_suspect = any(self._open_batches[stage, id_] for id_ in ids)
        self._open_batches.update((stage, id_) for id_ in ids)
        return is_suspect

    def end_batch(self, stage: str, ids: Sequence[str]) -> None:
        """Records that a batch was processed."""
        for id_ in ids:
            self._open_batches.pop((stage, id_), None)
            self.end_document(stage, id_)

    def begin_document(self, stage: str, id_: str) -> str | None:
        """Records that a document is begun alone; if it must not be begun, the reason to reject it."""
        if (stage, id_) in self._timed_out:
            return "timed_out"
        if self._open_documents[stage, id_] == MAX_CRASHES:
            return "process_died"
        self._open_documents[stage, id_] += 1
        return None

    def time_out_document(self, stage: str, id_: str) -> None:
        """Records that a document that was begun alone made no progress."""
        self._timed_out.add((stage, id_))

    def add_error(self, stage: str, id_: str, error: str) -> None:
        """Records the error for which a process ends itself while it processes a document."""
        self._last_errors[stage, id_] = error

    def last_error(self, stage: str, id_: str) -> str:
        """The error of the document's last process that ended itself; empty if none is known."""
        return self._last_errors.get((stage, id_), "")

    def end_document(self, stage: str, id_: str) -> None:
        """Records that a document was processed alone."""
        self._open_documents.pop((stage, id_), None)
        self._timed_out.discard((stage, id_))
        self._last_errors.pop((stage, id_), None)


def run_guarded(
    guard: Any,
    watchdog: Watchdog,
    stage: str,
    ids: Sequence[str],
    *,
    batched: Callable[[], list[Result]],
    one_by_one: Callable[[int], Result],
    on_failure: Callable[[int, str, str], Result],
) -> list[Result]:
    """One result per document: of ``batched()``, or of ``one_by_one(row)`` if the batch ended a process before.

    ``on_failure(row, reason, detail)`` gives the result of a document that must not be processed again. ``guard`` is
    the handle of a CrashGuard actor. Both calls tell the ``watchdog`` of their progress.
    """
    if not ray.get(guard.begin_batch.remote(stage, ids)):
        with watchdog.watching():
            results = batched()
    else:
        results = []
        for row, id_ in enumerate(ids):
            reason: Any = ray.get(guard.begin_document.remote(stage, id_))
            if reason:
                error: Any = ray.get(guard.last_error.remote(stage, id_))
                results.append(on_failure(row, reason, _detail(reason, id_, watchdog.timeout_s, error)))
                continue
            with watchdog.watching(report=partial(_report_time_out, guard, stage, id_)):
                results.append(one_by_one(row))
            guard.end_document.remote(stage, id_)
    guard.end_batch.remote(stage, ids)
    return results


def _report_time_out(guard: Any, stage: str, id_: str) -> None:
    ray.get(guard.time_out_document.remote(stage, id_), timeout=REPORT_SECONDS)


def _detail(reason: str, id_: str, timeout_s: float | None, error: str) -> str:
    limit = f"limits.block_timeout_s={timeout_s or 0:g} seconds"
    if reason == "timed_out":
        return (
            f"document {id_!r} made no progress for {limit} while it was processed alone; if it is only slow, raise "
            "the limit and retry the rejects"
        )
    died = f"the worker process died {MAX_CRASHES} times while it processed document {id_!r} alone"
    if error:
        return f"{died}; its last error: {error}"
    causes = "a crash in native code or of the GPU, or too little memory"
    if timeout_s is not None:
        causes += f", or native code that kept Python from running for {limit}"
    return f"{died}: {causes}"
