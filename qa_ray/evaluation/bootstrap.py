"""Confidence intervals by the bootstrap, with documents as clusters.

Documents are resampled, not questions, because questions of the same document are correlated: their errors come from
the same text. Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).

Shapes: R rows.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

CONFIDENCE_LEVEL = 0.95

Interval = tuple[float, float]


def confidence_intervals(
    documents: Sequence[Hashable],
    statistics: Callable[[np.ndarray], Sequence[float]],
    num_resamples: int,
    seed: int = 0,
) -> list[Interval]:
    """The 95 % percentile interval of each statistic.

    ``documents`` is the document of each row; ``statistics`` is called with how often each row counts (count_R).
    """
    numbers: dict[Hashable, int] = {}
    document_R = np.array([numbers.setdefault(name, len(numbers)) for name in documents])
    random = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_resamples):
        drawn = random.integers(len(numbers), size=len(numbers))
        resampled.append(statistics(np.bincount(drawn, minlength=len(numbers))[document_R]))
    tail_percent = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.percentile(np.array(resampled), [tail_percent, 100 - tail_percent], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
