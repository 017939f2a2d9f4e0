"""Paths -> checked tables of documents and questions: files, columns, types, ids, fingerprints.

Everything that can be known before the run without reading a document's text is checked here, on the driver.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import InputError
from qa_ray.io.question_table import Questions, hash_ids
from qa_ray.io.storage import open_filesystem, open_parquet, parquet_files, reading
from qa_ray.schemas import ANSWERS, GOLD, PART, TOKENISED

# Columns that a run adds to a document's own, on the way to the answers or there.
RESERVED = {*ANSWERS.names, *PART.names, *TOKENISED.names}
SAMPLED_GROUPS = 16
LISTING_THREADS = 16  # footers and ids of thousands of files are read side by side
# Pages are the least that can be read. Arrow, for one, puts 1,024 rows into a page, however long they are.
ROWS_PER_PAGE = 1_024
MAX_SAMPLED_PAGE_BYTES = 64_000_000
BATCH_BYTES = 16_000_000  # of documents, read at a time
# Arrow can do little with views yet.
WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


class RowGroup(NamedTuple):
    """A row group of a file of documents; the bytes are uncompressed, as the file's footer says."""

    path: str
    number: int  # within the file
    num_rows: int
    text_bytes: int
    num_bytes: int  # of all columns


@dataclass(frozen=True)
class Documents:
    """A table of documents that passed the checks."""

    uri: str
    paths: tuple[str, ...]
    id_column: str
    text_column: str
    passed_through: tuple[str, ...]
    schema: pa.Schema
    num_documents: int
    row_groups: tuple[RowGroup, ...]  # those that have rows
    text_bytes: int
    fingerprint: str  # sha256 over the files' names, sizes and footers


@dataclass(frozen=True)
class _Footer:
    path: str
    schema: pa.Schema
    metadata: pq.FileMetaData
    fingerprint: str


def open_documents(uri: str, columns: Mapping[str, str], keep: Sequence[str] | None = None) -> Documents:
    """The documents at ``uri``; ``columns`` maps ``document_id`` and ``text`` to the table's own names.

    ``keep`` names the other columns to pass through to the answers; None passes all of them.

    Raises:
        InputError: no such path, no Parquet, a column missing or of a wrong type, null or duplicate ids, no rows.
    """
    footers = _footers(uri, "documents")
    schema = _common_schema(footers, "documents")
    id_column, text_column = columns["document_id"], columns["text"]
    for name, column in (("document_id", id_column), ("text", text_column)):
        _check_column(schema, name, column, "documents")
    if id_column == text_column:
        raise InputError(f"documents: columns.document_id and columns.text both name {id_column!r}; name two columns")
    others = [name for name in schema.names if name not in (id_column, text_column)]
    for name in keep or ():
        _check_column(schema, None, name, "documents")
    passed_through = [name for name in others if keep is None or name in keep]
    if taken := [name for name in passed_through if name in RESERVED]:
        raise InputError(
            f"documents: the column {taken[0]!r} would collide with the answers' own; "
            f"rename it, or name the columns to pass through with columns.keep=[…]"
        )
    if id_column in RESERVED - {"document_id"}:
        raise InputError(f"documents: ids cannot stand in a column {id_column!r}, which the answers have; rename it")
    _check_same_types(footers, [id_column, text_column, *passed_through])
    num_documents = sum(footer.metadata.num_rows for footer in footers)
    if not num_documents:
        raise InputError(f"documents: {uri!r} has {len(footers)} Parquet files and no row; nothing to answer")
    _check_document_ids(uri, footers, id_column)
    row_groups = [group for footer in footers for group in _row_groups(footer, text_column)]
    return Documents(
        uri=uri,
        paths=tuple(footer.path for footer in footers),
        id_column=id_column,
        text_column=text_column,
        passed_through=tuple(passed_through),
        schema=schema,
        num_documents=num_documents,
        row_groups=tuple(row_groups),
        text_bytes=sum(group.text_bytes for group in row_groups),
        fingerprint=_fingerprint(footers),
    )


