"""The Parquet files of a table: their footers, common schema and fingerprint, and checks of their columns.

``table`` is "documents" or "questions": error messages begin with it.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import InputError
from qa_ray.io.storage import open_filesystem, open_parquet, parquet_files
from qa_ray.io.storage_errors import reading
from qa_ray.schemas import GOLD

LISTING_THREADS = 16  # read footers and ids of thousands of files concurrently

# Arrow has few compute functions for string views yet.
WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


@dataclass(frozen=True)
class Footer:
    """A Parquet file without its data."""

    path: str
    schema: pa.Schema
    metadata: pq.FileMetaData
    fingerprint: str  # sha256 over the file's name, size and footer


def read_footers(uri: str, table: str) -> list[Footer]:
    """The footers of all Parquet files at ``uri``, sorted by path.

    Raises:
        InputError: there are no Parquet files, or one cannot be read.
    """
    filesystem, _ = open_filesystem(uri)

    def footer(path: str) -> Footer:
        file = open_parquet(filesystem, path, table)
        digest = hashlib.sha256(path.rsplit("/", 1)[-1].encode())
        digest.update(str(filesystem.size(path)).encode())
        # The footer has names, sizes, offsets and statistics of all column chunks: it identifies the data, also in
        # copies. It is hashed as bytes, because Arrow cannot decode statistics of text that is not valid UTF-8.
        with reading(path, table):
            content: Any = filesystem.cat_file(path, start=-file.metadata.serialized_size - 8)
            digest.update(content)
        return Footer(path, file.schema_arrow, file.metadata, digest.hexdigest())

    paths = parquet_files(uri, table)
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(footer, paths))


def fingerprint_of(footers: list[Footer]) -> str:
    """The fingerprint of a table: sha256 over those of its files."""
    return hashlib.sha256("".join(footer.fingerprint for footer in footers).encode()).hexdigest()


def common_schema(footers: list[Footer], table: str) -> pa.Schema:
    """The columns of the first file, with views as large strings.

    Raises:
        InputError: files have different columns, or one column twice. (Types may differ.)
    """
    first = footers[0]
    if duplicates := [name for name in first.schema.names if first.schema.names.count(name) > 1]:
        raise InputError(f"{table}: {first.path!r} has two columns {duplicates[0]!r}; drop or rename one of them")
    for footer in footers[1:]:
        if footer.schema.names != first.schema.names:
            difference = sorted(set(footer.schema.names) ^ set(first.schema.names)) or "their order"
            raise InputError(
                f"{table}: {footer.path!r} and {first.path!r} have different columns ({difference}); "
                "write them with one schema or give only one of them"
            )
    return pa.schema([(field.name, WITHOUT_VIEWS.get(field.type, field.type)) for field in first.schema])


def without_views(array: pa.Array) -> pa.Array:
    """The array with views as large strings."""
    return array.cast(WITHOUT_VIEWS.get(array.type, array.type))


def check_column(schema: pa.Schema, name: str | None, column: str, table: str) -> None:
    """Checks that ``column`` exists and has the type of our column ``name`` (None: of any type).

    Raises:
        InputError: it does not.
    """
    if column not in schema.names:
        close = get_close_matches(column, schema.names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        remedy = f"name the right one with columns.{name}=…" if name else "leave it out of columns.keep"
        raise InputError(
            f"{table}: no column {column!r}; there are {', '.join(schema.names) or 'none'}; {hint}{remedy}"
        )
    column_type = schema.field(column).type
    is_integer_id = name in ("document_id", "question_id") and pa.types.is_integer(column_type)
    if table == "questions" and name == "document_id" and pa.types.is_null(column_type):
        return  # all questions of the file are asked of every document
    if name == "answers":
        _check_gold(column, column_type)
    elif name and not (is_integer_id or _is_string(column_type)):
        allowed = "string or integer" if name.endswith("_id") else "string"
        raise InputError(
            f"{table}: the column {column!r} has type {column_type}, not {allowed}; cast it or name another column"
        )


def _check_gold(column: str, column_type: pa.DataType) -> None:
    is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
    is_gold = is_list and pa.types.is_struct(column_type.value_type) and column_type.value_type.names == GOLD.names
    if not (is_gold or pa.types.is_null(column_type)):
        raise InputError(
            f"questions: the column {column!r} has type {column_type}, not list<struct<text, start_char>>; "
            "make it with 'qa-ray prepare' or cast it"
        )


def _is_string(column_type: pa.DataType) -> bool:
    return any(check(column_type) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
