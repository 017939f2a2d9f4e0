"""The Parquet files of a table: their footers, the columns that they have together, and the fingerprint.

Files may differ in their columns. A column that a file lacks is null there; where types differ, the column has the type
that Arrow promotes them to, if no value is lost by that. Folders called ``name=value`` give a column, too. Neither
files without a row have a say, nor columns that nobody wants.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import InputError
from qa_ray.io.column_types import common_type, is_text, keeps_values, values_fit
from qa_ray.io.id_types import is_id_type
from qa_ray.io.parquet_listing import FileCounts, list_parquet
from qa_ray.io.partitions import partition_types, partition_values
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.schemas import GOLD

LISTING_THREADS = 16  # read footers and ids of thousands of files concurrently


@dataclass(frozen=True)
class Footer:
    """A Parquet file without its data."""

    path: str
    schema: pa.Schema
    metadata: pq.FileMetaData
    fingerprint: str  # sha256 over the file's name, size and footer, and the folders that give columns
    partitions: dict[str, str | None]  # the columns that its folders give


@dataclass(frozen=True)
class TableFiles:
    """The files of a table; ``table`` is "documents" or "questions": error messages begin with it."""

    uri: str
    table: str
    root: str  # the folder below which folders give columns
    footers: list[Footer]
    counts: FileCounts
    log: str | None = None  # a log of versions beside the files, as ``parquet_listing.LOGS`` has them

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return sum(footer.metadata.num_rows for footer in self.footers)

    @property
    def fingerprint(self) -> str:
        """Sha256 over those of the files."""
        return hashlib.sha256("".join(footer.fingerprint for footer in self.footers).encode()).hexdigest()

    @cached_property
    def layouts(self) -> list[tuple[pa.Schema, list[Footer]]]:
        """The different schemas of the files with rows, or of all if none has any, each with its files."""
        files: dict[str, list[Footer]] = {}
        for footer in [footer for footer in self.footers if footer.metadata.num_rows] or self.footers:
            key = footer.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
            files.setdefault(key, []).append(footer)
        return [(footers[0].schema, footers) for footers in files.values()]

    @cached_property
    def partitions(self) -> dict[str, pa.DataType]:
        """The columns that folders give, and their types."""
        return partition_types((footer.path for footer in self.footers), self.root)

    @cached_property
    def names(self) -> list[str]:
        """All columns: of the first file, then those that others have besides, then those of folders."""
        return list(dict.fromkeys([name for schema, _ in self.layouts for name in schema.names] + [*self.partitions]))

    def column_type(self, name: str) -> pa.DataType:
        """The type of this column for all files.

        Raises:
            InputError: there is none, or it would change values; a file has the column twice.
        """
        files: dict[pa.DataType, list[Footer]] = {}
        for schema, footers in self.layouts:
            if schema.names.count(name) > 1:
                remedy = "drop or rename one of them, or leave it out with columns.keep=[…]"
                raise InputError(f"{self.table}: {footers[0].path!r} has two columns {name!r}; {remedy}")
            if name in schema.names:
                files.setdefault(schema.field(name).type, []).extend(footers)
            elif in_folders := [footer for footer in footers if name in footer.partitions]:
                files.setdefault(self.partitions[name], []).extend(in_folders)
        common = common_type(files)
        for source, footers in files.items():
            if common is None or not _keeps_values(footers, name, source, common):
                self._refuse_types(name, files)
        assert common is not None
        return common

    def _refuse_types(self, name: str, files: dict[pa.DataType, list[Footer]]) -> None:
        (one_type, one), *others = files.items()
        other_type, other = next(
            (each for each in others if common_type([one_type, each[0]]) is None),
            others[-1] if others else (one_type, one),
        )
        remedy = "write them with one type"
        if self.table == "documents":
            remedy += ", or leave it out: columns.keep=[…] names the columns to pass through"
        raise InputError(
            f"{self.table}: the column {name!r} has type {other_type} in {other[0].path!r} and {one_type} in "
            f"{one[0].path!r}, and no type holds the values of both; {remedy}"
        )

    def check_in_all(self, column: str) -> None:
        """Raises an InputError unless each file with rows has this column; ``check_name`` was called for the table."""
        for schema, footers in self.layouts:
            for footer in footers if column not in schema.names else ():
                if column not in footer.partitions:
                    raise InputError(
                        f"{self.table}: no column {column!r} in {footer.path!r}, though other files have it; there are "
                        f"{', '.join(schema.names) or 'none'}; {_hint(column, schema.names)}rename it, or move the file"
                    )

    def notes(self, names: Sequence[str]) -> Iterator[str]:
        """What a person should know: that these columns are in files and folders, and that a table has versions."""
        if self.log:
            yield (
                f"{self.table}: {self.uri!r} has the log of a {self.log} table, which is not read: files of its "
                "earlier versions, and deleted rows, count as well; export its current version to Parquet"
            )
        for name in names:
            footers = [
                f for schema, files in self.layouts if name in schema.names for f in files if name in f.partitions
            ]
            if footers:
                yield (
                    f"{self.table}: the column {name!r} is in the files and in the names of their folders, as in "
                    f"{footers[0].path!r}; that of the files is taken"
                )


def _keeps_values(footers: list[Footer], name: str, source: pa.DataType, target: pa.DataType) -> bool:
    if keeps_values(source, target):
        return True
    return all(values_fit(footer.metadata, name, source, target) for footer in footers)


def open_table(uri: str, table: str) -> TableFiles:
    """The Parquet files at ``uri``, sorted by path, with their footers.

    Raises:
        InputError: there are no Parquet files, or one cannot be read.
    """
    filesystem, _ = open_filesystem(uri)
    listing = list_parquet(uri, table)

    def footer(path: str) -> Footer:
        file = open_parquet(filesystem, path, table)
        partitions = partition_values(path, listing.root)
        folders = "".join(f"{name}={value!r}/" for name, value in partitions.items())
        digest = hashlib.sha256(f"{folders}{path.rsplit('/', 1)[-1]}".encode())
        digest.update(str(filesystem.size(path)).encode())
        # The footer has names, sizes, offsets and statistics of all column chunks: it identifies the data, also in
        # copies. It is hashed as bytes, because Arrow cannot decode statistics of text that is not valid UTF-8.
        with reading(path, table):
            content: Any = filesystem.cat_file(path, start=-file.metadata.serialized_size - 8)
            digest.update(content)
        return Footer(path, file.schema_arrow, file.metadata, digest.hexdigest(), partitions)

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        footers = list(pool.map(footer, listing.paths))
    return TableFiles(uri, table, listing.root, footers, listing.counts, listing.log)


def check_name(names: Sequence[str], name: str | None, column: str, table: str) -> None:
    """Raises an InputError unless ``column`` is one of ``names``; it is our column ``name`` (None: any other)."""
    if column not in names:
        remedy = f"name the right one with columns.{name}=…" if name else "leave it out of columns.keep"
        raise InputError(
            f"{table}: no column {column!r}; there are {', '.join(names) or 'none'}; {_hint(column, names)}{remedy}"
        )


def check_type(column_type: pa.DataType, name: str, column: str, table: str) -> None:
    """Raises an InputError unless ``column`` has a type that our column ``name`` may have."""
    if table == "questions" and name == "document_id" and pa.types.is_null(column_type):
        return  # all questions of the file are asked about every document
    if name == "answers":
        _check_gold(column, column_type)
        return
    is_id = name.endswith("_id")
    if not (is_id_type(column_type) if is_id else is_text(column_type)):
        allowed = "string or integer" if is_id else "string"
        raise InputError(
            f"{table}: the column {column!r} has type {column_type}, not {allowed}; cast it or name another column"
        )


def _hint(column: str, names: Sequence[str]) -> str:
    close = get_close_matches(column, names, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _check_gold(column: str, column_type: pa.DataType) -> None:
    types = pa.types
    is_list = types.is_list(column_type) or types.is_large_list(column_type)
    if types.is_null(column_type) or (is_list and types.is_null(column_type.value_type)):
        return
    entry = column_type.value_type if is_list else column_type
    if not (is_list and types.is_struct(entry) and {*GOLD.names} <= {*entry.names}):
        raise InputError(
            f"questions: the column {column!r} has type {column_type}, not list<struct<text, start_char>>; "
            "make it with 'qa-ray prepare' or cast it"
        )
    text, start_char = (entry.field(name).type for name in GOLD.names)
    is_number = any(check(start_char) for check in (types.is_integer, types.is_floating, types.is_decimal, is_text))
    for name, field_type, fits in (("text", text, is_text(text)), ("start_char", start_char, is_number)):
        if not (fits or types.is_null(field_type)):
            allowed = GOLD.field(name).type
            raise InputError(f"questions: {name!r} of {column!r} has type {field_type}, not {allowed}; cast it")
