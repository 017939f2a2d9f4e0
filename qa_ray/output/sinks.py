"""Sinks: the formats that the table of answers is written in.

Answers are always written as Parquet to OUTPUT/answers, because the other jobs read that. Each format named by
``export`` is written beside it, the same rows in the same files, to OUTPUT/exports/FORMAT. To add a format, add it to
SINKS (docs/how-to/add-a-sink.md).
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import ConfigError
from qa_ray.io.storage import NewFile, join
from qa_ray.io.storage_errors import writing

# Row groups of the answers: readers skip those without the document they look for, and read the others whole.
ROWS_PER_GROUP = 20_000
BYTES_PER_GROUP = 128_000_000  # in memory; passed-through columns may be large
FALSE_POSITIVES = 0.01  # of the Bloom filters over document ids: 10 bits for each row
ROWS_PER_TEXT = 1_000  # converted to text at a time: a table may hold the answers to 10,000 questions per document


class FileSink:
    """Writes tables of one schema to the file FOLDER/NAME.SUFFIX, which appears when it is closed.

    Subclasses open ``_file`` before the first row, and not before.
    """

    suffix = ""

    def __init__(self, folder: str, name: str):
        self.uri, self.name = join(folder, f"{name}.{self.suffix}"), f"{name}.{self.suffix}"
        self.num_rows = 0
        self._file: NewFile | None = None

    def write(self, table: pa.Table) -> None:
        """Writes all rows; raises an OutputError if that fails."""
        raise NotImplementedError

    def close(self) -> list[dict[str, Any]]:
        """Closes the file; returns its name, rows, bytes and sha256, or nothing if there was no row."""
        if self._file is None:
            return []
        with writing(self.uri):
            self._finish()
            self._file.close()
        return [{"name": self.name, "rows": self.num_rows, "bytes": self._file.num_bytes, "sha256": self._file.sha256}]

    def _finish(self) -> None:
        """Writes what is left to be written."""


class ParquetSink(FileSink):
    """Parquet: the format of the answers themselves, and of the rejects.

    Row groups have ROWS_PER_GROUP rows. A Bloom filter over ``document_id`` tells readers which row groups lack a
    document, also where the documents' order does not follow their ids.
    """

    suffix = "parquet"

    def __init__(self, folder: str, name: str):
        super().__init__(folder, name)
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []  # of the next row group
        self._rows = self._bytes = 0

    def write(self, table: pa.Table) -> None:
        """Writes all rows; the last ones when the file is closed."""
        self.num_rows += table.num_rows
        while table.num_rows:
            piece = table.slice(0, ROWS_PER_GROUP - self._rows)
            table = table.slice(piece.num_rows)
            self._tables.append(piece)
            self._rows, self._bytes = self._rows + piece.num_rows, self._bytes + piece.nbytes
            if self._rows == ROWS_PER_GROUP or self._bytes > BYTES_PER_GROUP:
                self._write_group()

    def _write_group(self) -> None:
        group = pa.concat_tables(self._tables)
        with writing(self.uri):
            if self._writer is None:
                self._file = NewFile(self.uri)
                bloom_filter = {"document_id": {"ndv": group.num_rows, "fpp": FALSE_POSITIVES}}
                self._writer = pq.ParquetWriter(
                    self._file, group.schema, compression="zstd", bloom_filter_options=bloom_filter
                )
            self._writer.write_table(group, row_group_size=group.num_rows)
        self._tables, self._rows, self._bytes = [], 0, 0

    def close(self) -> list[dict[str, Any]]:
        """Writes the last row group and closes the file; returns its name, rows, bytes and sha256."""
        if self._tables:
            self._write_group()
        return super().close()

    def _finish(self) -> None:
        if self._writer:
            self._writer.close()


class TextSink(FileSink):
    """A file of UTF-8 text; subclasses give the text of some rows."""

    suffix = "txt"

    def header(self, schema: pa.Schema) -> str:
        """What the file begins with."""
        return ""

    def text(self, table: pa.Table) -> str:
        """The rows of ``table``, each with its line end."""
        raise NotImplementedError

    def write(self, table: pa.Table) -> None:
        """Writes all rows at once."""
        with writing(self.uri):
            for batch in table.to_batches(ROWS_PER_TEXT):
                if self._file is None:
                    self._file = NewFile(self.uri)
                    self._file.write(self.header(table.schema).encode())
                self._file.write(self.text(pa.Table.from_batches([batch])).encode())
        self.num_rows += table.num_rows


class JsonLines(TextSink):
    """One JSON object per row and line; nulls are kept, lists and structs are arrays and objects.

    What JSON lacks: NaN and infinities become null, bytes base64, dates and times ISO 8601, decimals and durations
    strings, and bytes that are not UTF-8 in a string U+FFFD.
    """

    suffix = "jsonl"

    def text(self, table: pa.Table) -> str:
        columns = [[python_value(value) for value in column] for column in table.columns]
        rows = (dict(zip(table.column_names, values)) for values in zip(*columns))
        return "".join(f"{_to_json(row)}\n" for row in rows)


def _to_json(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_to_text)
    except ValueError:  # NaN or an infinity
        return json.dumps(_without_nan(row), ensure_ascii=False, default=_to_text)


def _to_text(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def python_value(scalar: Any) -> Any:
    """The Python value of an Arrow scalar; strings that are not UTF-8 are repaired, dates after 9999 are strings."""
    try:
        return scalar.as_py()
    except (UnicodeDecodeError, OverflowError):
        if pa.types.is_temporal(scalar.type):
            return scalar.cast(pa.string()).as_py()
        if isinstance(scalar, pa.StructScalar):
            return {name: python_value(value) for name, value in scalar.items()}
        if isinstance(scalar, pa.DictionaryScalar):
            return python_value(scalar.value)
        if isinstance(scalar, pa.ListScalar | pa.LargeListScalar):
            return [python_value(value) for value in scalar.values]
        return scalar.as_buffer().to_pybytes().decode(errors="replace")


# The formats that ``export`` may name; each is called with the URI of a folder and a file's name without suffix.
SINKS: dict[str, type[FileSink]] = {"jsonl": JsonLines}


def check_formats(formats: Iterable[str]) -> None:
    """Raises a ConfigError if one of them is not in SINKS."""
    for name in formats:
        if name not in SINKS:
            raise ConfigError(f"export: unknown format {name!r}; known formats are {', '.join(sorted(SINKS))}")


def answer_formats(exports: Iterable[str]) -> dict[str, type[FileSink]]:
    """The folders that answers are written to, in OUTPUT, and the format of each."""
    return {"answers": ParquetSink, **{f"exports/{name}": SINKS[name] for name in exports}}


class TableSink:
    """A table in several formats: one file in each of the folders of ``formats``, all of the same ``name``."""

    def __init__(self, output: str, name: str, formats: Mapping[str, type[FileSink]]):
        self._sinks = {folder: make_sink(join(output, folder), name) for folder, make_sink in formats.items()}

    @property
    def num_rows(self) -> int:
        """Rows written so far."""
        return next(iter(self._sinks.values())).num_rows

    def write(self, table: pa.Table) -> None:
        """Writes all rows in every format."""
        for sink in self._sinks.values():
            sink.write(table)

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Closes all files; returns them by folder, as the manifest lists them."""
        return {folder: sink.close() for folder, sink in self._sinks.items()}


def exported_formats(manifest: dict[str, Any]) -> list[str]:
    """The formats that a finished output was exported to."""
    return [folder.removeprefix("exports/") for folder in manifest["files"] if folder.startswith("exports/")]
