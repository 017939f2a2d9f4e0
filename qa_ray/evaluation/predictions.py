"""Reads gold answers and predictions from Parquet or SQuAD's JSON, and pairs them by their ids.

All texts are held in memory. Of the Parquet files only the columns in use are read. Gold answers are in a table of
questions, or in one of documents whose column QUESTIONS holds lists of them.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.json_text import parse_json
from qa_ray.io.parquet_listing import list_parquet
from qa_ray.io.partitions import partition_types, partition_values
from qa_ray.io.storage import join, open_filesystem, open_parquet, read_text
from qa_ray.io.table_files import open_table
from qa_ray.log import LOG
from qa_ray.wording import counted

QUESTIONS = "questions"


class Gold(NamedTuple):
    """The gold answers of a question."""

    document_id: str | None
    question_id: str
    texts: list[str]  # empty: the document does not answer the question
    values: Sequence[Any] = ()  # of the columns to group by; None for a column of the answers table


class Prediction(NamedTuple):
    """The answer to a question."""

    document_id: str | None
    question_id: str
    text: str  # "": no answer
    spans: Sequence[tuple[str, float]]  # the n best and their scores (NaN: unknown), also where the answer is null
    no_answer_score: float | None
    question: str = ""
    values: Sequence[Any] = ()  # of the columns to group by; None for a column of the questions table

    @property
    def best_span(self) -> tuple[str, float]:
        """The best span and its score, also where the answer is null."""
        return self.spans[0] if self.spans else ("", 0.0)


def pair_by_id(golds: Sequence[Gold], predictions: Sequence[Prediction]) -> list[tuple[Gold, Prediction | None]]:
    """Each gold row with its prediction, if there is one.

    Rows are paired by (document_id, question_id) where both sides have a document, else by question_id alone.

    Raises:
        InputError: no common id; an id with two rows.
    """
    have_documents = any(prediction.document_id is not None for prediction in predictions)
    keys = [(gold.document_id if have_documents else None, gold.question_id) for gold in golds]
    predictions_by_key: dict[tuple[str | None, str], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        for document_id in {prediction.document_id, None}:
            predictions_by_key[document_id, prediction.question_id].append(prediction)
    for key, count in Counter(keys).items():
        for table, num_rows in (("questions", count), ("answers", len(predictions_by_key.get(key, ())))):
            if num_rows > 1:
                remedy = "keep one, or distinguish them by document_id in both questions and answers"
                raise InputError(f"{table}: {question_name(*key)} has {num_rows} rows; {remedy}")
    if not predictions_by_key.keys() & set(keys):
        answered = f"the first answer is to {question_name(*predictions[0][:2])}" if predictions else "no answers"
        raise InputError(
            f"evaluate: no answer has the id of a gold answer: {answered}, "
            f"the first gold answer is to {question_name(*golds[0][:2])}; give the questions that were answered"
        )
    return [
        (gold, predictions_by_key[key][0] if key in predictions_by_key else None)
        for gold, key in zip(golds, keys, strict=True)
    ]


def question_name(document_id: str | None, question_id: str) -> str:
    """A question as error messages name it."""
    return f"question {question_id!r}" + (f" of document {document_id!r}" if document_id is not None else "")


def answers_uri(uri: str) -> str:
    """The URI of the answers table: a job's output folder has it in ``answers``, complete once ``_SUCCESS`` exists.

    Raises:
        InputError: a job that has not finished.
    """
    filesystem, path = open_filesystem(uri)
    if not any(filesystem.isdir(join(path, name)) for name in ("answers", "_run")):
        return uri
    if read_text(join(uri, "_SUCCESS")) is None:
        remedy = "run the same answer command again to finish it"
        raise InputError(f"answers: no _SUCCESS in {uri!r}, so the job has not finished; {remedy}")
    return join(uri, "answers")


def read_golds(uri: str, columns: Sequence[str | None] = ()) -> tuple[list[Gold], int]:
    """The questions that have gold answers, with their values of ``columns``, and the number of those that have none.

    Raises:
        InputError: an unusable path, column or file; no gold answers.
    """
    golds, num_without, num_blank = [], 0, 0
    for row in _question_rows(uri, ["document_id", *columns]):
        document_id, question_id = _string(row, "document_id"), str(row["question_id"])
        if row["answers"] is None:
            num_without += 1
            continue
        try:
            texts = [gold["text"] or "" for gold in row["answers"]]
        except (TypeError, KeyError) as error:
            place = f"{question_name(document_id, question_id)} in {uri!r}"
            raise InputError(f"questions: {place} has gold {row['answers']!r}; give a list of {{text, …}}") from error
        answers = [text for text in texts if text.strip()]
        num_blank += len(texts) - len(answers)
        golds.append(Gold(document_id, question_id, answers, _values(row, columns)))
    if num_blank:
        LOG.info("questions: %s with a blank text, left out", counted(num_blank, "gold answer"))
    if not golds:
        raise InputError(f"questions: no gold answers in the {num_without} rows of {uri!r}; fill the column 'answers'")
    return golds, num_without


def read_predictions(uri: str, columns: Sequence[str | None] = (), *, n_best: bool = False) -> list[Prediction]:
    """An answers table, or predictions in SQuAD's layout (``*.json``), which have no scores.

    Of each question's spans the first is kept, or all of them with ``n_best``.

    Raises:
        InputError: an unusable path, column or file.
    """
    if uri.endswith(".json"):
        no_values = (None,) * len(columns)
        return [
            Prediction(None, question_id, text, [(text, math.nan)] if text else [], None, "", no_values)
            for question_id, text in _read_json(uri).items()
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
    remedy = "write {question_id: text} in UTF-8"
    try:
        text = read_text(uri)
    except UnicodeDecodeError as error:
        raise InputError(f"answers: {uri!r} is not JSON: {error}; {remedy}") from error
    if text is None:
        raise InputError(f"answers: no such file: {uri!r}; give a job's output folder, Parquet, or predictions in JSON")
    texts = parse_json(text.removeprefix("\ufeff"), f"answers: {uri!r}", remedy)
    if not isinstance(texts, dict):
        raise InputError(
            f"answers: {uri!r} contains a {type(texts).__name__}, not an object; write {{question_id: text}}"
        )
    for question_id, answer in texts.items():
        if not isinstance(answer, str):
            remedy = 'write a string, "" for no answer'
            raise InputError(f"answers: {uri!r} has {answer!r} for {question_name(None, question_id)}; {remedy}")
    return texts


def table_with(column: str, questions: str, answers: str) -> str:
    """The table that has this column: "questions", else "answers".

    Raises:
        InputError: neither has it.
    """
    uris = {"questions": questions} | ({} if answers.endswith(".json") else {"answers": answers})
    columns = {}
    for table, uri in uris.items():
        columns[table] = open_table(uri, table).names
        if column in columns[table]:
            return table
    known = "; ".join(f"the {table} have {', '.join(names)}" for table, names in columns.items())
    close = get_close_matches(column, {name for names in columns.values() for name in names}, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "name one of them with by=…"
    raise InputError(f"evaluate: no column {column!r}: {known}; {remedy}")


def _question_rows(uri: str, optional: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """The rows of a table of questions, or the entries of the documents' lists with the columns of their documents."""
    columns = open_table(uri, "questions").names
    if QUESTIONS not in columns or "question_id" in columns:
        yield from _rows(uri, "questions", ["question_id", "answers"], optional)
        return
    for row in _rows(uri, "questions", ["document_id", QUESTIONS], optional):
        for entry in row.pop(QUESTIONS) or ():
            if entry is None:
                continue
            if not isinstance(entry, dict) or not {"question_id", "answers"} <= entry.keys():
                raise InputError(
                    f"questions: document {row['document_id']!r} in {uri!r} has the question {entry!r}; give "
                    f"{QUESTIONS} as lists of structs with question_id and answers"
                )
            if entry["question_id"] is not None:  # without an id, it was rejected
                yield row | entry


