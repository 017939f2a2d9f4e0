"""Rows of table files (JSON lines, JSON, CSV, TSV, Parquet, Arrow), each with its place in its file.

Values stay as the file has them, so that ids such as 007 and dates are not changed: those of CSV are text, and an empty
field is null. One file is in memory at a time; JSON is read twice, the first time for the types of its columns.
"""

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any

import fsspec
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.io.json_text import parse_json
from qa_ray.io.partitions import partition_values
from qa_ray.io.storage_errors import reading
from qa_ray.preparation.encoding import decode, split_lines
from qa_ray.preparation.question_rows import invalid_unicode
from qa_ray.preparation.sources.files import SourceFiles, suffix_of
from qa_ray.preparation.values import Row

BATCH_ROWS = 100  # rows may hold long texts
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")


def table_fields(
    files: SourceFiles, encoding: str | None, untyped: Collection[str], check: Callable[[str, list[str]], None]
) -> list[pa.Field]:
    """The columns of all files. ``untyped`` ones may mix types: their values are checked one by one.

    ``check(file, columns)`` is called for each file that has any.

    Raises:
        InputError: a file cannot be read, or a column mixes types.
    """
    types: dict[str, pa.DataType] = {}
    first_file: dict[str, str] = {}
    for file in files.read:
        names: dict[str, None] = {}
        for schema in _schemas(files.filesystem, file, encoding, untyped):
            partitions = [pa.field(name, pa.string()) for name in partition_values(file, files.root)]
            for field in [*schema, *(field for field in partitions if field.name not in schema.names)]:
                names[field.name] = None
                first_file.setdefault(field.name, file)
                is_typed = field.name in types and field.name not in untyped
                types[field.name] = _common_type(types[field.name], field, repr(file)) if is_typed else field.type
        if names:
            check(file, [*names])
    fields = [pa.field(name, type_) for name, type_ in types.items()]
    for field in fields:
        check_storable([field], repr(first_file[field.name]))
    return fields


def table_rows(files: SourceFiles, encoding: str | None) -> Iterator[tuple[str, Row]]:
    """The rows of all files, each with its place for error messages, read lazily.

    Folders called ``name=value``, as Spark and Hive write them, are columns of text.

    Raises:
        InputError: a file cannot be read, or a row is malformed.
    """
    for file in files.read:
        partitions = partition_values(file, files.root)
        for place, row in _rows(files.filesystem, file, encoding):
            yield place, partitions | row


def _rows(filesystem: fsspec.AbstractFileSystem, file: str, encoding: str | None) -> Iterator[tuple[str, Row]]:
    suffix = suffix_of(file)
    if suffix in JSON_SUFFIXES + CSV_SUFFIXES:
        text = decode(storage.read_bytes(filesystem, file), repr(file), encoding)
        return _json_rows(text, file) if suffix in JSON_SUFFIXES else _csv_rows(text, file)
    return arrow_rows(_batches(filesystem, file)[1], repr(file))


# ---- Columns


def _schemas(
    filesystem: fsspec.AbstractFileSystem, file: str, encoding: str | None, untyped: Collection[str]
) -> Iterator[pa.Schema]:
    if suffix_of(file) not in JSON_SUFFIXES + CSV_SUFFIXES:
        schema = _batches(filesystem, file)[0]
        if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
            raise InputError(f"{file!r} has two columns {repeated[0]!r}; drop or rename one of them")
        yield schema
        return
    rows = (row for _, row in _rows(filesystem, file, encoding))
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        names = dict.fromkeys(name for row in batch for name in row)
        complete = [row for row in batch if not invalid_unicode(row)]  # the others are rejected later
        yield pa.schema([inferred_field(name, complete, repr(file), untyped) for name in names])


