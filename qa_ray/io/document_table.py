"""Opens and checks the table of documents: files, columns, types, ids; and reads its row groups.

The driver checks everything before the run that can be checked without reading a document's text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.document_ids import check_ids, hashes_by_file
from qa_ray.io.id_hashes import is_in
from qa_ray.io.question_lists import (
    QuestionLists,
    check_lists,
    list_leaves,
    question_lists,
    read_lists,
    rows_per_batch,
)
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_files import (
    Footer,
    check_column,
    common_schema,
    fingerprint_of,
    read_footers,
    without_views,
)
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
    schema: pa.Schema
    num_documents: int
    num_listed: int  # questions in all lists, those that become rejects included
    row_groups: tuple[RowGroup, ...]  # without empty ones
    text_bytes: int
    fingerprint: str  # sha256 over the files' names, sizes and footers
    hash_key: str  # of hash_ids: under it, no two ids of this table have the same hash


def open_documents(
    uri: str, columns: Mapping[str, str | None], keep: Sequence[str] | None = None, *, with_lists: bool = False
) -> DocumentTable:
    """The documents at ``uri``; ``columns`` maps ``document_id`` and ``text`` to the table's own names.

    ``keep`` names the other columns to pass through to the answers; None: all of them. ``with_lists`` takes the column
    that ``columns`` calls ``questions``, if there is one, as the questions of each document (``question_lists.py``).

    Raises:
        InputError: no such path, not Parquet, a column missing or of the wrong type, null or duplicate ids, no rows.
    """
    footers = read_footers(uri, "documents")
    schema = common_schema(footers, "documents")
    id_column, text_column = str(columns["document_id"]), str(columns["text"])
    lists = question_lists(columns) if with_lists else None
    lists = lists if lists and lists.column in {*schema.names} - {id_column, text_column} else None
    passed_through = _check_columns(schema, id_column, text_column, lists, keep)
    _check_same_types(footers, [id_column, text_column, *passed_through])
    if lists:
        for footer in footers:
            check_lists(footer.schema, lists, "documents")
    num_documents = sum(footer.metadata.num_rows for footer in footers)
    if not num_documents:
        raise InputError(f"documents: {uri!r} has {len(footers)} Parquet files and no row; nothing to answer")
    paths = tuple(footer.path for footer in footers)
    hash_key, num_listed = check_ids(uri, paths, id_column, lists)
    row_groups = [group for footer in footers for group in _row_groups(footer, text_column)]
    return DocumentTable(
        uri=uri,
        paths=paths,
        id_column=id_column,
        text_column=text_column,
        lists=lists,
        passed_through=tuple(passed_through),
        schema=schema,
        num_documents=num_documents,
        num_listed=num_listed,
        row_groups=tuple(row_groups),
        text_bytes=sum(group.text_bytes for group in row_groups),
        fingerprint=fingerprint_of(footers),
        hash_key=hash_key,
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
        columns = [documents.id_column, documents.text_column]
        for batch in read_row_groups(documents.uri, [group], columns, documents.lists):
            ids, texts, *lists = batch.columns
            for index in range(-row % every_row, batch.num_rows, every_row):
                yield SampledDocument(str(ids[index].as_py()), texts[index], lists[0][index] if lists else None)
            row += batch.num_rows


def read_row_groups(
    uri: str, groups: Sequence[RowGroup], columns: list[str], lists: QuestionLists | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of row groups of one file, in batches of about BATCH_BYTES; their ``lists`` are the last column.

    All batches have the same schema, though files may differ in nullability and metadata; views become large strings,
    and lists are question_lists.LISTED.
    """
    filesystem, _ = open_filesystem(uri)
    path, num_bytes = groups[0].path, max(group.num_bytes for group in groups)
    num_rows = max(group.num_rows for group in groups)
    # Dictionary encoding stores few distinct values in few bytes, which are many once decoded: hence ROWS_PER_PAGE.
    batch_rows = max(1, min(ROWS_PER_PAGE, num_rows * BATCH_BYTES // max(num_bytes, 1)))
    numbers = [group.number for group in groups]
    with reading(path, "documents"):
        file = open_parquet(filesystem, path, "documents", stream=num_bytes > BATCH_BYTES)
        read_columns = columns
        if lists:
            leaves = list_leaves(file.metadata, lists, [lists.question_id, lists.question])
            batch_rows = min(batch_rows, rows_per_batch(leaves, file.metadata.num_rows))
            read_columns = [*columns, *leaves.names]
        for batch in file.iter_batches(batch_rows, row_groups=numbers, columns=read_columns):
            arrays = [without_views(batch[name]) for name in columns]
            if lists:
                arrays.append(read_lists(batch[lists.column], lists))
            yield pa.record_batch(arrays, [*columns, lists.column] if lists else columns)


def document_hashes(documents: DocumentTable) -> np.ndarray:
    """The hashes of all document ids in table order, [num_documents] uint64."""
    return np.concatenate(hashes_by_file(documents.uri, documents.paths, documents.id_column, documents.hash_key))


def unfinished_row_groups(documents: DocumentTable, finished: np.ndarray) -> list[RowGroup]:
    """The row groups with a document whose id hash is not in ``finished``, which is sorted uint64."""
    if not len(finished):
        return list(documents.row_groups)
    is_finished = is_in(document_hashes(documents), finished)
    stops = np.cumsum([group.num_rows for group in documents.row_groups])
    rows = np.split(is_finished, stops[:-1])
    return [group for group, finished in zip(documents.row_groups, rows, strict=True) if not finished.all()]


def _check_columns(
    schema: pa.Schema, id_column: str, text_column: str, lists: QuestionLists | None, keep: Sequence[str] | None
) -> list[str]:
    """The names of the columns to pass through.

    Raises:
        InputError: a column that is missing, of the wrong type, named twice, or named as those of the job itself.
    """
    for name, column in (("document_id", id_column), ("text", text_column)):
        check_column(schema, name, column, "documents")
    if id_column == text_column:
        raise InputError(f"documents: columns.document_id and columns.text both name {id_column!r}; name two columns")
    for name in keep or ():
        check_column(schema, None, name, "documents")
        if lists and name == lists.column:
            raise InputError(
                f"documents: columns.keep names {name!r}, which holds the questions; they are in the answers anyway: "
                "leave it out"
            )
    others = [name for name in schema.names if name not in (id_column, text_column, *(lists[:1] if lists else ()))]
    passed_through = [name for name in others if keep is None or name in keep]
    if reserved := [name for name in passed_through if name in RESERVED]:
        raise InputError(
            f"documents: the column {reserved[0]!r} has a name that the job uses itself; "
            "rename it, or name the columns to pass through with columns.keep=[…]"
        )
    if id_column in RESERVED - {"document_id"}:
        raise InputError(f"documents: the id column {id_column!r} has a name that the job uses itself; rename it")
    return passed_through


def _check_same_types(footers: list[Footer], columns: list[str]) -> None:
    first = footers[0]
    for footer in footers[1:]:
        for column in columns:
            column_type, first_type = (each.schema.field(column).type for each in (footer, first))
            if column_type != first_type:
                raise InputError(
                    f"documents: the column {column!r} has type {column_type} in {footer.path!r} and {first_type} in "
                    f"{first.path!r}; write them with one schema, or name the columns to pass through with "
                    "columns.keep=[…]"
                )


def _row_groups(footer: Footer, text_column: str) -> Iterator[RowGroup]:
    for number in range(footer.metadata.num_row_groups):
        group = footer.metadata.row_group(number)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
        if group.num_rows:
            text_bytes = chunks[text_column].total_uncompressed_size
            yield RowGroup(footer.path, number, group.num_rows, text_bytes, group.total_byte_size)
