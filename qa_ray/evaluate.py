"""Answers and gold answers -> exact match and F1: overall, with and without an answer, by a column, and the best thresholds.

Which official script's rules apply:

- ``squad``, every gold answerable: SQuAD 1.1. A pair without an answer row scores 0.
- ``squad``, some gold unanswerable: SQuAD 2.0. A pair without an answer row counts as "no answer" (the script leaves it out).
- ``cmrc``: CMRC 2018. A pair without an answer row, which the script counts as skipped, stays in the total and scores 0.

All predictions and gold texts are held in memory; of the Parquet files only the columns that are used are read.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from qa_ray.errors import InputError
from qa_ray.metrics import Scores, Threshold, best_threshold, cmrc_scores, squad1_scores, squad2_scores
from qa_ray.storage import join, open_filesystem, open_parquet, parquet_files, read_text

Metric = Literal["squad", "cmrc"]

NO_VALUE = "null"  # the group of rows whose column ``by`` is null, or that have no answer row to take it from
_RULES = {"SQuAD 1.1": squad1_scores, "SQuAD 2.0": squad2_scores, "CMRC 2018": cmrc_scores}


@dataclass(frozen=True)
class Figures:
    """The mean scores of ``count`` questions in percent; ``missing`` of them have no row among the answers."""

    exact_match: float
    f1: float
    count: int
    missing: int

    @property
    def average(self) -> float:
        """CMRC's AVERAGE: (exact match + F1) / 2."""
        return (self.exact_match + self.f1) / 2


@dataclass(frozen=True)
class Evaluation:
    """How well the answers agree with the gold answers; all scores in percent."""

    rules: str
    """The official script: "SQuAD 1.1", "SQuAD 2.0" or "CMRC 2018"."""
    overall: Figures
    answerable: dict[str, Figures]
    """``has_answer`` and ``no_answer``; empty if every question is answerable."""
    by: str | None
    groups: dict[str, Figures]
    """The figures for each value of the column ``by``, largest group first."""
    thresholds: dict[str, Threshold]
    """For ``exact_match`` and ``f1``: answer where ``no_answer_score`` is at most the threshold. Empty without such scores."""
    no_gold: int
    """Questions without gold answers: not scored, not in any count."""

    def to_json(self) -> str:
        """The fields as a JSON object; CMRC's ``average`` beside the other two scores."""
        figures = {
            "overall": self._figures(self.overall),
            "answerable": {name: self._figures(part) for name, part in self.answerable.items()},
            "groups": {name: self._figures(part) for name, part in self.groups.items()},
            "thresholds": {name: threshold._asdict() for name, threshold in self.thresholds.items()},
        }
        fields = {"rules": self.rules, "by": self.by, **figures, "no_gold": self.no_gold}
        return json.dumps(fields, indent=2, ensure_ascii=False)

    def to_table(self) -> Table:
        """A table to read on a terminal."""
        table = Table(title=self.rules, caption=f"{self.no_gold:,} more without gold answers" if self.no_gold else None)
        table.add_column(Text(self.by or ""))
        for heading in ("EM", "F1", *(["average"] if self._has_average else []), "questions", "missing"):
            table.add_column(heading, justify="right")
        self._add_row(table, "overall", self.overall, decimals=4)
        for name, figures in self.answerable.items():
            self._add_row(table, name.replace("_", " "), figures, decimals=4)
        if self.thresholds:
            table.add_section()
        for name, (threshold, score) in self.thresholds.items():
            scores = [f"{score:.4f}" if name == column else "" for column in ("exact_match", "f1")]
            table.add_row(f"best, answering up to no_answer_score {threshold:.6g}", *scores)
        if self.groups:
            table.add_section()
        for name, figures in self.groups.items():
            self._add_row(table, name, figures, decimals=2)
        return table

    @property
    def _has_average(self) -> bool:
        return self.rules == "CMRC 2018"

    def _figures(self, figures: Figures) -> dict[str, float]:
        return ({"average": figures.average} if self._has_average else {}) | asdict(figures)

    def _add_row(self, table: Table, name: str, figures: Figures, decimals: int) -> None:
        scores = [figures.exact_match, figures.f1, *([figures.average] if self._has_average else [])]
        cells = [f"{score:.{decimals}f}" for score in scores]
        table.add_row(Text(name), *cells, f"{figures.count:,}", f"{figures.missing:,}")


class _Gold(NamedTuple):
    document_id: str | None
    question_id: str
    texts: list[str]  # empty: the document does not answer the question
    group: str


class _Prediction(NamedTuple):
    document_id: str | None
    question_id: str
    text: str
    best_text: str  # the best span's, also where the answer is null
    no_answer_score: float | None
    group: str


class _Outcome(NamedTuple):
    gold: _Gold
    prediction: _Prediction | None
    scores: Scores


