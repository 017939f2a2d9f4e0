"""Detects documents that crash workers, by tracking work that was started and never finished.

Ray restarts a dead actor and gives it the same block again, forever. So the actors report to one CrashGuard what they
begin and end. If a document of a block was begun before and never ended, the block is processed one document at a time;
a document that was being processed alone at MAX_CRASHES crashes is rejected, and its neighbors are answered. A process
that dies for another reason (a preempted node) costs its block the batching, and nothing else.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

MAX_CRASHES = 3

Result = TypeVar("Result")


class CrashGuard:
    """An actor that counts, for each (stage, document), the times it was begun and not ended, in a batch or alone."""

    def __init__(self):
        self._open_batches: Counter[tuple[str, str]] = Counter()
        self._open_documents: Counter[tuple[str, str]] = Counter()

    def begin_batch(self, stage: str, ids: Sequence[str]) -> bool:
        """Records that a batch was begun; whether one of its documents was begun before and never ended."""
        is_suspect = any(self._open_batches[stage, id_] for id_ in ids)
        self._open_batches.update((stage, id_) for id_ in ids)
        return is_suspect

    def end_batch(self, stage: str, ids: Sequence[str]) -> None:
        """Records that a batch was processed."""
        for id_ in ids:
            self._open_batches.pop((stage, id_), None)
            self._open_documents.pop((stage, id_), None)

    def begin_document(self, stage: str, id_: str) -> int:
        """Records that a document was begun alone; how often it was before and never ended."""
        num_crashes = self._open_documents[stage, id_]
        self._open_documents[stage, id_] = min(num_crashes + 1, MAX_CRASHES)
        return num_crashes

    def end_document(self, stage: str, id_: str) -> None:
        """Records that a document was processed alone."""
        self._open_documents.pop((stage, id_), None)


def run_guarded(
    guard: Any,
    stage: str,
    ids: Sequence[str],
    *,
    batched: Callable[[], list[Result]],
    one_by_one: Callable[[int], Result],
    on_crash: Callable[[int, str], Result],
) -> list[Result]:
    """One result per document: of ``batched()``, or of ``one_by_one(row)`` if the batch crashed a process before.

    ``on_crash(row, detail)`` gives the result of a document that crashed its process MAX_CRASHES times when alone.
    ``guard`` is the handle of a CrashGuard actor.
    """
    if not ray.get(guard.begin_batch.remote(stage, ids)):
        results = batched()
    else:
        results = []
        for row, id_ in enumerate(ids):
            num_crashes: Any = ray.get(guard.begin_document.remote(stage, id_))
            if num_crashes < MAX_CRASHES:
                results.append(one_by_one(row))
                guard.end_document.remote(stage, id_)
            else:
                detail = f"the worker process died {num_crashes} times while it processed document {id_!r} alone"
                results.append(on_crash(row, f"{detail}: a crash in native code, or too little memory"))
    guard.end_batch.remote(stage, ids)
    return results
