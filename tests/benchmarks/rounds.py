"""Contenders that take turns at one task, and what they took."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qa_ray.model.device import resolve_dtype


@dataclass
class Row:
    """What one contender took for one task; ``floor_s`` is what no program could beat at the measured rate."""

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
    """Seconds of each contender in each round, its own figure if it has one; to warm up, a round more comes first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(1 - warm_up, rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            result = work()
            took = result if isinstance(result, float) else time.perf_counter() - started
            if round_:
                seconds[name].append(took)
    return seconds


def dtypes() -> list[str]:
    """What is compared: float32, and bfloat16 where this machine's processor computes in it."""
    return sorted({"float32", resolve_dtype("auto", "cpu")}, reverse=True)
