"""Scores answers against gold answers: overall and by group, with calibration, thresholds and confident mistakes.

Each metric brings its own rules (metrics.py). The rest is the same for all: questions and answers are paired by id
(predictions.py), each pair is scored, and figures are means over questions with confidence intervals (outcomes.py).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from qa_ray.errors import InputError
from qa_ray.evaluation.calibration import Calibration, calibration
from qa_ray.evaluation.grouping import column_groups, figures_by_group
from qa_ray.evaluation.metrics import Rules, find_metric
from qa_ray.evaluation.outcomes import Outcome, all_events, figure_intervals, mean_figures, score_question
from qa_ray.evaluation.precision_recall import precision_recall_curve
from qa_ray.evaluation.predictions import (
    Gold,
    Prediction,
    answers_uri,
    pair_by_id,
    read_golds,
    read_predictions,
    table_with,
)
from qa_ray.evaluation.report import Evaluation, Mistake
from qa_ray.evaluation.scores import Scores
from qa_ray.evaluation.threshold import Threshold, best_threshold

MAX_MISTAKES = 20


def evaluate(
    answers: str, questions: str, metric: str = "squad", by: Sequence[str] = (), resamples: int = 1000
) -> Evaluation:
    """Scores the answers against the questions' gold answers.

    ``answers`` is the output folder of a finished job, other Parquet with the columns of an answers table, or
    predictions in SQuAD's layout (``*.json``: {question_id: text}, "" for no answer); ``questions`` is Parquet in the
    layout of schemas.QUESTIONS. Rows are paired by (document_id, question_id) where both have a document, else by
    question_id alone. ``by`` names columns of either table to group by; the questions' come first. Thresholds are
    searched on the best spans, so they do not depend on the threshold that the job ran with. ``resamples`` is the
    number of bootstrap resamples; with 0, or fewer than ten documents, there are no confidence intervals.

    Raises:
        ConfigError: an unknown metric.
        InputError: an unusable path, column or file; an unfinished job; no gold answers; no common id; an id with two
            rows; no scores, where the metric needs them.
    """
    needs_n_best = find_metric(metric).span_events is not None
    answers = answers_uri(answers)
    tables = [table_with(column, questions, answers) for column in by]
    columns = {
        name: [column if table == name else None for column, table in zip(by, tables, strict=True)]
        for name in ("questions", "answers")
    }
    golds, no_gold = read_golds(questions, columns["questions"])
    predictions = read_predictions(answers, columns["answers"], n_best=needs_n_best)
    return evaluate_pairs(golds, predictions, metric, by=by, resamples=resamples, no_gold=no_gold)


def evaluate_pairs(
    golds: Sequence[Gold],
    predictions: Sequence[Prediction],
    metric: str,
    *,
    by: Sequence[str] = (),
    resamples: int = 0,
    no_gold: int = 0,
) -> Evaluation:
    """Scores predictions against gold answers, grouped by their ``values``, which are of the columns ``by``.

    Raises:
        ConfigError: an unknown metric.
        InputError: no common id; an id with two rows; no scores, where the metric needs them.
    """
    method = find_metric(metric)
    spans = [span for prediction in predictions for span in prediction.spans] if method.span_events else []
    if not all(math.isfinite(score) for _, score in spans):
        raise InputError(f"evaluate: metric={metric} needs the scores of n_best; give an answer job's output")
    rules = method.rules_for(gold.texts for gold in golds)
    outcomes = [score_question(gold, prediction, method, rules) for gold, prediction in pair_by_id(golds, predictions)]
    some_unanswerable = not all(gold.texts for gold in golds)
    answerable = ["has_answer" if outcome.gold.texts else "no_answer" for outcome in outcomes]
    events = all_events(outcomes)
    return Evaluation(
        metric=metric,
        rules=rules.title,
        overall=mean_figures(outcomes),
        intervals=figure_intervals(outcomes, resamples) if resamples else {},
        answerable=figures_by_group(outcomes, answerable) if some_unanswerable else {},
        groups={column: figures_by_group(outcomes, column_groups(outcomes, c)) for c, column in enumerate(by)},
        thresholds=_thresholds(outcomes, rules) if some_unanswerable else {},
        calibration=_calibration(outcomes, rules),
        curve=precision_recall_curve(events) if events else None,
        mistakes=_mistakes(outcomes),
        no_gold=no_gold,
    )


def _thresholds(outcomes: Sequence[Outcome], rules: Rules) -> dict[str, Threshold]:
    """The best threshold for each score, with that score in percent.

    The scores of questions without a no-answer score do not depend on the threshold.
    """
    tunable, fixed = [], []
    for gold, prediction, scores, _ in outcomes:
        if prediction and prediction.no_answer_score is not None:
            best_scores = rules.score(prediction.best_span[0], gold.texts)
            tunable.append((best_scores, bool(gold.texts), prediction.no_answer_score))
        else:
            fixed.append(scores)
    if not tunable:
        return {}
    answered, answerable, no_answer_scores = zip(*tunable, strict=True)
    thresholds = {}
    for i, name in enumerate(Scores._fields):
        best = best_threshold([scores[i] for scores in answered], answerable, no_answer_scores)
        total = best.score * len(tunable) + math.fsum(scores[i] for scores in fixed)
        thresholds[name] = replace(best, score=100 * total / len(outcomes))
    return thresholds


def _calibration(outcomes: Sequence[Outcome], rules: Rules) -> Calibration | None:
    """Of the best spans of questions that have an answer, where a span is correct if it matches exactly."""
    best_spans = [(o.gold, *o.prediction.best_span) for o in outcomes if o.prediction and o.gold.texts]
    scored = [(gold, text, score) for gold, text, score in best_spans if text and math.isfinite(score)]
    if not scored:
        return None
    is_correct = [rules.score(text, gold.texts).exact_match for gold, text, _ in scored]
    return calibration([score for *_, score in scored], is_correct)


def _mistakes(outcomes: Sequence[Outcome]) -> list[Mistake]:
    """The answers without any overlap with a gold answer that have the highest scores."""
    wrong = [
        (prediction.best_span[1], gold, prediction)
        for gold, prediction, scores, _ in outcomes
        if prediction and prediction.text and not scores.f1
    ]
    most_confident = sorted((row for row in wrong if math.isfinite(row[0])), key=lambda row: -row[0])[:MAX_MISTAKES]
    return [
        Mistake(*gold[:2], prediction.question, sorted(set(gold.texts)), prediction.text, score)
        for score, gold, prediction in most_confident
    ]
