"""How far figures might be off with other documents: intervals by the bootstrap.

Documents are drawn, not questions, because the questions of one document stand or fall together (Efron & Tibshirani
1993, "An Introduction to the Bootstrap", chapter 13: percentile intervals).
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

COVERAGE = 0.95

Interval = tuple[float, float]


def intervals(
    of_what: Sequence[Hashable], figures: Callable[[np.ndarray], Sequence[float]], resamples: int, seed: int = 0
) -> list[Interval]:
    """For each of ``figures`` the interval that holds 95 % of what resampled documents give.

    ``of_what`` says to which document each row belongs; ``figures`` is called with how often each row counts.
    """
    numbers: dict[Hashable, int] = {}
    document = np.array([numbers.setdefault(name, len(numbers)) for name in of_what])
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        times = np.bincount(random.integers(len(numbers), size=len(numbers)), minlength=len(numbers))
        drawn.append(figures(times[document]))
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
