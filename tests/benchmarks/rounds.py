"""Contenders that take turns at one task, and the seconds that each took."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qa_ray.model.device import resolve_dtype


@dataclass
class Row:
    """The seconds of one contender for one task; ``floor_s`` is a lower bound at the measured rate of operations."""

    task: str
    contender: str
    seconds: list[float]
    floor_s: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(
    contenders: dict[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, or what it returns if that is a float; one warm-up round comes first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(1 - warm_up, rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            result = work()
            taken = result if isinstance(result, float) else time.perf_counter() - started
            if round_:
                seconds[name].append(taken)
    return seconds


def dtypes() -> list[str]:
    """The dtypes to compare: float32, and bfloat16 if the processor computes in it."""
    return sorted({"float32", resolve_dtype("auto", "cpu")}, reverse=True)
