"""Opens and checks the table of documents: files, columns, types, ids; and reads its row groups.

The driver checks everything before the run that can be checked without reading a document's text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.column_types import decoded
from qa_ray.io.document_ids import check_ids, hashes_by_file
from qa_ray.io.id_hashes import is_in
from qa_ray.io.id_types import common_id_type
from qa_ray.io.parquet_listing import FileCounts
from qa_ray.io.question_lists import (
    QuestionLists,
    id_types,
    list_leaves,
    question_lists,
    read_lists,
    rows_per_batch,
)
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_columns import TableColumns
from qa_ray.io.table_files import Footer, TableFiles, check_name, check_type, open_table
from qa_ray.schemas import ANSWERS, PART, TOKENIZED

# Columns that a run adds to those of a document, in intermediate tables or in the answers.
RESERVED = {*ANSWERS.names, *PART.names, *TOKENIZED.names}

SAMPLED_GROUPS = 16
# A page is the smallest unit that can be read. Arrow, for one, writes 1,024 rows per page, however long they are.
ROWS_PER_PAGE = 1_024
MAX_SAMPLED_PAGE_BYTES = 64_000_000
BATCH_BYTES = 16_000_000  # of documents, read at a time


class RowGroup(NamedTuple):
    """A row group of a file of documents; bytes are uncompressed sizes from the file's footer."""

    path: str
    number: int  # within the file
    num_rows: int
    text_bytes: int
    num_bytes: int  # of all columns

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"row group {self.number} of {self.path!r}"


@dataclass(frozen=True)
class DocumentTable:
    """A table of documents that passed the checks."""

    uri: str
    paths: tuple[str, ...]
    id_column: str
    text_column: str
    lists: QuestionLists | None  # None: no such column, the questions are in a table of their own
    passed_through: tuple[str, ...]
    columns: TableColumns  # ids, texts and what is passed through
    all_columns: tuple[str, ...]
    listed_id_type: pa.DataType | None  # of the questions' ids in the lists
    num_documents: int
    num_listed: int  # questions in all lists, those that become rejects included
    row_groups: tuple[RowGroup, ...]  # without empty ones
    text_bytes: int
    fingerprint: str  # sha256 over the files' names, sizes and footers
    hash_key: str  # of hash_ids: under it, no two ids of this table have the same hash
    files: FileCounts
    notes: tuple[str, ...]  # what a person should know about how the table was read

    @property
    def id_type(self) -> pa.DataType:
        """The type of the ids."""
        return self.columns.schema.field(self.id_column).type


def open_documents(
    uri: str, columns: Mapping[str, str | None], keep: Sequence[str] | None = None, *, with_lists: bool = False
) -> DocumentTable:
    """The documents at ``uri``; ``columns`` maps ``document_id`` and ``text`` to the table's own names.

    ``keep`` names the other columns to pass through to the answers; None: all of them. ``with_lists`` takes the column
    that ``columns`` calls ``questions``, if there is one, as the questions of each document (``question_lists.py``).

    Raises:
        InputError: no such path, not Parquet, a column missing or of the wrong type, null or duplicate ids, no rows.
    """
    files = open_table(uri, "documents")
    id_column, text_column = str(columns["document_id"]), str(columns["text"])
    lists = question_lists(columns) if with_lists else None
    stored = {name for schema, _ in files.layouts for name in schema.names} - {id_column, text_column}
    lists = lists if lists and lists.column in stored else None
    passed_through = _check_names(files, id_column, text_column, lists, keep)
    read = TableColumns("documents", files.root, _schema(files, id_column, text_column, passed_through))
    listed_id_type = common_id_type(id_types(files, lists)) if lists else None
    if not files.num_rows:
        raise InputError(f"documents: {uri!r} has {files.counts.words} and no row; nothing to answer")
    paths = tuple(footer.path for footer in files.footers)
    hash_key, num_listed = check_ids(uri, paths, read.select([id_column]), lists)
    row_groups = [group for footer in files.footers for group in _row_groups(footer, text_column)]
    notes = [*files.notes(read.schema.names), *(_without_lists(files, lists) if lists else ())]
    return DocumentTable(
        uri=uri,
        paths=paths,
        id_column=id_column,
        text_column=text_column,
        lists=lists,
        passed_through=tuple(passed_through),
        columns=read,
        all_columns=tuple(files.names),
        listed_id_type=listed_id_type,
        num_documents=files.num_rows,
        num_listed=num_listed,
        row_groups=tuple(row_groups),
        text_bytes=sum(group.text_bytes for group in row_groups),
        fingerprint=files.fingerprint,
        hash_key=hash_key,
        files=files.counts,
        notes=tuple(notes),
    )


class SampledDocument(NamedTuple):
    """A document that is not checked yet."""

    id: str
    text: pa.Scalar
    listed: pa.Scalar | None  # its questions as question_lists.LISTED, if the table has them


