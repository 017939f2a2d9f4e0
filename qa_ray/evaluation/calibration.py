"""How far scores are from frequencies: of the answers with a score of 0.8, eight in ten should be right.

Guo et al. 2017, "On Calibration of Modern Neural Networks". Shapes: R answers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 10


@dataclass(frozen=True)
class Bin:
    """The answers with scores from ``low`` to ``high``."""

    low: float
    high: float
    count: int
    mean_score: float
    share_right: float


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: bins of equal width, without the empty ones."""

    expected_error: float
    bins: list[Bin]


def calibration(scores: Any, is_right: Any) -> Calibration:
    """Bins of [0, 1], and the mean of |mean score - share that is right| over them, weighed by count (equation 3)."""
    score_R, is_right_R = np.asarray(scores, dtype=float), np.asarray(is_right, dtype=float)
    bin_R = np.minimum((score_R * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in np.unique(bin_R).tolist():
        inside_R = bin_R == number
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        mean_score, share_right = float(score_R[inside_R].mean()), float(is_right_R[inside_R].mean())
        bins.append(Bin(low, high, int(inside_R.sum()), mean_score, share_right))
    gaps = [found.count * abs(found.mean_score - found.share_right) for found in bins]
    return Calibration(sum(gaps) / max(1, len(score_R)), bins)
