"""Answers and gold answers -> how good the answers are: of all, by a column, how sure, and with which settings.

Which official script's rules apply:

- ``squad``, all questions answerable: SQuAD 1.1. A question without an answer row scores 0.
- ``squad``, some unanswerable: SQuAD 2.0. A question without an answer row counts as "no answer" (the script drops it).
- ``cmrc``: CMRC 2018. A question without an answer row, "skipped" in the script, stays in the total and scores 0.
- ``cuad``: every gold answer is to be found among the n best spans (clauses.py); exact match and F1 as in SQuAD 2.0. A
  span's score is here its own times the chance that there is an answer, score · (1 - no_answer_score).
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from qa_ray.errors import InputError
from qa_ray.evaluation.bootstrap import Interval, intervals
from qa_ray.evaluation.calibration import Calibration, calibration
from qa_ray.evaluation.cmrc import cmrc_scores
from qa_ray.evaluation.cuad import Curve, Events, curve, events
from qa_ray.evaluation.predictions import (
    Gold,
    Prediction,
    answers_table,
    pairs,
    read_golds,
    read_predictions,
    table_with,
)
from qa_ray.evaluation.scores import Scores
from qa_ray.evaluation.squad import squad1_scores, squad2_scores
from qa_ray.evaluation.threshold import Threshold, best_threshold

Metric = Literal["squad", "cmrc", "cuad"]
NO_VALUE = "null"  # the group of rows whose column is null, or that have no answer row to take it from
MOST_GROUPS = 10  # a column of numbers with more values is cut into four parts of as many questions each
LEAST_DOCUMENTS = 10  # for intervals
SHOWN_MISTAKES = 20
_RULES = {"SQuAD 1.1": squad1_scores, "SQuAD 2.0": squad2_scores, "CMRC 2018": cmrc_scores, "CUAD": squad2_scores}
_NULL_COUNTS = ("SQuAD 2.0", "CUAD")  # by these rules no row says "no answer"


@dataclass(frozen=True)
class Figures:
    """The mean scores of ``count`` questions in percent; ``missing`` of them have no row among the answers."""

    exact_match: float
    f1: float
    average: float  # (exact match + F1) / 2, the figure that CMRC ranks by
    count: int
    missing: int
    area: float | None = None  # below precision over recall; None where nothing is to be found, or by other rules


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that the model was sure of."""

    document_id: str | None
    question_id: str
    question: str
    gold: list[str]
    answer: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """How well the answers agree with the gold answers; all figures in percent, but scores and thresholds in [0, 1]."""

    rules: str  # a key of _RULES
    overall: Figures
    intervals: dict[str, Interval]  # of exact_match, f1 and area, where 95 % of resampled documents lie
    answerable: dict[str, Figures]  # of has_answer and no_answer; empty if every question has one
    groups: dict[str, dict[str, Figures]]  # for each column, of each of its values, largest group first
    thresholds: dict[str, Threshold]  # for exact_match and f1; empty without no-answer scores or unanswerable questions
    calibration: Calibration | None  # of the best spans' scores, over questions that have an answer
    curve: Curve | None  # by CUAD's rules
    mistakes: list[Mistake]  # the surest
    no_gold: int  # questions without gold answers: in none of the counts

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @property
    def settings(self) -> dict[str, float]:
        """What to set in the next run: the no-answer threshold with the best F1."""
        if not self.thresholds:
            return {}
        return {"answers.no_answer_threshold": min(1.0, max(0.0, self.thresholds["f1"].threshold))}

    def to_table(self) -> Table:
        """A table to read on a terminal."""
        table = Table(title=self.rules, caption="\n".join(self.notes()), caption_justify="left")
        table.add_column("")
        for heading in ("EM", "F1", *(["AUPR"] if self.curve else []), "questions", "missing"):
            table.add_column(heading, justify="right")
        for name, figures in {"all": self.overall, **self.answerable}.items():
            table.add_row(name.replace("_", " "), *self._cells(figures, 4))
        if self.intervals:
            table.add_row(
                "95 % of resampled documents", *(f"{low:.1f}–{high:.1f}" for low, high in self.intervals.values())
            )
        table.add_section()
        for name, best in self.thresholds.items():
            cells = [f"{best.score:.4f}" if name == column else "" for column in Scores._fields]
            table.add_row(f"best, up to no_answer_score {best.threshold:.6g}", *cells)
        for column, groups in self.groups.items():
            table.add_section()
            table.add_row(Text(column, style="bold"))
            for name, figures in groups.items():
                table.add_row(Text(name), *self._cells(figures, 2))
        return table

    def notes(self) -> list[str]:
        """What else there is to say, a sentence each."""
        notes = [f"average of EM and F1: {self.overall.average:.4f}"] if self.rules == "CMRC 2018" else []
        if self.curve:
            at_80, at_90 = self.curve.precision_at_80, self.curve.precision_at_90
            notes.append(f"precision {at_80:.1f} at a recall of 80, {at_90:.1f} at 90")
        if self.calibration:
            notes.append(f"expected calibration error {self.calibration.expected_error:.3f}")
        notes += [f"to set: {name}={value:.6g}" for name, value in self.settings.items()]
        notes += [f"{self.no_gold:,} more without gold answers"] if self.no_gold else []
        return notes

    def _cells(self, figures: Figures, decimals: int) -> list[str]:
        scores = [figures.exact_match, figures.f1, *([figures.area] if self.curve else [])]
        cells = ["" if score is None else f"{score:.{decimals}f}" for score in scores]
        return [*cells, f"{figures.count:,}", f"{figures.missing:,}"]


