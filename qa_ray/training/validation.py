"""Documents with gold answers, answered by the answer path itself: what fine-tuning is measured and calibrated by.

Workers answer a share of the documents each (``Validated`` rows travel between them), and each sums up all of them.

Shapes: R questions that have an answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qa_ray.evaluation.calibration import calibration
from qa_ray.evaluation.evaluate import Evaluation, Metric, evaluate_pairs, rules_for, score_text
from qa_ray.evaluation.predictions import Gold, Prediction
from qa_ray.inference.answers import calibrated
from qa_ray.inference.reader import Reader
from qa_ray.schemas import ReadableDocument
from qa_ray.training.calibrate import fit_scores


class ValidationDocument(NamedTuple):
    """A document to answer, and the gold of each of its questions."""

    document: ReadableDocument
    golds: list[Gold]
    questions: list[str]


class Validated(NamedTuple):
    """What was answered to one question, with scores as the model gives them, before any calibration."""

    gold: Gold
    question: str
    n_best: list[tuple[str, float]]
    no_answer_score: float


def answer_validation(reader: Reader, documents: Sequence[ValidationDocument]) -> list[Validated]:
    """The answers to all questions."""
    uncalibrated = {"score_slope": 1.0, "score_intercept": 0.0, "no_answer_threshold": 1.0, "snippet_chars": 0}
    settings = reader.settings.model_copy(update=uncalibrated)
    results = reader.read([document.document for document in documents], settings)
    return [
        Validated(
            gold, question, [(span["answer"], span["score"]) for span in answer["n_best"]], answer["no_answer_score"]
        )
        for (_, golds, questions), answers in zip(documents, results, strict=True)
        for gold, question, answer in zip(golds, questions, answers, strict=True)
    ]


class Summary(NamedTuple):
    """How good the answers are with the settings that suit the model best, and these settings."""

    figures: dict[str, float]
    settings: dict[str, Any]  # score_slope, score_intercept, no_answer_threshold
    n_best: list[list[tuple[str, float]]]  # of each question, with their scores by these settings


def summarize(rows: Sequence[Validated], metric: Metric) -> Summary:
    """The best slope and intercept of scores, the best no-answer threshold, and what the answers are worth with them.

    An answer is right if the best span is exactly a gold answer. The threshold is that with the best F1, and 1 (always
    answer) if every question has an answer. All are measured on the very questions that they were chosen by.
    """
    golds = [row.gold for row in rows]
    rules = rules_for(golds, metric)
    hits = [[score_text(rules, text, row.gold).exact_match == 1 for text, _ in row.n_best] for row in rows]
    ranked = [r for r, row in enumerate(rows) if row.gold.texts and row.n_best]
    is_right_R = np.array([hits[r][0] for r in ranked], dtype=float)
    slope, intercept = fit_scores(np.array([rows[r].n_best[0][1] for r in ranked]), is_right_R)
    n_best = [[(text, calibrated(score, slope, intercept)) for text, score in row.n_best] for row in rows]
    score_R = np.array([n_best[r][0][1] for r in ranked])

    def evaluated(threshold: float) -> Evaluation:
        best = [spans[0][0] if spans else "" for spans in n_best]
        predictions = [
            Prediction(
                *row.gold[:2],
                text=text if row.no_answer_score <= threshold else "",
                spans=spans,
                no_answer_score=row.no_answer_score,
            )
            for row, text, spans in zip(rows, best, n_best, strict=True)
        ]
        return evaluate_pairs(golds, predictions, metric)

    thresholds = evaluated(1.0).thresholds
    threshold = min(1.0, max(0.0, thresholds["f1"].threshold)) if thresholds else 1.0
    overall = evaluated(threshold).overall
    ranks = [hits[r].index(True) + 1 for r in ranked if True in hits[r]]
    figures = {
        "exact_match": overall.exact_match,
        "f1": overall.f1,
        "gold_among_n_best": 100 * len(ranks) / max(1, len(ranked)),
        "mean_rank_of_gold": _mean(ranks),
        "mean_score_when_right": _mean(score_R[is_right_R == 1]),
        "mean_score_when_wrong": _mean(score_R[is_right_R == 0]),
        "expected_calibration_error": calibration(score_R, is_right_R).expected_error,
    }
    settings = {"score_slope": slope, "score_intercept": intercept, "no_answer_threshold": threshold}
    return Summary(figures, settings, n_best)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
