"""Documents with gold answers, answered by the answer path itself: what fine-tuning is measured and calibrated by.

Workers answer a share of the documents each (``Validated`` rows travel between them), and each sums up all of them.

Shapes: R questions that have an answer, T temperatures.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from qa_ray.calibration import calibration
from qa_ray.evaluate import Evaluation, Metric, evaluate_pairs, rules_for, score_text
from qa_ray.predictions import Gold, Prediction
from qa_ray.reader import ReadableDocument, Reader

TEMPERATURES = tuple(2.0 ** (i / 4) for i in range(-8, 9))  # 1/4 to 4


class ValidationDocument(NamedTuple):
    """A document to answer, and the gold of each of its questions."""

    document: ReadableDocument
    golds: list[Gold]
    questions: list[str]


class Validated(NamedTuple):
    """What was answered to one question; the best spans are the same at all of TEMPERATURES, their scores are not."""

    gold: Gold
    question: str
    n_best: list[str]
    scores_T: list[list[float]]  # of the n best at each temperature
    no_answer_score_T: list[float]


def answer_validation(reader: Reader, documents: Sequence[ValidationDocument]) -> list[Validated]:
    """The answers to all questions, and how sure the model is of them at each of TEMPERATURES."""
    settings = [replace(reader.settings, temperature=t, no_answer_threshold=1.0, snippet_chars=0) for t in TEMPERATURES]
    results_T = reader.read_all([document.document for document in documents], settings)
    found = []
    for d, (_, golds, questions) in enumerate(documents):
        for q, (gold, question) in enumerate(zip(golds, questions, strict=True)):
            answer_T = [results[d][q] for results in results_T]
            n_best = [span["answer"] for span in answer_T[0]["n_best"]]
            scores_T = [[span["score"] for span in answer["n_best"]] for answer in answer_T]
            no_answer_score_T = [answer["no_answer_score"] for answer in answer_T]
            found.append(Validated(gold, question, n_best, scores_T, no_answer_score_T))
    return found


class Summary(NamedTuple):
    """How good the answers are with the settings that suit the model best, and these settings."""

    figures: dict[str, float]
    temperature: float
    no_answer_threshold: float
    n_best: list[list[tuple[str, float]]]  # of each question, with their scores at that temperature


def summarise(rows: Sequence[Validated], metric: Metric) -> Summary:
    """The best temperature, the best no-answer threshold at it, and what the answers are worth with both.

    The temperature is that with the least mean (score - right)², where right says whether the best span is exactly a
    gold answer: a proper score, so it wants the scores to be frequencies. The threshold is that with the best F1, and 1
    (always answer) if every question has an answer. Both are measured on the very questions that they were chosen by.
    """
    golds = [row.gold for row in rows]
    rules = rules_for(golds, metric)
    hits = [[score_text(rules, text, row.gold).exact_match == 1 for text in row.n_best] for row in rows]
    ranked = [r for r, row in enumerate(rows) if row.gold.texts and row.n_best]
    is_right_R = np.array([hits[r][0] for r in ranked], dtype=float)
    score_RT = np.array([[scores[0] for scores in rows[r].scores_T] for r in ranked]).reshape(-1, len(TEMPERATURES))
    t = int(((score_RT - is_right_R[:, None]) ** 2).mean(axis=0).argmin()) if ranked else TEMPERATURES.index(1.0)
    score_R = score_RT[:, t]

    def evaluated(threshold: float) -> Evaluation:
        best = [row.n_best[0] if row.n_best else "" for row in rows]
        predictions = [
            Prediction(
                *row.gold[:2],
                text=text if row.no_answer_score_T[t] <= threshold else "",
                spans=list(zip(row.n_best, row.scores_T[t], strict=True)),
                no_answer_score=row.no_answer_score_T[t],
            )
            for row, text in zip(rows, best, strict=True)
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
    n_best = [list(zip(row.n_best, row.scores_T[t], strict=True)) for row in rows]
    return Summary(figures, TEMPERATURES[t], threshold, n_best)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
