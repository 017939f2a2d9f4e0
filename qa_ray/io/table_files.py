"""The files of a table: footers, a common schema, column checks, and a fingerprint."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import InputError
from qa_ray.io.storage import open_filesystem, open_parquet, parquet_files, reading
from qa_ray.schemas import GOLD

LISTING_THREADS = 16  # footers and ids of thousands of files are read side by side


# Arrow can do little with views yet.
WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


@dataclass(frozen=True)
class Footer:
    path: str
    schema: pa.Schema
    metadata: pq.FileMetaData
    fingerprint: str


def read_footers(uri: str, what: str) -> list[Footer]:
    filesystem, _ = open_filesystem(uri)

    def footer(path: str) -> Footer:
        file = open_parquet(filesystem, path, what)
        digest = hashlib.sha256(path.rsplit("/", 1)[-1].encode())
        digest.update(str(filesystem.size(path)).encode())
        # Names, sizes, offsets and statistics of all column chunks: what the data is, wherever it was copied. As bytes,
        # because statistics of text that is not valid UTF-8 cannot be had in any other way.
        with reading(path, what):
            content: Any = filesystem.cat_file(path, start=-file.metadata.serialized_size - 8)
            digest.update(content)
        return Footer(path, file.schema_arrow, file.metadata, digest.hexdigest())

    paths = parquet_files(uri, what)
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(footer, paths))


def fingerprint_of(footers: list[Footer]) -> str:
    return hashlib.sha256("".join(footer.fingerprint for footer in footers).encode()).hexdigest()


def common_schema(footers: list[Footer], what: str) -> pa.Schema:
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


def check_column(schema: pa.Schema, name: str | None, column: str, what: str) -> None:
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