def inferred_field(name: str, rows: list[Row], place: str, untyped: Collection[str] = ()) -> pa.Field:
    """The column ``name`` with the type of its values in ``rows``; the null type if it is one of ``untyped``."""
    if invalid_unicode({"name": name}):
        raise InputError(f"{place}: the name of the column {name!r} is not valid Unicode; rename it")
    if name in untyped:
        return pa.field(name, pa.null())
    try:
        return pa.field(name, pa.array([row.get(name) for row in rows]).type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise mixed_types(name, place, error) from error


def _common_type(earlier: pa.DataType, field: pa.Field, place: str) -> pa.DataType:
    try:
        schemas = [pa.schema([pa.field("", each)]) for each in (earlier, field.type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException as error:
        raise mixed_types(field.name, place, error) from error


def check_storable(fields: Iterable[pa.Field], place: str) -> None:
    """Raises an InputError for a column of objects without keys (``"meta": {}``), which Parquet cannot store."""
    for field in fields:
        if _has_empty_struct(field.type):
            raise InputError(
                f"{place}: column {field.name!r} has only objects without keys, which Parquet cannot store; drop it"
            )


def _has_empty_struct(type_: pa.DataType) -> bool:
    inner = [type_.field(i).type for i in range(type_.num_fields)]
    return (pa.types.is_struct(type_) and not inner) or any(map(_has_empty_struct, inner))


def mixed_types(name: str, place: str, error: Exception) -> InputError:
    """The error for a column whose values have no common type."""
    reason = " ".join(str(error).split())
    return InputError(f"{place}: column {name!r} mixes types ({reason}); use one type or drop the column")


# ---- JSON


def _json_rows(text: str, file: str) -> Iterator[tuple[str, Row]]:
    """One object per line, or a list of objects, or ``{"data": [objects]}``."""
    for place, value in _json_values(text, file):
        if not isinstance(value, dict):
            raise InputError(f"{place}: {value!r:.60} is not an object with columns; write one JSON object per line")
        yield place, value


def _json_values(text: str, file: str) -> Iterator[tuple[str, Any]]:
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    if len(lines) > 1 and not text.lstrip().startswith("[") and _is_json(lines[0][1]):
        for number, line in lines:
            yield (
                f"{file!r}, line {number}",
                parse_json(line, f"{file!r}, line {number}", "write one JSON object per line"),
            )
        return
    value = parse_json(text, f"{file!r}", "fix it or leave it out") if lines else []
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        yield from ((f"{file!r}: data[{i}]", row) for i, row in enumerate(value["data"]))
    elif isinstance(value, list):
        yield from ((f"{file!r}: [{i}]", row) for i, row in enumerate(value))
    else:
        yield f"{file!r}, line 1", value


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# ---- CSV


def _csv_rows(text: str, file: str) -> Iterator[tuple[str, Row]]:
    """Rows of a CSV file with a header; fields are separated by commas, semicolons or tabs, as the header is."""
    csv.field_size_limit(sys.maxsize)  # 128 KiB by default, less than a long document
    delimiter = max(",;\t", key=next(filter(None, split_lines(text)), "").count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [
            name or f"Unnamed: {i}" for i, name in enumerate(next(filter(None, lines), []))
        ]  # as pandas calls its index
        if repeated := [name for name in header if header.count(name) > 1]:
            raise InputError(f"{file!r} has two columns {repeated[0]!r}; drop or rename one of them")
        for cells in lines:
            place = f"{file!r}, line {lines.line_num}"
            if cells and len(cells) != len(header):
                raise InputError(
                    f"{place}: {len(cells)} fields, but the header has {len(header)}; quote fields that have "
                    f"{delimiter!r} or a line end in them"
                )
            if cells:
                yield place, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise InputError(f"{file!r}, line {lines.line_num}: {error}; fix the quotes or leave the file out") from error


# ---- Parquet and Arrow


def _batches(filesystem: fsspec.AbstractFileSystem, file: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if suffix_of(file) != ".arrow":
        table = storage.open_parquet(filesystem, file, "source")
        return table.schema_arrow, table.iter_batches(BATCH_ROWS)
    content = storage.read_bytes(filesystem, file)
    with suppress(pa.ArrowInvalid, OSError):
        reader = pa.ipc.open_stream(content)
        return reader.schema, iter(reader)
    try:
        table = pa.ipc.open_file(content).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file!r} cannot be read as Arrow ({reason}); write it again or move it") from error
    return table.schema, iter(table.to_batches(BATCH_ROWS))


def arrow_rows(batches: Iterator[pa.RecordBatch], file: str) -> Iterator[tuple[str, Row]]:
    """The rows of Arrow data, each with its place.

    Raises:
        InputError: text that is not valid UTF-8, or a broken page.
    """
    number = 0
    while True:
        with reading(file, "source"):
            batch = next(batches, None)
        if batch is None:
            return
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError):
            first = number + 1
            rows = (_row(batch.slice(i, 1), f"{file}, row {first + i}") for i in range(batch.num_rows))
        for row in rows:
            number += 1
            yield f"{file}, row {number}", row


def _row(batch: pa.RecordBatch, place: str) -> Row:
    try:
        return batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:  # not UTF-8; dates that Python does not have
        raise InputError(f"{place}: {error}; fix or drop the row") from error
