"""Opens and checks the table of documents: files, columns, types, ids; and reads its row groups.

The driver checks everything before the run that can be checked without reading a document's text.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.question_table import hash_ids
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_files import (
    LISTING_THREADS,
    WITHOUT_VIEWS,
    Footer,
    check_column,
    common_schema,
    fingerprint_of,
    read_footers,
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


@dataclass(frozen=True)
class DocumentTable:
    """A table of documents that passed the checks."""

    uri: str
    paths: tuple[str, ...]
    id_column: str
    text_column: str
    passed_through: tuple[str, ...]
    schema: pa.Schema
    num_documents: int
    row_groups: tuple[RowGroup, ...]  # without empty ones
    text_bytes: int
    fingerprint: str  # sha256 over the files' names, sizes and footers


def open_documents(uri: str, columns: Mapping[str, str], keep: Sequence[str] | None = None) -> DocumentTable:
    """The documents at ``uri``; ``columns`` maps ``document_id`` and ``text`` to the table's own names.

    ``keep`` names the other columns to pass through to the answers; None: all of them.

    Raises:
        InputError: no such path, not Parquet, a column missing or of the wrong type, null or duplicate ids, no rows.
    """
    footers = read_footers(uri, "documents")
    schema = common_schema(footers, "documents")
    id_column, text_column = columns["document_id"], columns["text"]
    for name, column in (("document_id", id_column), ("text", text_column)):
        check_column(schema, name, column, "documents")
    if id_column == text_column:
        raise InputError(f"documents: columns.document_id and columns.text both name {id_column!r}; name two columns")
    others = [name for name in schema.names if name not in (id_column, text_column)]
    for name in keep or ():
        check_column(schema, None, name, "documents")
    passed_through = [name for name in others if keep is None or name in keep]
    if reserved := [name for name in passed_through if name in RESERVED]:
        raise InputError(
            f"documents: the column {reserved[0]!r} has a name that the job uses itself; "
            "rename it, or name the columns to pass through with columns.keep=[…]"
        )
    if id_column in RESERVED - {"document_id"}:
        raise InputError(f"documents: the id column {id_column!r} has a name that the job uses itself; rename it")
    _check_same_types(footers, [id_column, text_column, *passed_through])
    num_documents = sum(footer.metadata.num_rows for footer in footers)
    if not num_documents:
        raise InputError(f"documents: {uri!r} has {len(footers)} Parquet files and no row; nothing to answer")
    _check_document_ids(uri, footers, id_column)
    row_groups = [group for footer in footers for group in _row_groups(footer, text_column)]
    return DocumentTable(
        uri=uri,
        paths=tuple(footer.path for footer in footers),
        id_column=id_column,
        text_column=text_column,
        passed_through=tuple(passed_through),
        schema=schema,
        num_documents=num_documents,
        row_groups=tuple(row_groups),
        text_bytes=sum(group.text_bytes for group in row_groups),
        fingerprint=fingerprint_of(footers),
    )


def sample(documents: DocumentTable, num_documents: int) -> Iterator[tuple[str, pa.Scalar]]:
    """(id, text) of about ``num_documents`` documents, evenly spaced over up to SAMPLED_GROUPS row groups of the table.

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
        for batch in read_row_groups(documents.uri, [group], columns):
            for index in range(-row % every_row, batch.num_rows, every_row):
                ids, texts = (batch[column] for column in columns)
                yield str(ids[index].as_py()), texts[index]
            row += batch.num_rows


def read_row_groups(uri: str, groups: Sequence[RowGroup], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The documents of row groups of one file, in batches of about BATCH_BYTES.

    All batches have the same schema, though files may differ in nullability and metadata; views become large strings.
    """
    filesystem, _ = open_filesystem(uri)
    path, num_bytes = groups[0].path, max(group.num_bytes for group in groups)
    num_rows = max(group.num_rows for group in groups)
    # Dictionary encoding stores few distinct values in few bytes, which are many once decoded: hence ROWS_PER_PAGE.
    batch_rows = max(1, min(ROWS_PER_PAGE, num_rows * BATCH_BYTES // max(num_bytes, 1)))
    numbers = [group.number for group in groups]
    with reading(path, "documents"):
        file = open_parquet(filesystem, path, "documents", stream=num_bytes > BATCH_BYTES)
        for batch in file.iter_batches(batch_rows, row_groups=numbers, columns=columns):
            arrays = [batch[name] for name in columns]
            yield pa.record_batch([a.cast(WITHOUT_VIEWS.get(a.type, a.type)) for a in arrays], columns)


def document_hashes(documents: DocumentTable) -> np.ndarray:
    """The hashes of all document ids in table order, [num_documents] uint64."""
    return np.concatenate(_hashes_by_file(documents.uri, documents.paths, documents.id_column))


def unfinished_row_groups(documents: DocumentTable, finished: np.ndarray) -> list[RowGroup]:
    """The row groups with a document whose id hash is not in ``finished`` (uint64)."""
    if not len(finished):
        return list(documents.row_groups)
    is_finished = np.isin(document_hashes(documents), finished)
    stops = np.cumsum([group.num_rows for group in documents.row_groups])
    rows = np.split(is_finished, stops[:-1])
    return [group for group, finished in zip(documents.row_groups, rows, strict=True) if not finished.all()]


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


def _check_document_ids(uri: str, footers: list[Footer], column: str) -> None:
    """Raises an InputError for a null or duplicate id. Hashes find candidates; only their ids are compared."""
    paths = [footer.path for footer in footers]
    hashes_by_file = _hashes_by_file(uri, paths, column)
    hashes = np.sort(np.concatenate(hashes_by_file))
    candidates = hashes[1:][hashes[1:] == hashes[:-1]]
    seen: dict[Any, str] = {}
    for path, hashes in zip(paths, hashes_by_file, strict=True):
        if not np.isin(hashes, candidates).any():
            continue
        for ids in _ids(uri, path, column):
            for id_ in ids.filter(pa.array(np.isin(hash_ids(ids), candidates))).to_pylist():
                if id_ in seen:
                    raise InputError(
                        f"documents: document_id {id_!r} occurs twice, in {seen[id_]!r} and in {path!r}; "
                        "ids must be unique: drop or rename one of them"
                    )
                seen[id_] = path


def _hashes_by_file(uri: str, paths: Sequence[str], column: str) -> list[np.ndarray]:
    def hashes(path: str) -> np.ndarray:
        return np.concatenate([np.empty(0, np.uint64), *map(hash_ids, _ids(uri, path, column))])

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(hashes, paths))


def _ids(uri: str, path: str, column: str) -> Iterator[pa.Array]:
    filesystem, _ = open_filesystem(uri)
    with reading(path, "documents"):
        batches = open_parquet(filesystem, path, "documents").iter_batches(65_536, columns=[column])
        for batch in batches:
            ids = batch[column].cast(WITHOUT_VIEWS.get(batch[column].type, batch[column].type))
            if ids.null_count:
                raise InputError(
                    f"documents: {ids.null_count} rows of {path!r} have null as {column!r}; give every document an id"
                )
            try:
                ids.validate(full=True)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"documents: {column!r} in {path!r} is not valid UTF-8 ({error}); fix the ids"
                ) from error
            yield ids
