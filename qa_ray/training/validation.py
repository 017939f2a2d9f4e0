"""Validation documents -> the model's quality, and the answer settings that suit it best.

Documents are answered by the same Reader as in the answer job. Each worker answers a share of them; the workers then
exchange their ``ValidationAnswer`` rows, and each summarizes all of them.

Shapes: R questions that have a gold answer and a best span.
"""

from collections.abc import Mapping, Sequence
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
from qa_ray.schemas import ReadableDocument
from qa_ray.training.calibrate import fit_scores


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


def answer_validation(reader: Reader, documents: Sequence[ValidationDocument]) -> list[ValidationAnswer]:
    """The uncalibrated answers to all questions of the documents."""
    uncalibrated = {"score_slope": 1.0, "score_intercept": 0.0, "no_answer_threshold": 1.0, "snippet_chars": 0}
    settings = reader.settings.model_copy(update=uncalibrated)
    results = reader.read([document.document for document in documents], settings)
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
    settings: dict[str, Any]  # score_slope, score_intercept, no_answer_threshold
    n_best: list[list[tuple[str, float]]]  # of each question, with calibrated scores


def summarize(rows: Sequence[ValidationAnswer], metric: str) -> Summary:
    """The best score slope, score intercept and no-answer threshold, and the quality of the answers with them.

    An answer is right if its best span matches a gold answer exactly. The threshold is the one with the best F1, or 1
    (always answer) if every question has an answer. The figures are measured on the questions that the settings were
    fitted to.
    """
    golds = [row.gold for row in rows]
    rules = find_metric(metric).rules_for(gold.texts for gold in golds)
    is_match = [[rules.score(text, row.gold.texts).exact_match == 1 for text, _ in row.n_best] for row in rows]
    answered = [r for r, row in enumerate(rows) if row.gold.texts and row.n_best]
    is_right_R = np.array([is_match[r][0] for r in answered], dtype=float)
    slope, intercept = fit_scores(np.array([rows[r].n_best[0][1] for r in answered]), is_right_R)
    n_best = [[(text, calibrated(score, slope, intercept)) for text, score in row.n_best] for row in rows]
    score_R = np.array([n_best[r][0][1] for r in answered])

    def evaluate_at(threshold: float) -> Evaluation:
        best_texts = [spans[0][0] if spans else "" for spans in n_best]
        predictions = [
            Prediction(
                *row.gold[:2],
                text=text if row.no_answer_score <= threshold else "",
                spans=spans,
                no_answer_score=row.no_answer_score,
            )
            for row, text, spans in zip(rows, best_texts, n_best, strict=True)
        ]
        return evaluate_pairs(golds, predictions, metric)

    thresholds = evaluate_at(1.0).thresholds
    threshold = min(1.0, max(0.0, thresholds["f1"].threshold)) if thresholds else 1.0
    overall = evaluate_at(threshold).overall
    ranks = [is_match[r].index(True) + 1 for r in answered if True in is_match[r]]
    figures = {
        "exact_match": overall.exact_match,
        "f1": overall.f1,
        "gold_among_n_best": 100 * len(ranks) / max(1, len(answered)),
        "mean_rank_of_gold": _mean(ranks),
        "mean_score_when_right": _mean(score_R[is_right_R == 1]),
        "mean_score_when_wrong": _mean(score_R[is_right_R == 0]),
        "expected_calibration_error": calibration(score_R, is_right_R).expected_error,
    }
    settings = {"score_slope": slope, "score_intercept": intercept, "no_answer_threshold": threshold}
    return Summary(figures, settings, n_best)


def published_settings(base: ModelSettings, windows: Mapping[str, int], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a trained model's ``qa_ray.json``: the base model's, with the job's windows and the fitted ones.

    Other keys of the base model's file (its data, its scores) describe other weights and are not copied.
    """
    return {**base.model_dump(include=set(type(base).model_fields)), **windows, **fitted}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