class _Outcome(NamedTuple):
    gold: Gold
    prediction: Prediction | None
    scores: Scores
    events: Events | None  # by CUAD's rules


def evaluate(
    answers: str, questions: str, metric: Metric = "squad", by: Sequence[str] = (), resamples: int = 1000
) -> Evaluation:
    """Scores the answers against the questions' gold answers.

    ``answers`` is the output folder of a finished job, other Parquet with the columns of an answers table, or
    predictions in SQuAD's layout (``*.json``: {question_id: text}, "" for no answer); ``questions`` is Parquet in the
    layout of schemas.QUESTIONS. They meet by (document_id, question_id) where both have a document, else by question_id
    alone. ``by`` names columns of either, the questions' first. The thresholds are searched on the best spans: the one
    that the job ran with has no part in them. Without ``resamples``, or with fewer
    than ten documents, there are no intervals.

    Raises:
        InputError: an unusable path, column or file; an unfinished job; no gold; no common id; an id with two rows.
    """
    answers = answers_table(answers)
    tables = [table_with(column, questions, answers) for column in by]
    columns = {
        name: [column if table == name else None for column, table in zip(by, tables, strict=True)]
        for name in ("questions", "answers")
    }
    golds, no_gold = read_golds(questions, columns["questions"])
    predictions = read_predictions(answers, columns["answers"], n_best=metric == "cuad")
    return evaluate_pairs(golds, predictions, metric, by=by, resamples=resamples, no_gold=no_gold)


def evaluate_pairs(
    golds: Sequence[Gold],
    predictions: Sequence[Prediction],
    metric: Metric,
    *,
    by: Sequence[str] = (),
    resamples: int = 0,
    no_gold: int = 0,
) -> Evaluation:
    """Scores predictions against gold answers; grouped by their ``values``, which ``by`` names.

    Raises:
        InputError: no common id; an id with two rows; no scores, where the metric needs them.
    """
    unanswerable = any(not gold.texts for gold in golds)
    rules = rules_for(golds, metric)
    if rules == "CUAD" and any(not math.isfinite(score) for prediction in predictions for _, score in prediction.spans):
        raise InputError("evaluate: metric=cuad needs the scores of n_best; give an answer job's output")
    outcomes = [_score(gold, prediction, rules) for gold, prediction in pairs(golds, predictions)]
    kinds = ["has_answer" if outcome.gold.texts else "no_answer" for outcome in outcomes]
    return Evaluation(
        rules=rules,
        overall=_figures(outcomes),
        intervals=_intervals(outcomes, resamples) if resamples else {},
        answerable=_group(outcomes, kinds) if unanswerable else {},
        groups={column: _group(outcomes, _names(outcomes, number)) for number, column in enumerate(by)},
        thresholds=_thresholds(outcomes, rules) if unanswerable else {},
        calibration=_calibration(outcomes, rules),
        curve=curve(_events(outcomes)) if rules == "CUAD" else None,
        mistakes=_mistakes(outcomes),
        no_gold=no_gold,
    )


def rules_for(golds: Sequence[Gold], metric: Metric) -> str:
    """Which official script's rules apply: a key of those that score_text knows."""
    if metric != "squad":
        return {"cmrc": "CMRC 2018", "cuad": "CUAD"}[metric]
    return "SQuAD 2.0" if any(not gold.texts for gold in golds) else "SQuAD 1.1"


def score_text(rules: str, text: str, gold: Gold) -> Scores:
    """The scores of a text for one question."""
    return _RULES[rules](text, gold.texts)


def _score(gold: Gold, prediction: Prediction | None, rules: str) -> _Outcome:
    happens = None
    if rules == "CUAD":
        has_answer = 1 - ((prediction and prediction.no_answer_score) or 0.0)
        spans = [(text, score * has_answer) for text, score in prediction.spans] if prediction else []
        happens = events(gold.texts, spans, or_holds="Parties" in gold.question_id)
    scores = Scores(0.0, 0.0)
    if prediction or rules in _NULL_COUNTS:
        scores = score_text(rules, prediction.text if prediction else "", gold)
    return _Outcome(gold, prediction, scores, happens)


def _events(outcomes: Sequence[_Outcome]) -> Events:
    return Events(*(np.concatenate(column) for column in zip(*(o.events for o in outcomes if o.events), strict=True)))


def _figures(outcomes: Sequence[_Outcome]) -> Figures:
    exact_match, f1 = (100 * math.fsum(column) / len(outcomes) for column in zip(*(o.scores for o in outcomes)))
    found = curve(_events(outcomes)) if outcomes[0].events else None
    return Figures(
        exact_match=exact_match,
        f1=f1,
        average=(exact_match + f1) / 2,
        count=len(outcomes),
        missing=sum(not outcome.prediction for outcome in outcomes),
        area=found.area if found else None,
    )


