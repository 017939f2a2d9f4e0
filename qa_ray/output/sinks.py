"""Sinks: the formats that the table of answers is written in.

Answers are always written as Parquet to OUTPUT/answers, because the other jobs read that. Each format named by
``export`` is written beside it, the same rows in the same files, to OUTPUT/exports/FORMAT. To add a format, add it to
SINKS (docs/how-to/add-a-sink.md).
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from datetime import date, time
from typing import Any, Protocol

import pyarrow as pa

from qa_ray.errors import ConfigError
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.storage import join, make_folder, open_filesystem, remove_folder
from qa_ray.io.storage_errors import writing

ROWS_PER_FILE = 1_000_000  # some 500 MB of Parquet with five n-best entries each
ROWS_PER_GROUP = 20_000
ROWS_PER_TEXT = 1_000  # converted to text at a time: a table may hold the answers to 10,000 questions per document


class Sink(Protocol):
    """Writes tables of one schema to a folder of files; makes no folder before the first row."""

    num_rows: int
    files: list[dict[str, Any]]  # the closed ones: name, rows, bytes, sha256

    def write(self, table: pa.Table) -> None:
        """Writes all rows; raises an OutputError if that fails."""
        ...

    def close(self) -> None:
        """Closes the last file."""
        ...


class TextSink:
    """A folder of UTF-8 files ``PREFIX-00000.SUFFIX`` of about ROWS_PER_FILE rows; subclasses give the text."""

    suffix = "txt"

    def __init__(self, uri: str, prefix: str):
        self.uri, self.prefix = uri, prefix
        self.num_rows = 0
        self.files: list[dict[str, Any]] = []
        self._file: Any = None
        self._name = ""
        self._file_rows = self._file_bytes = 0
        self._digest = hashlib.sha256()

    def header(self, schema: pa.Schema) -> str:
        """What each file begins with."""
        return ""

    def text(self, table: pa.Table) -> str:
        """The rows of ``table``, each with its line end."""
        raise NotImplementedError

    def write(self, table: pa.Table) -> None:
        """Writes all rows at once."""
        with writing(self.uri):
            for batch in table.to_batches(ROWS_PER_TEXT):
                if self._file is None:
                    self._open()
                    self._append(self.header(table.schema))
                self._append(self.text(pa.Table.from_batches([batch])))
        self.num_rows += table.num_rows
        self._file_rows += table.num_rows
        if self._file_rows >= ROWS_PER_FILE:
            self.close()

    def close(self) -> None:
        """Closes the file that is open, if any."""
        if self._file is None:
            return
        with writing(self.uri):
            self._file.close()
        self.files.append(
            {
                "name": self._name,
                "rows": self._file_rows,
                "bytes": self._file_bytes,
                "sha256": self._digest.hexdigest(),
            }
        )
        self._file = None

    def _open(self) -> None:
        filesystem, folder = open_filesystem(self.uri)
        make_folder(self.uri)
        self._name = f"{self.prefix}-{len(self.files):05d}.{self.suffix}"
        self._file = filesystem.open(join(folder, self._name), "wb")
        self._file_rows = self._file_bytes = 0
        self._digest = hashlib.sha256()

    def _append(self, text: str) -> None:
        data = text.encode()
        self._file.write(data)
        self._file_bytes += len(data)
        self._digest.update(data)


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


def parquet_sink(uri: str, prefix: str = "part") -> ParquetFolderWriter:
    """A folder of Parquet files: the sink of the answers themselves, and of the rejects."""
    return ParquetFolderWriter(uri, prefix=prefix, max_group_rows=ROWS_PER_GROUP, max_file_rows=ROWS_PER_FILE)


# The formats that ``export`` may name; each makes a sink from the folder's URI and the prefix of its files' names.
SINKS: dict[str, Callable[[str, str], Sink]] = {"jsonl": JsonLines}


def check_formats(formats: Iterable[str]) -> None:
    """Raises a ConfigError if one of them is not in SINKS."""
    for name in formats:
        if name not in SINKS:
            raise ConfigError(f"export: unknown format {name!r}; known formats are {', '.join(sorted(SINKS))}")


class AnswerSinks:
    """The table of answers in all its formats: OUTPUT/answers as Parquet, and OUTPUT/exports/FORMAT for each other."""

    def __init__(self, output: str, formats: Iterable[str], prefix: str = "part"):
        self._sinks: dict[str, Sink] = {"answers": parquet_sink(join(output, "answers"), prefix)}
        self._sinks |= {f"exports/{name}": SINKS[name](join(output, "exports", name), prefix) for name in formats}

    @property
    def num_rows(self) -> int:
        """Answers written so far."""
        return self._sinks["answers"].num_rows

    @property
    def files(self) -> dict[str, list[dict[str, Any]]]:
        """The closed files of each folder, as the manifest lists them."""
        return {folder: sink.files for folder, sink in self._sinks.items()}

    def write(self, table: pa.Table) -> None:
        """Writes all rows in every format."""
        for sink in self._sinks.values():
            sink.write(table)

    def close(self) -> None:
        """Closes the last file of every format."""
        for sink in self._sinks.values():
            sink.close()


def remove_answers(output: str) -> None:
    """Removes the answers in all formats, such as those of a commit that was killed."""
    for folder in ("answers", "exports"):
        remove_folder(join(output, folder))


def exported_formats(manifest: dict[str, Any]) -> list[str]:
    """The formats that a finished output was exported to."""
    return [folder.removeprefix("exports/") for folder in manifest["files"] if folder.startswith("exports/")]
