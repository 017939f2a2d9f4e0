"""Part files -> files of answers and rejects: one row per (document, question). The work of the commit, in Ray tasks.

Part files are taken in the order of their smallest document ids. So where the documents' order follows their ids, a
row group of the answers holds a narrow range of ids, and readers skip the others.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from qa_ray.answering.part_files import PartFile, PartRows, read_rows, rows_to_count
from qa_ray.answering.previous import NO_ANSWERS, ROWS_PER_TABLE, PreviousAnswers, ReusedAnswers, gather_answers
from qa_ray.io.id_types import id_strings, ids_of_type
from qa_ray.io.storage import configure_s3
from qa_ray.output.sinks import FileSink, ParquetSink, TableSink
from qa_ray.runtime.tasks import run_tasks
from qa_ray.schemas import PART

ROWS_PER_FILE = 250_000  # some 125 MB of Parquet with five n-best entries each


@dataclass(frozen=True)
class FlattenSettings:
    """What all tasks of a commit share."""

    storage: dict[str, Any]  # for configure_s3
    parts: str  # the folder of the part files
    output: str
    attempt: str  # what the names of the files end with
    formats: dict[str, type[FileSink]]  # of the answers, by folder
    id_column: str
    answers: pa.Schema  # schemas.flat(ANSWER, …), with the types of the input's ids
    rejects: pa.Schema  # schemas.flat(REJECT, …), likewise
    model_fingerprint: str
    run_id: str


class Flattened(NamedTuple):
    """What part files became."""

    files: dict[str, list[dict[str, Any]]]  # by folder, as the manifest lists them
    counts: Counter[str]  # documents, windows, tokens, answers, reused (of the answers), rejects
    rejects_by_reason: Counter[str]


class Group(NamedTuple):
    """Part files whose answers become one file."""

    parts: list[PartRows]
    positions: np.ndarray  # of the ``previous`` answers that they take over


def flatten_parts(
    settings: FlattenSettings,
    parts: Sequence[PartFile],
    first_number: int,
    previous: PreviousAnswers = NO_ANSWERS,
) -> Flattened:
    """The answers and rejects in all part files, as files of about ROWS_PER_FILE, numbered from ``first_number``.

    ``previous`` holds the answers that they take over.
    """
    groups = list(_groups(parts))
    reused = gather_answers(previous, settings.storage, [group.positions for group in groups])
    names = [file_name(first_number + i, settings.attempt) for i in range(len(groups))]
    total = Flattened({folder: [] for folder in (*settings.formats, "rejects")}, Counter(), Counter())
    total.counts.update(documents=0, windows=0, windows_read=0, tokens=0, answers=0, reused=0, rejects=0)
    tasks = [(settings, group.parts, name, *tables) for group, name, tables in zip(groups, names, reused, strict=True)]
    for result in run_tasks(flatten_group, tasks):
        for folder, files in result.files.items():
            total.files[folder] += files
        total.counts.update(result.counts)
        total.rejects_by_reason.update(result.rejects_by_reason)
    return total


def file_name(number: int, attempt: str) -> str:
    """The name of a data file, without its suffix."""
    return f"part-{number:05d}-{attempt}"


def _groups(parts: Sequence[PartFile]) -> Iterator[Group]:
    """Part files, in order, that have about ROWS_PER_FILE answers together."""
    group: list[PartRows] = []
    positions = [np.empty(0, np.int64)]
    num_answers = 0
    for part, rows in zip(parts, rows_to_count(parts), strict=True):
        if group and num_answers + part.num_answers > ROWS_PER_FILE:
            yield Group(group, np.concatenate(positions))
            group, positions, num_answers = [], positions[:1], 0
        group.append(rows)
        positions.append(part.reused)
        num_answers += part.num_answers
    if group:
        yield Group(group, np.concatenate(positions))


def flatten_group(settings: FlattenSettings, parts: Sequence[PartRows], name: str, *tables: pa.Table) -> Flattened:
    """The answers and rejects in these part files, as one file of the ``name`` in each format.

    ``tables`` are the earlier answers that they take over, as ReusedAnswers wants them.
    """
    configure_s3(**settings.storage)
    reused = ReusedAnswers(tables)
    answers = TableSink(settings.output, name, settings.formats)
    rejects = TableSink(settings.output, name, {"rejects": ParquetSink})
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for part in read_rows(settings.parts, parts):
        counts["documents"] += part.num_rows
        counts["windows"] += int(part["num_windows"].to_numpy().sum())
        counts["windows_read"] += int(part["num_windows_read"].to_numpy().sum())
        counts["tokens"] += int(part["num_tokens"].to_numpy().sum())
        answers.write(flatten_answers(part, settings))
        for table in reused_answers(part, reused, settings) if tables else ():
            answers.write(table)
            windows, windows_read = (int(table[name].to_numpy().sum()) for name in ("num_windows", "num_windows_read"))
            counts.update(reused=table.num_rows, windows=windows, windows_read=windows_read)
        part_rejects = flatten_lists(part, "rejects", settings.rejects, settings.id_column)[0]
        rejects.write(part_rejects)
        reasons.update(part_rejects["reason"].to_pylist())
    counts.update(answers=answers.num_rows, rejects=rejects.num_rows)
    return Flattened(answers.close() | rejects.close(), counts, reasons)


def flatten_answers(part: pa.Table, settings: FlattenSettings) -> pa.Table:
    """One row per answer: the columns of schemas.ANSWERS, then the passed-through ones."""
    table, parents = flatten_lists(part, "answers", settings.answers, settings.id_column)
    for name, value in (("model_fingerprint", settings.model_fingerprint), ("run_id", settings.run_id)):
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    table = table.append_column("text_sha256", part["text_sha256"].take(parents))
    return _with_passed_through(table, part, parents, settings)


def reused_answers(part: pa.Table, reused: ReusedAnswers, settings: FlattenSettings) -> Iterator[pa.Table]:
    """The rows of the earlier answers that ``part`` takes over, as ``flatten_answers`` has them.

    They keep the id of the run that answered; the passed-through columns are those of today's document.
    """
    schema = flatten_answers(part.slice(0, 0), settings).schema
    lists = part["reused"].combine_chunks()
    parents, positions = lists.value_parent_indices().to_numpy(), lists.flatten().to_numpy()
    order = np.argsort(positions)
    for start in range(0, len(order), ROWS_PER_TABLE):
        entries = order[start : start + ROWS_PER_TABLE]
        table = reused.at(positions[entries])
        for name in ("document_id", "question_id"):
            ids = ids_of_type(table[name], schema.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), name, ids)
        yield _with_passed_through(table, part, pa.array(parents[entries]), settings).cast(schema)


def _with_passed_through(table: pa.Table, part: pa.Table, parents: pa.Array, settings: FlattenSettings) -> pa.Table:
    """The table with the passed-through columns of the documents in rows ``parents`` of ``part``."""
    for name in part.schema.names:
        if name not in (settings.id_column, *PART.names):
            table = table.append_column(part.schema.field(name), part[name].take(parents))
    return table


def flatten_lists(part: pa.Table, column: str, schema: pa.Schema, id_column: str) -> tuple[pa.Table, pa.Array]:
    """One row per entry of the list ``column``: the columns of ``schema``; and its row in part."""
    lists = part[column].combine_chunks()
    parents, entries = lists.value_parent_indices(), lists.flatten()
    document_id, question_id, *others = schema
    ids = part[id_column] if part[id_column].type == document_id.type else id_strings(part[id_column])
    arrays = [
        ids.cast(document_id.type).take(parents),
        ids_of_type(entries.field(question_id.name), question_id.type),
        *(entries.field(field.name).cast(field.type) for field in others),
    ]
    return pa.table(arrays, schema=schema), parents