def open_questions(uri: str, columns: Mapping[str, str]) -> tuple[Questions, str]:
    """The questions at ``uri``, and a fingerprint of their files; with gold answers if ``columns`` names ``answers``.

    Without a ``document_id`` column every question is asked of every document.

    Raises:
        InputError: as open_documents; and duplicate ids within a document, or a bad text in a question to all.
    """
    footers = _footers(uri, "questions")
    schema = _common_schema(footers, "questions")
    names = {name: columns[name] for name in ("question_id", "question", "answers") if name in columns}
    if columns["document_id"] in schema.names:
        names["document_id"] = columns["document_id"]
    table = pa.concat_tables(_questions(uri, footer, names) for footer in footers)
    if not table.num_rows:
        raise InputError(f"questions: {uri!r} has {len(footers)} Parquet files and no row; nothing to ask")
    if "document_id" not in names:
        table = table.append_column("document_id", pa.nulls(table.num_rows, pa.string()))
    return Questions(table), _fingerprint(footers)


def _questions(uri: str, footer: _Footer, names: Mapping[str, str]) -> pa.Table:
    """The columns of a file of questions that ``names`` maps to ours, checked; strings, but for the gold answers."""
    for name, column in names.items():
        _check_column(footer.schema, name, column, "questions")
    filesystem, _ = open_filesystem(uri)
    with reading(footer.path, "questions"):
        table = open_parquet(filesystem, footer.path, "questions").read(columns=list(names.values()))
    if nulls := table[names["question_id"]].null_count:
        raise InputError(
            f"questions: {nulls} rows of {footer.path!r} have null as {names['question_id']!r}; "
            "give every question an id"
        )
    try:
        kinds = {name: pa.list_(GOLD) if name == "answers" else pa.string() for name in names}
        mapped = pa.table({name: table[column].cast(kinds[name]) for name, column in names.items()})
        mapped.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"questions: {footer.path!r} has text that is not valid UTF-8 ({error}); mend it or drop the row"
        ) from error
    return mapped


def sample(documents: Documents, num_documents: int) -> Iterator[tuple[str, pa.Scalar]]:
    """Ids and texts of about ``num_documents`` documents, evenly spaced in row groups that lie all over the table.

    None from row groups with pages too large for the memory of the driver.
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
    """The documents of row groups of one file, about BATCH_BYTES at a time.

    All batches have one schema, whatever the files' own say of nulls and metadata; views are large strings.
    """
    filesystem, _ = open_filesystem(uri)
    path, num_bytes = groups[0].path, max(group.num_bytes for group in groups)
    num_rows = max(group.num_rows for group in groups)
    # Few distinct values may be encoded in few bytes, and take many when they are decoded.
    batch_rows = max(1, min(ROWS_PER_PAGE, num_rows * BATCH_BYTES // max(num_bytes, 1)))
    numbers = [group.number for group in groups]
    with reading(path, "documents"):
        file = open_parquet(filesystem, path, "documents", stream=num_bytes > BATCH_BYTES)
        for batch in file.iter_batches(batch_rows, row_groups=numbers, columns=columns):
            arrays = [batch[name] for name in columns]
            yield pa.record_batch([a.cast(WITHOUT_VIEWS.get(a.type, a.type)) for a in arrays], columns)


def document_hashes(documents: Documents) -> np.ndarray:
    """The hashes of all documents' ids, in the order of the table."""
    return np.concatenate(_hashes_by_file(documents.uri, documents.paths, documents.id_column))


def unfinished_row_groups(documents: Documents, finished: np.ndarray) -> list[RowGroup]:
    """Those with a document whose id is not among the ``finished`` (hashes, sorted)."""
    if not len(finished):
        return list(documents.row_groups)
    is_finished = np.isin(document_hashes(documents), finished)
    stops = np.cumsum([group.num_rows for group in documents.row_groups])
    rows = np.split(is_finished, stops[:-1])
    return [group for group, finished in zip(documents.row_groups, rows, strict=True) if not finished.all()]


def _footers(uri: str, what: str) -> list[_Footer]:
    filesystem, _ = open_filesystem(uri)

    def footer(path: str) -> _Footer:
        file = open_parquet(filesystem, path, what)
        digest = hashlib.sha256(path.rsplit("/", 1)[-1].encode())
        digest.update(str(filesystem.size(path)).encode())
        # Names, sizes, offsets and statistics of all column chunks: what the data is, wherever it was copied. As bytes,
        # because statistics of text that is not valid UTF-8 cannot be had in any other way.
        with reading(path, what):
            content: Any = filesystem.cat_file(path, start=-file.metadata.serialized_size - 8)
            digest.update(content)
        return _Footer(path, file.schema_arrow, file.metadata, digest.hexdigest())

    paths = parquet_files(uri, what)
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(footer, paths))


