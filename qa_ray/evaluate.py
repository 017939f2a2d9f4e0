"""Answers and gold answers -> exact match and F1: of all, by answerable or not, by a column; and the best thresholds.

Which official script's rules apply:

- ``squad``, all questions answerable: SQuAD 1.1. A question without an answer row scores 0.
- ``squad``, some unanswerable: SQuAD 2.0. A question without an answer row counts as "no answer" (the script drops it).
- ``cmrc``: CMRC 2018. A question without an answer row, "skipped" in the script, stays in the total and scores 0.

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
    average: float  # (exact match + F1) / 2, the figure that CMRC ranks by
    count: int
    missing: int


@dataclass(frozen=True)
class Evaluation:
    """How well the answers agree with the gold answers; all scores in percent."""

    rules: str  # of "SQuAD 1.1", "SQuAD 2.0" or "CMRC 2018"
    overall: Figures
    answerable: dict[str, Figures]  # of has_answer and no_answer; empty if every question has one
    by: str | None
    groups: dict[str, Figures]  # of each value of the column ``by``, largest group first
    thresholds: dict[str, Threshold]  # for exact_match and f1; empty without no-answer scores or unanswerable questions
    no_gold: int  # questions without gold answers: in none of the counts

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def to_table(self) -> Table:
        """A table to read on a terminal."""
        notes = [f"average of EM and F1: {self.overall.average:.4f}"] if self.rules == "CMRC 2018" else []
        notes += [f"{self.no_gold:,} more without gold answers"] if self.no_gold else []
        table = Table(title=self.rules, caption="; ".join(notes))
        table.add_column(Text(self.by or ""))
        for heading in ("EM", "F1", "questions", "missing"):
            table.add_column(heading, justify="right")
        for name, figures in {"all": self.overall, **self.answerable}.items():
            table.add_row(name.replace("_", " "), *_cells(figures, 4))
        table.add_section()
        for name, best in self.thresholds.items():
            cells = [f"{best.score:.4f}" if name == column else "" for column in Scores._fields]
            table.add_row(f"best, up to no_answer_score {best.threshold:.6g}", *cells)
        table.add_section()
        for name, figures in self.groups.items():
            table.add_row(Text(name), *_cells(figures, 2))
        return table


def _cells(figures: Figures, decimals: int) -> list[str]:
    scores = (f"{score:.{decimals}f}" for score in (figures.exact_match, figures.f1))
    return [*scores, f"{figures.count:,}", f"{figures.missing:,}"]


class Gold(NamedTuple):
    """What answers a question."""

    document_id: str | None
    question_id: str
    texts: list[str]  # empty: the document does not answer the question
    group: str = NO_VALUE


class Prediction(NamedTuple):
    """What a question was answered with."""

    document_id: str | None
    question_id: str
    text: str
    best_text: str  # the best span's, also where the answer is null
    no_answer_score: float | None
    group: str = NO_VALUE


class _Outcome(NamedTuple):
    gold: Gold
    prediction: Prediction | None
    scores: Scores


def evaluate(answers: str, questions: str, metric: Metric = "squad", by: str | None = None) -> Evaluation:
    """Scores the answers against the questions' gold answers.

    ``answers`` is the output folder of a finished job, other Parquet with the columns of an answers table, or
    predictions in SQuAD's layout (``*.json``: {question_id: text}, "" for no answer); ``questions`` is Parquet in the
    layout of records.QUESTIONS. They meet by (document_id, question_id) where both have a document, else by question_id
    alone. ``by`` names a column of either, the questions' first. The thresholds are searched on the best spans: the one
    that the job ran with has no part in them.

    Raises:
        InputError: an unusable path, column or file; an unfinished job; no gold; no common id; an id with two rows.
    """
    answers = _answers_table(answers)
    by_table = by and _table_with(by, questions, answers)
    golds, no_gold = _read_golds(questions, by if by_table == "questions" else None)
    unanswerable = any(not gold.texts for gold in golds)
    tuning_columns = ["n_best", "no_answer_score"] if unanswerable else []
    predictions = _read_predictions(answers, by if by_table == "answers" else None, tuning_columns)
    return evaluate_pairs(golds, predictions, metric, by=by, by_answers=by_table == "answers", no_gold=no_gold)


def evaluate_pairs(
    golds: Sequence[Gold],
    predictions: Sequence[Prediction],
    metric: Metric,
    *,
    by: str | None = None,
    by_answers: bool = False,
    no_gold: int = 0,
) -> Evaluation:
    """Scores predictions against gold answers; grouped, if ``by`` says by what, as the golds or the answers say.

    Raises:
        InputError: no common id; an id with two rows.
    """
    unanswerable = any(not gold.texts for gold in golds)
    rules = rules_for(golds, metric)
    outcomes = [_score(gold, prediction, rules) for gold, prediction in _pairs(golds, predictions)]
    sides = [outcome.prediction if by_answers else outcome.gold for outcome in outcomes]
    return Evaluation(
        rules=rules,
        overall=_figures(outcomes),
        answerable=_group(outcomes, ["has_answer" if o.gold.texts else "no_answer" for o in outcomes])
        if unanswerable
        else {},
        by=by,
        groups=_group(outcomes, [side.group if side else NO_VALUE for side in sides]) if by else {},
        thresholds=_thresholds(outcomes, rules) if unanswerable else {},
        no_gold=no_gold,
    )


def rules_for(golds: Sequence[Gold], metric: Metric) -> str:
    """Which official script's rules apply: a key of those that score_text knows."""
    if metric == "cmrc":
        return "CMRC 2018"
    return "SQuAD 2.0" if any(not gold.texts for gold in golds) else "SQuAD 1.1"


