"""Reads columns of a table, each with one type, from any of its files."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.partitions import partition_values


class TableColumns(NamedTuple):
    """Columns of a table: those of a file, those that its folders give, and nulls for those that it lacks."""

    table: str  # for messages
    root: str  # the folder below which folders give columns
    schema: pa.Schema

    def select(self, names: Sequence[str]) -> "TableColumns":
        """Only these columns, in this order."""
        return self._replace(schema=pa.schema([self.schema.field(name) for name in names]))

    def stored_in(self, schema: pa.Schema) -> list[str]:
        """The columns that a file with this schema has itself."""
        return [name for name in self.schema.names if name in schema.names]

    def of(self, batch: Any, path: str) -> list[Any]:
        """All columns for the rows of a batch or table that was read from the file ``path``, with their types."""
        partitions = partition_values(path, self.root)
        return [
            cast(batch[field.name], field.type, field.name, path, self.table)
            if field.name in batch.schema.names
            else _constant(partitions.get(field.name), field.type, batch.num_rows)
            for field in self.schema
        ]


def _constant(value: str | None, column_type: pa.DataType, num_rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(num_rows, column_type)
    return pa.repeat(pa.array([value]).cast(column_type)[0], num_rows)


def cast(array: Any, column_type: pa.DataType, column: str, path: str, table: str) -> Any:
    """The values in another type.

    Raises:
        InputError: one has no equal in it.
    """
    try:
        return array.cast(column_type)
    except pa.ArrowException as error:
        raise InputError(
            f"{table}: the column {column!r} of {path!r} has type {array.type} and cannot be read as {column_type} "
            f"({' '.join(str(error).split())}); write all files with one type"
        ) from error