def _intervals(outcomes: Sequence[_Outcome], resamples: int) -> dict[str, Interval]:
    """Of exact_match and f1, and of the area by CUAD's rules; none of too few documents to draw from."""
    documents = [outcome.gold.document_id or outcome.gold.question_id for outcome in outcomes]
    if len(set(documents)) < LEAST_DOCUMENTS:
        return {}
    scores_Q2 = np.array([outcome.scores for outcome in outcomes])
    names = list(Scores._fields)
    of_events = np.zeros(0, dtype=int)  # the question of each
    if all_events := _events(outcomes) if outcomes[0].events else None:
        of_events = np.repeat(np.arange(len(outcomes)), [len(o.events.score_N) if o.events else 0 for o in outcomes])
        order = np.argsort(-all_events.score_N, kind="stable")  # once, not for every draw
        of_events, all_events = of_events[order], Events(*(column[order] for column in all_events))
        names.append("area")

    def figures(times_Q: np.ndarray) -> list[float]:
        found = (100 * (times_Q @ scores_Q2) / times_Q.sum()).tolist()
        if all_events:
            drawn = curve(all_events, times_Q[of_events])
            found.append(drawn.area if drawn else 0.0)
        return found

    return dict(zip(names, intervals(documents, figures, resamples), strict=True))


def _group(outcomes: Sequence[_Outcome], names: Sequence[str]) -> dict[str, Figures]:
    """The figures of each name's outcomes, largest group first, then by name."""
    members = defaultdict(list)
    for name, outcome in zip(names, outcomes, strict=True):
        members[name].append(outcome)
    return {name: _figures(members[name]) for name in sorted(members, key=lambda name: (-len(members[name]), name))}


def _names(outcomes: Sequence[_Outcome], column: int) -> list[str]:
    """The group of each by the value of this column; of many numbers, the quarter that it lies in."""
    values = [_value(outcome, column) for outcome in outcomes]
    there = [value for value in values if value is not None]
    if len(set(there)) <= MOST_GROUPS or not all(isinstance(value, int | float) for value in there):
        return [NO_VALUE if value is None else str(value) for value in values]
    bounds = np.quantile(there, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(bounds, [0 if value is None else value for value in values])
    ends = {}
    for number, value in zip(quarter.tolist(), values, strict=True):
        if value is not None:
            low, high = ends.get(number, (value, value))
            ends[number] = min(low, value), max(high, value)
    names = {number: f"{low:,.6g} to {high:,.6g}" for number, (low, high) in ends.items()}
    return [NO_VALUE if value is None else names[n] for n, value in zip(quarter.tolist(), values, strict=True)]


def _value(outcome: _Outcome, column: int) -> Any:
    sides = [outcome.gold.values, outcome.prediction.values if outcome.prediction else ()]
    return next((values[column] for values in sides if values and values[column] is not None), None)


def _thresholds(outcomes: Sequence[_Outcome], rules: str) -> dict[str, Threshold]:
    """The best for each score, in percent; questions without a no-answer score keep theirs whatever the threshold."""
    tuned, fixed = [], []
    for gold, prediction, scores, _ in outcomes:
        if prediction and prediction.no_answer_score is not None:
            answered = score_text(rules, _best(prediction)[0], gold)
            tuned.append((answered, bool(gold.texts), prediction.no_answer_score))
        else:
            fixed.append(scores)
    if not tuned:
        return {}
    answered, answerable, no_answer_scores = zip(*tuned)
    thresholds = {}
    for i, name in enumerate(Scores._fields):
        best = best_threshold([scores[i] for scores in answered], answerable, no_answer_scores)
        total = best.score * len(tuned) + math.fsum(scores[i] for scores in fixed)
        thresholds[name] = replace(best, score=100 * total / len(outcomes))
    return thresholds


def _best(prediction: Prediction) -> tuple[str, float]:
    return prediction.spans[0] if prediction.spans else ("", 0.0)


def _calibration(outcomes: Sequence[_Outcome], rules: str) -> Calibration | None:
    best = [(outcome.gold, *_best(outcome.prediction)) for outcome in outcomes if outcome.prediction]
    scored = [(gold, text, score) for gold, text, score in best if gold.texts and text and math.isfinite(score)]
    if not scored:
        return None
    is_right = [score_text(rules, text, gold).exact_match for gold, text, _ in scored]
    return calibration([score for *_, score in scored], is_right)


def _mistakes(outcomes: Sequence[_Outcome]) -> list[Mistake]:
    wrong = [
        (_best(prediction)[1], gold, prediction)
        for gold, prediction, scores, _ in outcomes
        if prediction and prediction.text and not scores.f1
    ]
    surest = sorted((row for row in wrong if math.isfinite(row[0])), key=lambda row: -row[0])[:SHOWN_MISTAKES]
    return [
        Mistake(*gold[:2], prediction.question, sorted(set(gold.texts)), prediction.text, score)
        for score, gold, prediction in surest
    ]