def sample(documents: DocumentTable, num_documents: int) -> Iterator[SampledDocument]:
    """About ``num_documents`` documents, evenly spaced over up to SAMPLED_GROUPS row groups of the table.

    Row groups whose pages are too large for the driver's memory are skipped.
    """
    groups = [
        group
        for group in documents.row_groups
        if group.text_bytes / group.num_rows * min(group.num_rows, ROWS_PER_PAGE) < MAX_SAMPLED_PAGE_BYTES
    ]
    groups = groups[:: max(1, -(-len(groups) // SAMPLED_GROUPS))]
    every_row = max(1, sum(group.num_rows for group in groups) // num_documents)
    row = 0
    for group in groups:
        columns = documents.columns.select([documents.id_column, documents.text_column])
        for batch in read_row_groups(documents.uri, [group], columns, documents.lists):
            ids, texts, *lists = batch.columns
            for index in range(-row % every_row, batch.num_rows, every_row):
                yield SampledDocument(str(ids[index].as_py()), texts[index], lists[0][index] if lists else None)
            row += batch.num_rows


def read_row_groups(
    uri: str, groups: Sequence[RowGroup], columns: TableColumns, lists: QuestionLists | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of row groups of one file, in batches of about BATCH_BYTES; their ``lists`` are the last column.

    All batches have the same schema, that of ``columns``, however the files differ; lists are question_lists.LISTED.
    """
    filesystem, _ = open_filesystem(uri)
    path, num_bytes = groups[0].path, max(group.num_bytes for group in groups)
    num_rows = max(group.num_rows for group in groups)
    # Dictionary encoding stores few distinct values in few bytes, which are many once decoded: hence ROWS_PER_PAGE.
    batch_rows = max(1, min(ROWS_PER_PAGE, num_rows * BATCH_BYTES // max(num_bytes, 1)))
    numbers = [group.number for group in groups]
    with reading(path, "documents"):
        file = open_parquet(filesystem, path, "documents", stream=num_bytes > BATCH_BYTES)
        read_columns = columns.stored_in(file.schema_arrow)
        has_lists = lists is not None and lists.column in file.schema_arrow.names
        if lists and has_lists:
            leaves = list_leaves(file.metadata, lists, [lists.question_id, lists.question])
            batch_rows = min(batch_rows, rows_per_batch(leaves, file.metadata.num_rows))
            read_columns = [*read_columns, *leaves.names]
        for batch in file.iter_batches(batch_rows, row_groups=numbers, columns=read_columns):
            arrays, names = columns.of(batch, path), columns.schema.names
            if lists:
                listed = batch[lists.column] if has_lists else pa.nulls(batch.num_rows)
                arrays, names = [*arrays, read_lists(listed, lists)], [*names, lists.column]
            yield pa.record_batch(arrays, names)


def document_hashes(documents: DocumentTable) -> np.ndarray:
    """The hashes of all document ids in table order, [num_documents] uint64."""
    ids = documents.columns.select([documents.id_column])
    return np.concatenate(hashes_by_file(documents.uri, documents.paths, ids, documents.hash_key))


def unfinished_row_groups(documents: DocumentTable, finished: np.ndarray) -> list[RowGroup]:
    """The row groups with a document whose id hash is not in ``finished``, which is sorted uint64."""
    if not len(finished):
        return list(documents.row_groups)
    is_finished = is_in(document_hashes(documents), finished)
    stops = np.cumsum([group.num_rows for group in documents.row_groups])
    rows = np.split(is_finished, stops[:-1])
    return [group for group, finished in zip(documents.row_groups, rows, strict=True) if not finished.all()]


def _check_names(
    files: TableFiles, id_column: str, text_column: str, lists: QuestionLists | None, keep: Sequence[str] | None
) -> list[str]:
    """The names of the columns to pass through.

    Raises:
        InputError: a column that is missing, named twice, or named as those of the job itself.
    """
    for name, column in (("document_id", id_column), ("text", text_column)):
        check_name(files.names, name, column, "documents")
        files.check_in_all(column)
    if id_column == text_column:
        raise InputError(f"documents: columns.document_id and columns.text both name {id_column!r}; name two columns")
    for name in keep or ():
        check_name(files.names, None, name, "documents")
        if lists and name == lists.column:
            raise InputError(
                f"documents: columns.keep names {name!r}, which holds the questions; they are in the answers anyway: "
                "leave it out"
            )
    others = [name for name in files.names if name not in (id_column, text_column, *(lists[:1] if lists else ()))]
    passed_through = [name for name in others if keep is None or name in keep]
    if reserved := [name for name in passed_through if name in RESERVED]:
        raise InputError(
            f"documents: the column {reserved[0]!r} has a name that the job uses itself; "
            "rename it, or name the columns to pass through with columns.keep=[…]"
        )
    if id_column in RESERVED - {"document_id"}:
        raise InputError(f"documents: the id column {id_column!r} has a name that the job uses itself; rename it")
    return passed_through


def _schema(files: TableFiles, id_column: str, text_column: str, passed_through: Sequence[str]) -> pa.Schema:
    """The columns to read, with the types that they have in all files.

    Raises:
        InputError: there is no such type, or it is none of an id or a text.
    """
    fields = []
    for name, column in (("document_id", id_column), ("text", text_column)):
        column_type = decoded(files.column_type(column))
        check_type(column_type, name, column, "documents")
        fields.append((column, column_type))
    return pa.schema(fields + [(name, files.column_type(name)) for name in passed_through])


def _without_lists(files: TableFiles, lists: QuestionLists) -> Iterator[str]:
    lacking = [footer for schema, footers in files.layouts if lists.column not in schema.names for footer in footers]
    if lacking:
        yield (
            f"documents: {len(lacking):,} of {files.counts.num_files:,} files have no column {lists.column!r}, such as "
            f"{lacking[0].path!r}: their documents have no questions of their own"
        )


def _row_groups(footer: Footer, text_column: str) -> Iterator[RowGroup]:
    for number in range(footer.metadata.num_row_groups):
        group = footer.metadata.row_group(number)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
        if group.num_rows:
            text_bytes = chunks[text_column].total_uncompressed_size if text_column in chunks else 0
            yield RowGroup(footer.path, number, group.num_rows, text_bytes, group.total_byte_size)