def _fingerprint(footers: list[_Footer]) -> str:
    return hashlib.sha256("".join(footer.fingerprint for footer in footers).encode()).hexdigest()


def _common_schema(footers: list[_Footer], what: str) -> pa.Schema:
    first = footers[0]
    if twice := [name for name in first.schema.names if first.schema.names.count(name) > 1]:
        raise InputError(f"{what}: {first.path!r} has two columns {twice[0]!r}; drop or rename one of them")
    for footer in footers[1:]:
        if footer.schema.names != first.schema.names:
            difference = sorted(set(footer.schema.names) ^ set(first.schema.names)) or "their order"
            raise InputError(
                f"{what}: {footer.path!r} and {first.path!r} have different columns ({difference}); "
                "write them with one schema or give only one of them"
            )
    return pa.schema([(field.name, WITHOUT_VIEWS.get(field.type, field.type)) for field in first.schema])


def _check_same_types(footers: list[_Footer], columns: list[str]) -> None:
    first = footers[0]
    for footer in footers[1:]:
        for column in columns:
            if (kind := footer.schema.field(column).type) != (expected := first.schema.field(column).type):
                raise InputError(
                    f"documents: the column {column!r} has type {kind} in {footer.path!r} and {expected} in "
                    f"{first.path!r}; write them with one schema, or name the columns to pass through with "
                    "columns.keep=[…]"
                )


def _check_column(schema: pa.Schema, name: str | None, column: str, what: str) -> None:
    if column not in schema.names:
        close = get_close_matches(column, schema.names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        remedy = f"name the right one with columns.{name}=…" if name else "leave it out of columns.keep"
        raise InputError(f"{what}: no column {column!r}; there are {', '.join(schema.names) or 'none'}; {hint}{remedy}")
    kind = schema.field(column).type
    integer_id = name in ("document_id", "question_id") and pa.types.is_integer(kind)
    if what == "questions" and name == "document_id" and pa.types.is_null(kind):
        return  # a file with questions to all alone
    if name == "answers":
        _check_gold(column, kind)
    elif name and not (integer_id or _is_string(kind)):
        allowed = "string or integer" if name.endswith("_id") else "string"
        raise InputError(
            f"{what}: the column {column!r} has type {kind}, not {allowed}; cast it before or name another column"
        )


def _check_gold(column: str, kind: pa.DataType) -> None:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_gold = is_list and pa.types.is_struct(kind.value_type) and kind.value_type.names == GOLD.names
    if not (is_gold or pa.types.is_null(kind)):
        raise InputError(
            f"questions: the column {column!r} has type {kind}, not list<struct<text, start_char>>; "
            "make it with 'qa-ray prepare', or cast it before"
        )


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _row_groups(footer: _Footer, text_column: str) -> Iterator[RowGroup]:
    for number in range(footer.metadata.num_row_groups):
        group = footer.metadata.row_group(number)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
        if group.num_rows:
            text_bytes = chunks[text_column].total_uncompressed_size
            yield RowGroup(footer.path, number, group.num_rows, text_bytes, group.total_byte_size)


def _check_document_ids(uri: str, footers: list[_Footer], column: str) -> None:
    """Ids must be there and unique: eight bytes of hash each decide, and only suspects are looked at again."""
    paths = [footer.path for footer in footers]
    hashes_by_file = _hashes_by_file(uri, paths, column)
    hashes = np.sort(np.concatenate(hashes_by_file))
    suspects = hashes[1:][hashes[1:] == hashes[:-1]]
    seen: dict[Any, str] = {}
    for path, hashes in zip(paths, hashes_by_file, strict=True):
        if not np.isin(hashes, suspects).any():
            continue
        for ids in _ids(uri, path, column):
            for id_ in ids.filter(pa.array(np.isin(hash_ids(ids), suspects))).to_pylist():
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
                    f"documents: {column!r} in {path!r} is not valid UTF-8 ({error}); mend the ids"
                ) from error
            yield ids
