"""Reliability diagram and expected calibration error (ECE): of answers scored 0.8, eight in ten should be correct.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". Shapes: R answers.
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
    accuracy: float  # share of correct answers


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: bins of equal width, without the empty ones."""

    expected_error: float  # expected calibration error (ECE), in [0, 1]
    bins: list[Bin]


def calibration(scores: Any, is_correct: Any) -> Calibration:
    """The reliability diagram of score_R in [0, 1] and is_correct_R.

    The expected error is the mean of |mean score - accuracy| over the bins, weighted by their counts (equation 3).
    """
    score_R, is_correct_R = np.asarray(scores, dtype=float), np.asarray(is_correct, dtype=float)
    bin_R = np.minimum((score_R * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in np.unique(bin_R).tolist():
        is_inside_R = bin_R == number
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        mean_score, accuracy = float(score_R[is_inside_R].mean()), float(is_correct_R[is_inside_R].mean())
        bins.append(Bin(low, high, int(is_inside_R.sum()), mean_score, accuracy))
    gaps = [each.count * abs(each.mean_score - each.accuracy) for each in bins]
    return Calibration(sum(gaps) / max(1, len(score_R)), bins)
