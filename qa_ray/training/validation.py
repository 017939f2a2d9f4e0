"""Validation documents -> the model's quality, and the answer settings that suit it best.

Documents are answered by the same Reader as in the answer job. Each worker answers a share of them; the workers then
exchange their ``ValidationAnswer`` rows, and each summarizes all of them.

Shapes: R questions that have a gold answer and a best span.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qa_ray.evaluation.calibration import calibration
from qa_ray.evaluation.evaluate import evaluate_pairs
from qa_ray.evaluation.metrics import find_metric
from qa_ray.evaluation.predictions import Gold, Prediction
from qa_ray.evaluation.report import Evaluation
from qa_ray.inference.answers import calibrated
from qa_ray.inference.reader import Reader
from qa_ray.model.settings import ModelSettings
from qa_ray.schemas import BatchSize, ReadableDocument
from qa_ray.training.calibrate import fit_scores
from qa_ray.training.fit import why_scores_are_kept, why_threshold_is_kept


class ValidationDocument(NamedTuple):
    """A document to answer, with the gold answers and the text of each of its questions."""

    document: ReadableDocument
    golds: list[Gold]
    questions: list[str]


class ValidationAnswer(NamedTuple):
    """The answers to one question, with uncalibrated scores."""

    gold: Gold
    question: str
    n_best: list[tuple[str, float]]
    no_answer_score: float


def answer_validation(
    reader: Reader,
    documents: Sequence[ValidationDocument],
    on_batch: Callable[[BatchSize], object] = lambda size: None,
) -> list[ValidationAnswer]:
    """The uncalibrated answers to all questions of the documents; ``on_batch`` gets the size of each finished batch."""
    uncalibrated = {"score_slope": 1.0, "score_intercept": 0.0, "no_answer_threshold": 1.0, "snippet_chars": 0}
    settings = reader.settings.model_copy(update=uncalibrated)
    results = reader.read([document.document for document in documents], settings, on_batch)
    return [
        ValidationAnswer(
            gold, question, [(span["answer"], span["score"]) for span in answer["n_best"]], answer["no_answer_score"]
        )
        for (_, golds, questions), answers in zip(documents, results, strict=True)
        for gold, question, answer in zip(golds, questions, answers, strict=True)
    ]


class Summary(NamedTuple):
    """The best settings for a model, and the quality of its answers with them."""

    figures: dict[str, float]
    fit: dict[str, Any]  # as fit.describe_fit takes it
    n_best: list[list[tuple[str, float]]]  # of each question, with calibrated scores

    @property
    def settings(self) -> dict[str, Any]:
        """Score slope, score intercept and no-answer threshold."""
        return self.fit["after"]


def summarize(rows: Sequence[ValidationAnswer], metric: str, base: ModelSettings | None = None) -> Summary:
    """The best score slope, score intercept and no-answer threshold, and the quality of the answers with them.

    An answer is right if its best span matches a gold answer exactly. The threshold is the one with the best F1. What
    the questions are too few for keeps the value of ``base``, the settings of the model that training started from
    (fit.py). The figures are measured on the questions that the settings were fitted to.
    """
    base = base or ModelSettings()
    golds = [row.gold for row in rows]
    rules = find_metric(metric).rules_for(gold.texts for gold in golds)
    is_match = [[rules.score(text, row.gold.texts).exact_match == 1 for text, _ in row.n_best] for row in rows]
    answered = [r for r, row in enumerate(rows) if row.gold.texts and row.n_best]
    is_right_R = np.array([is_match[r][0] for r in answered], dtype=float)
    uncalibrated_R = np.array([rows[r].n_best[0][1] for r in answered])
    num_without_answer = sum(not gold.texts for gold in golds)
    slope, intercept, threshold = base.score_slope, base.score_intercept, base.no_answer_threshold
    before = {"score_slope": slope, "score_intercept": intercept, "no_answer_threshold": threshold}
    kept: dict[str, str] = {}
    score_before_R = np.array([calibrated(score, slope, intercept) for score in uncalibrated_R])
    if reason := why_scores_are_kept(len(answered)):
        kept |= {"score_slope": reason, "score_intercept": reason}
    else:
        slope, intercept = fit_scores(uncalibrated_R, is_right_R)
    n_best = [[(text, calibrated(score, slope, intercept)) for text, score in row.n_best] for row in rows]
    score_R = np.array([n_best[r][0][1] for r in answered])
    if reason := why_threshold_is_kept(len(golds) - num_without_answer, num_without_answer):
        kept["no_answer_threshold"] = reason
    else:
        best = _evaluate(rows, n_best, metric, threshold=1.0).thresholds["f1"].threshold
        threshold = min(1.0, max(0.0, best))
    overall = _evaluate(rows, n_best, metric, threshold).overall
    ranks = [is_match[r].index(True) + 1 for r in answered if True in is_match[r]]
    error = calibration(score_R, is_right_R).expected_error
    figures = {
        "exact_match": overall.exact_match,
        "f1": overall.f1,
        "gold_among_n_best": 100 * len(ranks) / max(1, len(answered)),
        "mean_rank_of_gold": _mean(ranks),
        "mean_score_when_right": _mean(score_R[is_right_R == 1]),
        "mean_score_when_wrong": _mean(score_R[is_right_R == 0]),
        "expected_calibration_error": error,
    }
    fit = {
        "questions_with_answer": len(golds) - num_without_answer,
        "questions_without_answer": num_without_answer,
        "before": before,
        "after": {"score_slope": slope, "score_intercept": intercept, "no_answer_threshold": threshold},
        "expected_calibration_error": {
            "before": calibration(score_before_R, is_right_R).expected_error,
            "after": error,
        },
        "kept": kept,
    }
    return Summary(figures, fit, n_best)


def _evaluate(
    rows: Sequence[ValidationAnswer], n_best: Sequence[list[tuple[str, float]]], metric: str, threshold: float
) -> Evaluation:
    """The evaluation of the best spans, where questions with a no-answer score above the threshold get no answer."""
    predictions = [
        Prediction(
            *row.gold[:2],
            text=spans[0][0] if spans and row.no_answer_score <= threshold else "",
            spans=spans,
            no_answer_score=row.no_answer_score,
        )
        for row, spans in zip(rows, n_best, strict=True)
    ]
    return evaluate_pairs([row.gold for row in rows], predictions, metric)


def published_settings(base: ModelSettings, windows: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a trained model's ``qa_ray.json``: the base model's, with the job's windows and the fitted ones.

    Other keys of the base model's file (its data, its scores) describe other weights and are not copied.
    """
    return {**base.model_dump(include=set(type(base).model_fields), exclude_none=True), **windows, **fitted}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
