"""The precision-recall curve of scored spans, for questions that may have several gold answers.

A span counts if its score is above a threshold. As the threshold falls, gold answers are matched (true positives) and
spans that match none are let in (false positives):

    precision = true positives / (true positives + false positives),    recall = true positives / gold answers

Precision is interpolated: at each recall it is the maximum over that recall and all higher ones.

Shapes: N events, P points of the curve.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve; all values in percent."""

    aupr: float  # area under the curve
    precision_at_80: float  # at a recall of 80 %; 0 if that recall is never reached
    precision_at_90: float
    recalls: list[float]
    precisions: list[float]


class Events(NamedTuple):
    """Gold answers and false positives, each with the score at which the falling threshold admits it."""

    score_N: np.ndarray  # -inf: a gold answer that no span matches
    is_gold_N: np.ndarray  # False: a span that matches no gold answer


def precision_recall_curve(events: Events, weight_N: np.ndarray | None = None) -> Curve | None:
    """The curve over the events of all questions; None without a gold answer.

    ``weight_N`` is how often each event counts (default: once). Equal scores are admitted together. Between two points
    precision is linear; it starts at 1 for recall 0.
    """
    order_N = np.argsort(-events.score_N, kind="stable")
    score_N, is_gold_N = events.score_N[order_N], events.is_gold_N[order_N]
    weight_N = np.ones(len(order_N)) if weight_N is None else weight_N[order_N]
    num_gold = float(weight_N @ is_gold_N)
    if not num_gold:
        return None
    is_last_of_ties_N = np.isfinite(score_N) & (score_N != np.append(score_N[1:], -np.inf))
    num_true_P = np.cumsum(weight_N * is_gold_N)[is_last_of_ties_N]
    num_admitted_P = np.cumsum(weight_N)[is_last_of_ties_N]
    has_weight_P = num_admitted_P > 0
    recall_P = np.concatenate([[0.0], num_true_P[has_weight_P] / num_gold])
    precision_P = np.concatenate([[1.0], num_true_P[has_weight_P] / num_admitted_P[has_weight_P]])
    precision_P = np.maximum.accumulate(precision_P[::-1])[::-1]

    def precision_at(recall: float) -> float:
        points = np.flatnonzero(recall_P >= recall)
        return 100 * float(precision_P[points[0]]) if len(points) else 0.0

    return Curve(
        aupr=100 * float(np.trapezoid(precision_P, recall_P)),
        precision_at_80=precision_at(0.8),
        precision_at_90=precision_at(0.9),
        recalls=(100 * recall_P).tolist(),
        precisions=(100 * precision_P).tolist(),
    )
