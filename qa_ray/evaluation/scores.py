"""Exact match and F1 of one question, as all metrics give them."""

from collections.abc import Sequence
from typing import NamedTuple


class Scores(NamedTuple):
    """The two figures of one question, or of one prediction against one gold answer."""

    exact_match: float
    f1: float


def f1_score(num_common: int, num_predicted: int, num_gold: int) -> float:
    """2 · precision · recall / (precision + recall), rounded as the official scripts round it."""
    if not num_common:
        return 0.0
    precision, recall = num_common / num_predicted, num_common / num_gold
    return 2 * precision * recall / (precision + recall)


def best_scores(scores: Sequence[Scores]) -> Scores:
    return Scores(max(score.exact_match for score in scores), max(score.f1 for score in scores))
