"""Scored questions and their mean figures, with confidence intervals.

Shapes: Q questions, N events of the precision-recall curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qa_ray.evaluation.bootstrap import Interval, confidence_intervals
from qa_ray.evaluation.metrics import Metric, Rules
from qa_ray.evaluation.precision_recall import Events, precision_recall_curve
from qa_ray.evaluation.predictions import Gold, Prediction
from qa_ray.evaluation.scores import Scores

MIN_DOCUMENTS = 10  # for confidence intervals


class Outcome(NamedTuple):
    """A question with its gold answers, its prediction and the scores of that prediction."""

    gold: Gold
    prediction: Prediction | None  # None: no row among the answers
    scores: Scores
    events: Events | None  # None: the metric has no precision-recall curve


@dataclass(frozen=True)
class Figures:
    """The mean scores of ``count`` questions in percent; ``missing`` of them have no row among the answers."""

    exact_match: float
    f1: float
    average: float  # (exact match + F1) / 2
    count: int
    missing: int
    aupr: float | None = None  # area under the precision-recall curve; None without gold answers, or by other metrics


def score_question(gold: Gold, prediction: Prediction | None, metric: Metric, rules: Rules) -> Outcome:
    """The scores of a prediction. For the precision-recall curve, a span's score is score · (1 - no_answer_score)."""
    events = None
    if metric.span_events:
        answer_score = 1 - ((prediction and prediction.no_answer_score) or 0.0)
        spans = [(text, score * answer_score) for text, score in prediction.spans] if prediction else []
        events = metric.span_events(gold.question_id, gold.texts, spans)
    scores = Scores(0.0, 0.0)
    if prediction or rules.missing_is_no_answer:
        scores = rules.score(prediction.text if prediction else "", gold.texts)
    return Outcome(gold, prediction, scores, events)


def all_events(outcomes: Sequence[Outcome]) -> Events | None:
    """The events of all questions, in the order of the questions; None if the metric has no precision-recall curve."""
    events = [outcome.events for outcome in outcomes if outcome.events]
    return Events(*(np.concatenate(arrays) for arrays in zip(*events, strict=True))) if events else None


def mean_figures(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of at least one outcome."""
    exact_match, f1 = (100 * math.fsum(column) / len(outcomes) for column in zip(*(o.scores for o in outcomes)))
    events = all_events(outcomes)
    curve = precision_recall_curve(events) if events else None
    return Figures(
        exact_match=exact_match,
        f1=f1,
        average=(exact_match + f1) / 2,
        count=len(outcomes),
        missing=sum(not outcome.prediction for outcome in outcomes),
        aupr=curve.aupr if curve else None,
    )


def figure_intervals(outcomes: Sequence[Outcome], num_resamples: int) -> dict[str, Interval]:
    """The confidence intervals of exact_match, f1 and (if the metric has it) aupr, in percent.

    Empty with fewer than MIN_DOCUMENTS documents.
    """
    documents = [outcome.gold.document_id or outcome.gold.question_id for outcome in outcomes]
    if len(set(documents)) < MIN_DOCUMENTS:
        return {}
    scores_Q2 = np.array([outcome.scores for outcome in outcomes])
    names = list(Scores._fields)
    question_N = np.zeros(0, dtype=int)
    if events := all_events(outcomes):
        num_events_Q = [len(outcome.events.score_N) if outcome.events else 0 for outcome in outcomes]
        order_N = np.argsort(-events.score_N, kind="stable")  # sorted once, not in each resample
        question_N = np.repeat(np.arange(len(outcomes)), num_events_Q)[order_N]
        events = Events(*(array[order_N] for array in events))
        names.append("aupr")

    def statistics(count_Q: np.ndarray) -> list[float]:
        figures = (100 * (count_Q @ scores_Q2) / count_Q.sum()).tolist()
        if events:
            curve = precision_recall_curve(events, count_Q[question_N])
            figures.append(curve.aupr if curve else 0.0)
        return figures

    return dict(zip(names, confidence_intervals(documents, statistics, num_resamples), strict=True))
