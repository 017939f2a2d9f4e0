"""Exact match and F1 of one question, with the arithmetic that the metrics share. Scores are in [0, 1]."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Scores(NamedTuple):
    """The scores of one question, or of one predicted text against one gold answer."""

    exact_match: float
    f1: float


def f1_score(num_common: int, num_predicted: int, num_gold: int) -> float:
    """2 · precision · recall / (precision + recall), in the official scripts' order of operations (same rounding)."""
    if not num_common:
        return 0.0
    precision, recall = num_common / num_predicted, num_common / num_gold
    return 2 * precision * recall / (precision + recall)


def token_scores(prediction: str, gold: str, f1_if_both_empty: float = 1.0) -> Scores:
    """The scores of two normalized texts, whose tokens are separated by spaces.

    F1 counts the common tokens wherever they are: the multiset intersection.
    """
    if prediction == gold:
        return Scores(1.0, 1.0 if gold else f1_if_both_empty)
    prediction_tokens, gold_tokens = prediction.split(), gold.split()
    num_common = (Counter(prediction_tokens) & Counter(gold_tokens)).total()
    return Scores(0.0, f1_score(num_common, len(prediction_tokens), len(gold_tokens)))


def best_scores(scores: Sequence[Scores]) -> Scores:
    """The best exact match and the best F1, which may come from different gold answers."""
    return Scores(max(score.exact_match for score in scores), max(score.f1 for score in scores))
