"""Documents with gold answers, answered by the answer path itself: what fine-tuning is measured and calibrated by.

Workers answer a share of the documents each (``Validated`` rows travel between them); one of them sums up.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qa_ray.evaluate import Evaluation, Gold, Metric, Prediction, evaluate_pairs, score_text
from qa_ray.reader import ReadableDocument, Reader

TEMPERATURES = tuple(np.geomspace(0.25, 4.0, 17).tolist())
CALIBRATION_BINS = 10


class ValidationDocument(NamedTuple):
    """A document to answer, and the gold of each of its questions."""

    document: ReadableDocument
    golds: list[Gold]
    questions: list[str]


class Validated(NamedTuple):
    """What was answered to one question. ``scores_by_temperature`` are those of the best span."""

    gold: Gold
    question: str
    answer: str | None
    n_best: list[tuple[str, float]]
    no_answer_score: float
    scores_by_temperature: list[float]


def answer_validation(reader: Reader, documents: Sequence[ValidationDocument]) -> list[Validated]:
    """The answers to all questions, and how sure the model is of them at each of TEMPERATURES."""
    settings = [reader.settings] + [
        replace(reader.settings, temperature=t, n_best=1, snippet_chars=0) for t in TEMPERATURES
    ]
    results = reader.read_all([document.document for document in documents], settings)
    found = []
    for d, (_, golds, questions) in enumerate(documents):
        for q, (gold, question) in enumerate(zip(golds, questions, strict=True)):
            first, *others = (result[d][q] for result in results)
            n_best = [(span["answer"], span["score"]) for span in first["n_best"]]
            scores = [other["n_best"][0]["score"] if other["n_best"] else 0.0 for other in others]
            found.append(Validated(gold, question, first["answer"], n_best, first["no_answer_score"], scores))
    return found


class Summary(NamedTuple):
    """How good the answers are, and the settings that suit the model best."""

    evaluation: Evaluation
    figures: dict[str, float]
    temperature: float
    no_answer_threshold: float


def summarise(rows: Sequence[Validated], metric: Metric) -> Summary:
    """Scores, what the n best show, calibration, and the temperature and threshold that were best.

    The temperature is that with the least mean (score - right)², where right says whether the best span is exactly a
    gold answer: a proper score, so it wants the scores to be frequencies.
    """
    predictions = [
        Prediction(
            document_id=row.gold.document_id,
            question_id=row.gold.question_id,
            text=row.answer or "",
            best_text=row.n_best[0][0] if row.n_best else "",
            no_answer_score=row.no_answer_score,
        )
        for row in rows
    ]
    evaluation = evaluate_pairs([row.gold for row in rows], predictions, metric)
    answerable = [row for row in rows if row.gold.texts and row.n_best]
    rules = evaluation.rules
    hits = [[score_text(rules, text, row.gold).exact_match == 1 for text, _ in row.n_best] for row in answerable]
    ranks = [hit.index(True) + 1 for hit in hits if True in hit]
    is_right = np.array([hit[0] for hit in hits], dtype=float)
    scores_RT = np.array([row.scores_by_temperature for row in answerable]).reshape(len(answerable), -1)
    best, temperature, error = np.zeros(len(answerable)), 1.0, 0.0
    if len(answerable):
        t = int(((scores_RT - is_right[:, None]) ** 2).mean(axis=0).argmin())
        temperature, best = TEMPERATURES[t], scores_RT[:, t]
        error = expected_calibration_error(best, is_right)
    figures = {
        "exact_match": evaluation.overall.exact_match,
        "f1": evaluation.overall.f1,
        "gold_among_n_best": 100 * len(ranks) / max(1, len(hits)),
        "mean_rank_of_gold": float(np.mean(ranks)) if ranks else 0.0,
        "mean_score_when_right": _mean(best[is_right == 1]),
        "mean_score_when_wrong": _mean(best[is_right == 0]),
        "expected_calibration_error": error,
    }
    threshold = evaluation.thresholds["f1"].threshold if "f1" in evaluation.thresholds else 1.0
    if "f1" in evaluation.thresholds:
        figures["f1_at_best_threshold"] = evaluation.thresholds["f1"].score
    return Summary(evaluation, figures, temperature, min(1.0, max(0.0, threshold)))


def expected_calibration_error(scores: np.ndarray, is_right: np.ndarray) -> float:
    """How far scores are from frequencies: mean |score - share that is right| over bins of equal width.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; bins weigh as many rows as they hold.
    """
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    sums = np.bincount(bins, weights=scores - is_right, minlength=CALIBRATION_BINS)
    return float(np.abs(sums).sum() / len(scores)) if len(scores) else 0.0


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
