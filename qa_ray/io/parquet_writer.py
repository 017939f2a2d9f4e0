"""Writes Arrow tables or single rows to a folder of Parquet files of bounded size."""

import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.io.storage import NewFile, join
from qa_ray.io.storage_errors import writing


class ParquetFolderWriter:
    """Writes a folder of files ``part-00000.parquet``, …; a file is closed once it is full, and none is written empty.

    ``write`` takes Arrow tables; ``add`` takes single rows (of ``schema``) and gathers them into row groups. A row's
    characters are those of its string columns, not of nested values. Raises OutputError for any failure to write.
    """

    def __init__(
        self,
        uri: str,
        schema: pa.Schema | None = None,
        *,
        suffix: str = "",  # of the files' names
        max_group_rows: int,
        max_group_chars: float = math.inf,  # a longer row is a row group of its own
        max_file_rows: float = math.inf,  # the file is closed after the write that reaches it
        max_file_chars: float = math.inf,  # likewise; counts only rows given to add
    ):
        self.uri, self.schema, self.suffix = uri, schema, suffix
        self.max_group_rows, self.max_group_chars = max_group_rows, max_group_chars
        self.max_file_rows, self.max_file_chars = max_file_rows, max_file_chars
        self.num_rows = 0
        self.files: list[dict[str, Any]] = []  # of each closed file: name, rows, bytes, sha256
        self._rows: list[dict[str, Any]] = []  # added but not yet written
        self._chars = self._file_rows = self._file_chars = 0
        self._sink: NewFile | None = None
        self._name = ""
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Adds ``row`` to the current row group, which is written when it is full or on ``close``."""
        chars = sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._rows) == self.max_group_rows or self._chars + chars > self.max_group_chars:
            self._write_buffered()
        self._rows.append(row)
        self._chars += chars

    def write(self, table: pa.Table) -> None:
        """Writes ``table`` immediately, in row groups of at most ``max_group_rows`` rows."""
        if not table.num_rows:
            return
        with writing(self.uri):
            self._writer = self._writer or self._open(table.schema)
            self._writer.write_table(table, row_group_size=self.max_group_rows)
        self.num_rows += table.num_rows
        self._file_rows += table.num_rows
        if self._file_rows >= self.max_file_rows or self._file_chars >= self.max_file_chars:
            self._close_file()

    def close(self) -> None:
        """Writes the rows still buffered and closes the last file."""
        self._write_buffered()
        self._close_file()

    def _write_buffered(self) -> None:
        table = pa.Table.from_pylist(self._rows, self.schema)
        self._file_chars += self._chars
        self._rows, self._chars = [], 0
        self.write(table)

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        self._name = f"part-{len(self.files):05d}{self.suffix}.parquet"
        self._sink = NewFile(join(self.uri, self._name))
        return pq.ParquetWriter(self._sink, schema, compression="zstd")

    def _close_file(self) -> None:
        if self._writer and self._sink:
            with writing(self.uri):
                self._writer.close()
                self._sink.close()
            size_and_checksum = {"bytes": self._sink.num_bytes, "sha256": self._sink.sha256}
            self.files.append({"name": self._name, "rows": self._file_rows, **size_and_checksum})
            self._writer, self._file_rows, self._file_chars = None, 0, 0
