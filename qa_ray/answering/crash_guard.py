"""Documents that kill the process which reads them: found by what was begun and never ended.

Ray starts a dead actor again and gives it the same block, for ever. So an actor says what it begins to read and what it
has read. One that finds that documents of its block were begun before, and never ended, reads them one by one; and one
that was being read alone at MAX_DEATHS deaths is given up, while its neighbours are answered. A process that dies for
another reason (a preempted node) costs its block the batching, and nothing else.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

MAX_DEATHS = 3

Result = TypeVar("Result")


class CrashGuard:
    """The actor that remembers what all others began to read, together with other documents or alone."""

    def __init__(self):
        self._together: Counter[tuple[str, str]] = Counter()
        self._alone: Counter[tuple[str, str]] = Counter()

    def begin(self, stage: str, ids: Sequence[str]) -> bool:
        """Notes that a block was begun; whether one of its documents had been before, and never ended."""
        were_begun = any(self._together[stage, id_] for id_ in ids)
        self._together.update((stage, id_) for id_ in ids)
        return were_begun

    def begin_alone(self, stage: str, id_: str) -> int:
        """Notes that a document was begun alone; how often it had been before, and never ended."""
        deaths = self._alone[stage, id_]
        self._alone[stage, id_] = min(deaths + 1, MAX_DEATHS)
        return deaths

    def end_alone(self, stage: str, id_: str) -> None:
        """Notes that a document was read to its end, alone."""
        self._alone.pop((stage, id_), None)

    def end(self, stage: str, ids: Sequence[str]) -> None:
        """Notes that a block was read to its end."""
        for id_ in ids:
            self._together.pop((stage, id_), None)
            self._alone.pop((stage, id_), None)


def run_guarded(
    crash_guard: Any,
    stage: str,
    ids: Sequence[str],
    *,
    together: Callable[[], list[Result]],
    alone: Callable[[int], Result],
    give_up: Callable[[int, str], Result],
) -> list[Result]:
    """What ``together()`` says of a block; if that killed a process before, what ``alone(row)`` says of each document.

    ``give_up(row, detail)`` stands for a document that killed the process when it was read alone.
    """
    if not ray.get(crash_guard.begin.remote(stage, ids)):
        results = together()
    else:
        results = []
        for row, id_ in enumerate(ids):
            deaths: Any = ray.get(crash_guard.begin_alone.remote(stage, id_))
            if deaths < MAX_DEATHS:
                results.append(alone(row))
                crash_guard.end_alone.remote(stage, id_)
            else:
                detail = f"the process that read document {id_!r} died {deaths} times, reading nothing else"
                results.append(give_up(row, f"{detail}: a crash in native code, or too little memory"))
    crash_guard.end.remote(stage, ids)
    return results
