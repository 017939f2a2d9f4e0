"""The no-answer threshold with the best mean score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

MIN_QUESTIONS = 100  # for a threshold to recommend, and for a fit; why: training/fit.py


@dataclass(frozen=True)
class Threshold:
    """Questions with a no-answer score of at most ``threshold`` are answered; the mean score is then ``score``."""

    threshold: float
    score: float


def best_threshold(scores: Sequence[float], answerable: Sequence[bool], no_answer_scores: Sequence[float]) -> Threshold:
    """The threshold on the no-answer score that maximizes the mean score: find_best_thresh of ``evaluate-v2.0.py``.

    ``scores`` are those of the predicted texts, whatever their no-answer score. A question whose no-answer score is
    above the threshold t counts as "no answer", which scores 1 if it is unanswerable, else 0:

        total(t) = Σ scores[no_answer_score ≤ t] + |{not answerable, no_answer_score > t}|

    Of equally good thresholds the lowest is returned. If it is best to answer nothing, that is 0 as in the script, or
    the next float below the lowest no-answer score if that is not above 0. Two differences from the script: it may
    split ties, which no threshold can do (here questions with equal no-answer scores are answered together); and it
    counts a prediction such as "the", empty once normalized, as wrong on an unanswerable question, although its exact
    match and F1 there are 1.
    """
    total = float(sum(not has_answer for has_answer in answerable))
    best = Threshold(min(0.0, math.nextafter(min(no_answer_scores), -math.inf)), total)
    rows = sorted(zip(no_answer_scores, scores, answerable, strict=True))
    for no_answer_score, tied in groupby(rows, key=lambda row: row[0]):
        total += math.fsum(score - (not has_answer) for _, score, has_answer in tied)
        if total > best.score:
            best = Threshold(no_answer_score, total)
    return Threshold(best.threshold, best.score / len(scores))