def _rows(uri: str, table: str, required: Sequence[str], optional: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """The rows of all files, with these columns only, which folders may give, too; an optional one may be absent."""
    filesystem, _ = open_filesystem(uri)
    listing, wanted = list_parquet(uri, table), {*required, *optional}
    if listing.counts.not_read:
        LOG.info("%s: %s", table, listing.counts.words)
    types = partition_types(listing.paths, listing.root)
    for path in listing.paths:
        file = open_parquet(filesystem, path, table)
        names = file.schema_arrow.names
        folders = {
            name: pa.array([value], pa.string()).cast(types[name])[0].as_py()
            for name, value in partition_values(path, listing.root).items()
            if name in wanted and name not in names
        }
        if repeated := [name for name in names if name in wanted and names.count(name) > 1]:
            raise InputError(f"{table}: {path!r} has two columns {repeated[0]!r}; drop or rename one of them")
        missing = [column for column in required if column not in names and column not in folders]
        if missing and file.metadata.num_rows:
            columns = ", ".join(names)
            raise InputError(f"{table}: no column {missing[0]!r} in {path!r}, which has {columns}; rename or add it")
        for batch in file.iter_batches(columns=[name for name in names if name in wanted]):
            yield from (row | folders for row in batch.to_pylist())


def _string(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value)