def score_text(rules: str, text: str, gold: Gold) -> Scores:
    """The scores of a text for one question."""
    return _RULES[rules](text, gold.texts)


def _score(gold: Gold, prediction: Prediction | None, rules: str) -> _Outcome:
    if prediction or rules == "SQuAD 2.0":
        return _Outcome(gold, prediction, _RULES[rules](prediction.text if prediction else "", gold.texts))
    return _Outcome(gold, prediction, Scores(0.0, 0.0))


def _figures(outcomes: Sequence[_Outcome]) -> Figures:
    exact_match, f1 = (100 * math.fsum(column) / len(outcomes) for column in zip(*(o.scores for o in outcomes)))
    return Figures(exact_match, f1, (exact_match + f1) / 2, len(outcomes), sum(not o.prediction for o in outcomes))


def _group(outcomes: Sequence[_Outcome], names: Sequence[str]) -> dict[str, Figures]:
    """The figures of each name's outcomes, largest group first, then by name."""
    members = defaultdict(list)
    for name, outcome in zip(names, outcomes):
        members[name].append(outcome)
    return {name: _figures(members[name]) for name in sorted(members, key=lambda name: (-len(members[name]), name))}


def _thresholds(outcomes: Sequence[_Outcome], rules: str) -> dict[str, Threshold]:
    """The best for each score, in percent; questions without a no-answer score keep theirs whatever the threshold."""
    tuned, fixed = [], []
    for gold, prediction, scores in outcomes:
        if prediction and prediction.no_answer_score is not None:
            answered = _RULES[rules](prediction.best_text, gold.texts)
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
        thresholds[name] = Threshold(best.threshold, 100 * total / len(outcomes))
    return thresholds


