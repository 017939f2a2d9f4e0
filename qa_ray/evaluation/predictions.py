"""Gold answers and predictions, read from Parquet or SQuAD's JSON, and brought together by their ids.

All texts are held in memory; of the Parquet files only the columns that are used are read.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from qa_ray.errors import InputError
from qa_ray.io.storage import join, open_filesystem, open_parquet, parquet_files, read_text


class Gold(NamedTuple):
    """What answers a question."""

    document_id: str | None
    question_id: str
    texts: list[str]  # empty: the document does not answer the question
    values: Sequence[Any] = ()  # of the columns that were asked for; None where they are the answers'


class Prediction(NamedTuple):
    """What a question was answered with."""

    document_id: str | None
    question_id: str
    text: str  # "": no answer
    spans: Sequence[tuple[str, float]]  # the n best and their scores (NaN: not known), also where the answer is null
    no_answer_score: float | None
    question: str = ""
    values: Sequence[Any] = ()  # of the columns that were asked for; None where they are the questions'


def pairs(golds: Sequence[Gold], predictions: Sequence[Prediction]) -> Iterator[tuple[Gold, Prediction | None]]:
    """Each gold row with its prediction, if there is one.

    They meet by (document_id, question_id) where both have a document, else by question_id alone.

    Raises:
        InputError: no common id; an id with two rows.
    """
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
                raise InputError(f"{table}: {name_of(*key)} has {num_rows} rows; {remedy}")
    if not found.keys() & set(keys):
        answered = name_of(*predictions[0][:2]) if predictions else "no row"
        raise InputError(
            f"evaluate: the answers are to other questions than the gold answers: there {answered}, "
            f"here {name_of(*golds[0][:2])}; give the questions that were answered"
        )
    return ((gold, found[key][0] if key in found else None) for gold, key in zip(golds, keys))


def name_of(document_id: str | None, question_id: str) -> str:
    return f"question {question_id!r}" + (f" of document {document_id!r}" if document_id is not None else "")


def answers_table(uri: str) -> str:
    """Where the answers themselves are: a job keeps them in a folder of its own, whole once there is ``_SUCCESS``."""
    filesystem, path = open_filesystem(uri)
    if not any(filesystem.isdir(join(path, name)) for name in ("answers", "_run")):
        return uri
    if read_text(join(uri, "_SUCCESS")) is None:
        raise InputError(f"answers: no _SUCCESS in {uri!r}, so the job has not finished; start it again and let it end")
    return join(uri, "answers")


def read_golds(uri: str, columns: Sequence[str | None] = ()) -> tuple[list[Gold], int]:
    """The questions with gold answers and their values of ``columns``, and the number of questions without gold.

    Raises:
        InputError: an unusable path, column or file; no gold.
    """
    golds, no_gold = [], 0
    for row in _rows(uri, "questions", ["question_id", "answers"], ["document_id", *columns]):
        document_id, question_id = _string(row, "document_id"), str(row["question_id"])
        if row["answers"] is None:
            no_gold += 1
            continue
        try:
            texts = [gold["text"] or "" for gold in row["answers"]]
        except (TypeError, KeyError) as error:
            place = f"{name_of(document_id, question_id)} in {uri!r}"
            raise InputError(f"questions: {place} has gold {row['answers']!r}; give a list of {{text, …}}") from error
        golds.append(Gold(document_id, question_id, texts, _values(row, columns)))
    if not golds:
        raise InputError(f"questions: no gold answers in the {no_gold} rows of {uri!r}; fill the column 'answers'")
    return golds, no_gold


def read_predictions(uri: str, columns: Sequence[str | None] = (), *, n_best: bool = False) -> list[Prediction]:
    """An answers table, or predictions in SQuAD's layout (``*.json``), which have no scores.

    Of each question's spans the first is kept, or with ``n_best`` all.

    Raises:
        InputError: an unusable path, column or file.
    """
    if uri.endswith(".json"):
        nothing = (None,) * len(columns)
        return [
            Prediction(None, name, text, [(text, math.nan)] if text else [], None, "", nothing)
            for name, text in _read_json(uri).items()
        ]
    optional = ["document_id", "score", "n_best", "no_answer_score", "question", *columns]
    predictions = []
    for row in _rows(uri, "answers", ["question_id", "answer"], optional):
        spans = row.get("n_best") or ([row] if row["answer"] else [])
        predictions.append(
            Prediction(
                document_id=_string(row, "document_id"),
                question_id=str(row["question_id"]),
                text=row["answer"] or "",
                spans=[_span(fields) for fields in (spans if n_best else spans[:1])],
                no_answer_score=row.get("no_answer_score"),
                question=row.get("question") or "",
                values=_values(row, columns),
            )
        )
    return predictions


def _span(fields: dict[str, Any]) -> tuple[str, float]:
    score = fields.get("score")
    return fields["answer"] or "", math.nan if score is None else score


def _values(row: dict[str, Any], columns: Sequence[str | None]) -> list[Any]:
    return [None if column is None else row.get(column) for column in columns]


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
                f'answers: {uri!r} has {answer!r} for {name_of(None, question_id)}; write a text, "" for none'
            )
    return texts


def table_with(by: str, questions: str, answers: str) -> str:
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
    """The rows of all files with these columns only; an optional column may be absent."""
    filesystem, _ = open_filesystem(uri)
    for path in parquet_files(uri, what):
        file = open_parquet(filesystem, path, what)
        names = file.schema_arrow.names
        if lacking := [column for column in required if column not in names]:
            raise InputError(f"{what}: no column {lacking[0]!r} in {path!r}, only {', '.join(names)}; rename or add it")
        for batch in file.iter_batches(columns=[name for name in names if name in {*required, *optional}]):
            yield from batch.to_pylist()


def _string(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)