def evaluate(answers: str, questions: str, metric: Metric = "squad", by: str | None = None) -> Evaluation:
    """Scores the answers against the questions' gold answers.

    ``answers`` is the output folder of a finished job, any Parquet with an answers table's columns, or predictions in SQuAD's
    layout (``*.json``: {question_id: text}, "" for no answer). ``questions`` is Parquet in the layout of records.QUESTIONS.
    They meet by (document_id, question_id) where both have a document, else by question_id. ``by`` names a column of either,
    the questions' first. The thresholds are searched on the best spans, so the one that the job ran with has no part in them.

    Raises:
        InputError: a path, column or file that cannot be used; a job that has not finished; no gold answer; no common id; an
            id that stands for two rows.
    """
    answers = _answers_table(answers)
    by_is_asked = by is not None and _is_questions_column(by, questions, answers)
    golds, no_gold = _read_golds(questions, by if by_is_asked else None)
    unanswerable = any(not gold.texts for gold in golds)
    rules = "CMRC 2018" if metric == "cmrc" else "SQuAD 2.0" if unanswerable else "SQuAD 1.1"
    tuning_columns = ["n_best", "no_answer_score"] if unanswerable else []
    predictions = _read_predictions(answers, None if by_is_asked else by, tuning_columns)
    outcomes = [_score(gold, prediction, rules) for gold, prediction in _pairs(golds, predictions)]
    answerable = ["has_answer" if outcome.gold.texts else "no_answer" for outcome in outcomes]
    sides = [outcome.gold if by_is_asked else outcome.prediction for outcome in outcomes]
    return Evaluation(
        rules=rules,
        overall=_figures(outcomes),
        answerable=_group(outcomes, answerable) if unanswerable else {},
        by=by,
        groups=_group(outcomes, [side.group if side else NO_VALUE for side in sides]) if by else {},
        thresholds=_thresholds(outcomes, rules) if unanswerable else {},
        no_gold=no_gold,
    )


def _score(gold: _Gold, prediction: _Prediction | None, rules: str) -> _Outcome:
    if prediction or rules == "SQuAD 2.0":
        return _Outcome(gold, prediction, _RULES[rules](prediction.text if prediction else "", gold.texts))
    return _Outcome(gold, prediction, Scores(0.0, 0.0))


def _figures(outcomes: Sequence[_Outcome]) -> Figures:
    return Figures(
        exact_match=100 * math.fsum(outcome.scores.exact_match for outcome in outcomes) / len(outcomes),
        f1=100 * math.fsum(outcome.scores.f1 for outcome in outcomes) / len(outcomes),
        count=len(outcomes),
        missing=sum(outcome.prediction is None for outcome in outcomes),
    )


def _group(outcomes: Sequence[_Outcome], names: Sequence[str]) -> dict[str, Figures]:
    """The figures of each name's outcomes, largest group first, then by name."""
    members = defaultdict(list)
    for name, outcome in zip(names, outcomes, strict=True):
        members[name].append(outcome)
    return {name: _figures(members[name]) for name in sorted(members, key=lambda name: (-len(members[name]), name))}


def _thresholds(outcomes: Sequence[_Outcome], rules: str) -> dict[str, Threshold]:
    """The best threshold for each score, in percent; pairs without a no-answer score keep theirs whatever the threshold."""
    tuned, fixed = [], []
    for gold, prediction, scores in outcomes:
        if prediction and prediction.no_answer_score is not None:
            answered = _RULES[rules](prediction.best_text, gold.texts)
            tuned.append((answered, bool(gold.texts), prediction.no_answer_score))
        else:
            fixed.append(scores)
    if not tuned:
        return {}
    answered, answerable, no_answer_scores = zip(*tuned, strict=True)
    thresholds = {}
    for i, name in enumerate(Scores._fields):
        threshold, mean = best_threshold([scores[i] for scores in answered], answerable, no_answer_scores)
        total = mean * len(tuned) + math.fsum(scores[i] for scores in fixed)
        thresholds[name] = Threshold(threshold, 100 * total / len(outcomes))
    return thresholds


def _pairs(golds: Sequence[_Gold], predictions: Sequence[_Prediction]) -> Iterator[tuple[_Gold, _Prediction | None]]:
    """Each gold row with its prediction, if there is one."""
    have_documents = any(prediction.document_id is not None for prediction in predictions)
    keys = [(gold.document_id if have_documents else None, gold.question_id) for gold in golds]
    found: dict[tuple[str | None, str], list[_Prediction]] = defaultdict(list)
    for prediction in predictions:
        for document_id in {prediction.document_id, None}:
            found[document_id, prediction.question_id].append(prediction)
    for key, count in Counter(keys).items():
        if count > 1 or len(found.get(key, ())) > 1:
            table, count = ("questions", count) if count > 1 else ("answers", len(found[key]))
            raise InputError(
                f"{table}: {_name(*key)} has {count} rows; "
                "keep one, or give questions and answers a document_id to tell them apart"
            )
    if not found.keys() & set(keys):
        answered = _name(*predictions[0][:2]) if predictions else "no row"
        raise InputError(
            f"evaluate: the answers are to other questions than the gold answers: there {answered}, "
            f"here {_name(*golds[0][:2])}; give the questions that were answered"
        )
    return ((gold, found[key][0] if key in found else None) for gold, key in zip(golds, keys, strict=True))