def _pairs(golds: Sequence[Gold], predictions: Sequence[Prediction]) -> Iterator[tuple[Gold, Prediction | None]]:
    """Each gold row with its prediction, if there is one."""
    have_documents = any(prediction.document_id is not None for prediction in predictions)
    keys = [(gold.document_id if have_documents else None, gold.question_id) for gold in golds]
    found: dict[tuple[str | None, str], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        for document_id in {prediction.document_id, None}:
            found[document_id, prediction.question_id].append(prediction)
    for key, count in Counter(keys).items():
        for table, num_rows in (("questions", count), ("answers", len(found.get(key, ())))):
            if num_rows > 1:
                remedy = "keep one, or tell them apart by a document_id in questions and answers"
                raise InputError(f"{table}: {_name(*key)} has {num_rows} rows; {remedy}")
    if not found.keys() & set(keys):
        answered = _name(*predictions[0][:2]) if predictions else "no row"
        raise InputError(
            f"evaluate: the answers are to other questions than the gold answers: there {answered}, "
            f"here {_name(*golds[0][:2])}; give the questions that were answered"
        )
    return ((gold, found[key][0] if key in found else None) for gold, key in zip(golds, keys))


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


def _read_golds(uri: str, by: str | None) -> tuple[list[Gold], int]:
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
            place = f"{_name(document_id, question_id)} in {uri!r}"
            raise InputError(f"questions: {place} has gold {row['answers']!r}; give a list of {{text, …}}") from error
        golds.append(Gold(document_id, question_id, texts, _string(row, by) or NO_VALUE))
    if not golds:
        raise InputError(f"questions: no gold answers in the {no_gold} rows of {uri!r}; fill the column 'answers'")
    return golds, no_gold


def _read_predictions(uri: str, by: str | None, tuning_columns: Sequence[str]) -> list[Prediction]:
    if uri.endswith(".json"):
        return [Prediction(None, name, text, text, None, NO_VALUE) for name, text in _read_json(uri).items()]
    return [
        Prediction(
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
        texts = {} if text is None else json.loads(text)
    except ValueError as error:
        raise InputError(f"answers: {uri!r} is not JSON ({error}); write {{question_id: text}} in UTF-8") from error
    if text is None:
        raise InputError(f"answers: no such file: {uri!r}; give a job's output folder, Parquet, or predictions in JSON")
    if not isinstance(texts, dict):
        raise InputError(f"answers: {uri!r} holds a {type(texts).__name__}, no object; write {{question_id: text}}")
    for question_id, answer in texts.items():
        if not isinstance(answer, str):
            raise InputError(
                f'answers: {uri!r} has {answer!r} for {_name(None, question_id)}; write a text, "" for none'
            )
    return texts


def _table_with(by: str, questions: str, answers: str) -> str:
    """Which table has the column ``by``: "questions" or else "answers"."""
    uris = {"questions": questions} | ({} if answers.endswith(".json") else {"answers": answers})
    columns = {}
    for table, uri in uris.items():
        first_file = parquet_files(uri, table)[0]
        columns[table] = open_parquet(open_filesystem(uri)[0], first_file, table).schema_arrow.names
        if by in columns[table]:
            return table
    there_are = "; ".join(f"the {table} have {', '.join(names)}" for table, names in columns.items())
    close = get_close_matches(by, {name for names in columns.values() for name in names}, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "name one of them with by=…"
    raise InputError(f"evaluate: no column {by!r}: {there_are}; {remedy}")


def _rows(uri: str, what: str, required: Sequence[str], optional: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """The rows of all files with these columns only, of ``n_best`` the first; an optional column may be absent."""
    filesystem, _ = open_filesystem(uri)
    for path in parquet_files(uri, what):
        file = open_parquet(filesystem, path, what)
        names = file.schema_arrow.names
        if lacking := [column for column in required if column not in names]:
            raise InputError(f"{what}: no column {lacking[0]!r} in {path!r}, only {', '.join(names)}; rename or add it")
        for batch in file.iter_batches(columns=[name for name in names if name in {*required, *optional}]):
            if (n_best := batch.schema.get_field_index("n_best")) >= 0:
                first = pc.list_slice(batch[n_best], 0, 1)  # pyright: ignore[reportAttributeAccessIssue]
                batch = batch.set_column(n_best, "n_best", first)
            yield from batch.to_pylist()


def _string(row: dict[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    return None if value is None else str(value)