def _name(document_id: str | None, question_id: str) -> str:
    return f"question {question_id!r}" + (f" of document {document_id!r}" if document_id is not None else "")


def _answers_table(uri: str) -> str:
    """Where the answers themselves are: a job keeps them in a folder of its own, whole once there is ``_SUCCESS``."""
    filesystem, path = open_filesystem(uri)
    if not any(filesystem.isdir(join(path, name)) for name in ("answers", "_run")):
        return uri
    if read_text(join(uri, "_SUCCESS")) is None:
        raise InputError(f"answers: no _SUCCESS in {uri!r}, so the job has not finished; start it again and let it end")
    return join(uri, "answers")


def _read_golds(uri: str, by: str | None) -> tuple[list[_Gold], int]:
    """The questions with gold answers, and the number of those without."""
    golds, no_gold = [], 0
    for row in _rows(uri, "questions", ["question_id", "answers"], ["document_id", by]):
        document_id, question_id = _string(row, "document_id"), str(row["question_id"])
        if row["answers"] is None:
            no_gold += 1
            continue
        try:
            texts = [gold["text"] or "" for gold in row["answers"]]
        except (TypeError, KeyError) as error:
            raise InputError(
                f"questions: the gold answers of {_name(document_id, question_id)} in {uri!r} are {row['answers']!r}; "
                "make them a list of {text, start_char}"
            ) from error
        golds.append(_Gold(document_id, question_id, texts, _string(row, by) or NO_VALUE))
    if not golds:
        raise InputError(
            f"questions: none of the {no_gold} rows of {uri!r} has gold answers; "
            "fill 'answers' with a list of {text, start_char}, empty where the document has no answer"
        )
    return golds, no_gold


def _read_predictions(uri: str, by: str | None, tuning_columns: Sequence[str]) -> list[_Prediction]:
    if uri.endswith(".json"):
        texts = _read_json(uri)
        return [_Prediction(None, question_id, text, text, None, NO_VALUE) for question_id, text in texts.items()]
    return [
        _Prediction(
            document_id=_string(row, "document_id"),
            question_id=str(row["question_id"]),
            text=row["answer"] or "",
            best_text=(row.get("n_best") or [row])[0]["answer"] or "",
            no_answer_score=row.get("no_answer_score"),
            group=_string(row, by) or NO_VALUE,
        )
        for row in _rows(uri, "answers", ["question_id", "answer"], ["document_id", by, *tuning_columns])
    ]


def _read_json(uri: str) -> dict[str, str]:
    try:
        text = read_text(uri)
        texts = None if text is None else json.loads(text)
    except ValueError as error:
        raise InputError(
            f"answers: {uri!r} is not JSON in UTF-8 ({error}); write {{question_id: text}} again"
        ) from error
    if text is None:
        raise InputError(f"answers: no such file: {uri!r}; give a job's output folder, Parquet, or predictions in JSON")
    if not isinstance(texts, dict):
        raise InputError(f"answers: {uri!r} holds a JSON {type(texts).__name__}; give an object {{question_id: text}}")
    for question_id, answer in texts.items():
        if not isinstance(answer, str):
            kind = type(answer).__name__
            raise InputError(
                f'answers: {uri!r} has a {kind} for {_name(None, question_id)}; give a text, "" for no answer'
            )
    return texts


def _is_questions_column(by: str, questions: str, answers: str) -> bool:
    """Whether ``by`` is a column of the questions; if not, it is one of the answers."""
    tables = {"questions": _column_names(questions, "questions")}
    if not answers.endswith(".json"):
        tables["answers"] = _column_names(answers, "answers")
    if any(by in names for names in tables.values()):
        return by in tables["questions"]
    there_are = "; ".join(f"the {table} have {', '.join(names)}" for table, names in tables.items())
    close = get_close_matches(by, sum(tables.values(), []), n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "name one of them with by=…"
    raise InputError(f"evaluate: no column {by!r}: {there_are}; {remedy}")


def _column_names(uri: str, what: str) -> list[str]:
    filesystem, _ = open_filesystem(uri)
    return open_parquet(filesystem, parquet_files(uri, what)[0], what).schema_arrow.names


def _rows(uri: str, what: str, required: Sequence[str], optional: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """The rows of all files with these columns only, of ``n_best`` the first; an optional column may be absent."""
    filesystem, _ = open_filesystem(uri)
    for path in parquet_files(uri, what):
        file = open_parquet(filesystem, path, what)
        names = file.schema_arrow.names
        if lacking := [column for column in required if column not in names]:
            raise InputError(
                f"{what}: no column {lacking[0]!r} in {path!r}; there are {', '.join(names)}; rename one of them"
            )
        for batch in file.iter_batches(columns=[column for column in (*required, *optional) if column in names]):
            if "n_best" in batch.schema.names:
                best = pc.list_slice(batch["n_best"], 0, 1)
                batch = batch.set_column(batch.schema.get_field_index("n_best"), "n_best", best)
            yield from batch.to_pylist()


def _string(row: dict[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    return None if value is None else str(value)
