"""Columns of questions with the job's types, or an error that names the value that does not fit."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.errors import InputError
from qa_ray.io.id_types import id_strings
from qa_ray.schemas import GOLD

MAX_CHARS = 80  # of a value in a message


class _Value(NamedTuple):
    """A column with a single value, and its name for messages."""

    name: str
    column: Any
    column_type: pa.DataType


def with_type(array: Any, column_type: pa.DataType, column: str, path: str) -> Any:
    """A column of the file ``path`` of questions, as strings or as lists of GOLD.

    Raises:
        InputError: a text is not valid UTF-8, or a number is not an integer.
    """
    try:
        return _converted(array, column_type)
    except pa.ArrowInvalid as error:
        row = _first_wrong(array, column_type)
        wrong = next((value for value in _values(_rows(array, row, row + 1), column) if not _fits(*value[1:])), None)
        if wrong is None:
            raise AssertionError(f"{column} of {path}: no value is wrong, but {error}") from error
        needed, remedy = "not valid UTF-8", "fix it or drop the row"
        if pa.types.is_integer(wrong.column_type):
            needed, remedy = "not an integer", "fix it, or make it null: unknown"
        raise InputError(
            f"questions: {wrong.name} in row {row + 1:,} of {len(array):,} of {path!r} is {_shown(wrong.column)}, "
            f"{needed}; {remedy}"
        ) from error


def _converted(array: Any, column_type: pa.DataType) -> Any:
    converted = array.cast(column_type) if pa.types.is_nested(column_type) else id_strings(array).cast(column_type)
    converted.validate(full=True)
    return converted


def _fits(array: Any, column_type: pa.DataType) -> bool:
    try:
        _converted(array, column_type) if not pa.types.is_integer(column_type) else array.cast(column_type)
    except pa.ArrowInvalid:
        return False
    return True


def _rows(array: Any, start: int, stop: int) -> Any:
    """These rows alone: Arrow casts the entries of all lists, also of those outside of a slice."""
    return array.take(pa.array(range(start, stop)))


def _first_wrong(array: Any, column_type: pa.DataType) -> int:
    """The first row whose value does not fit, by bisection."""
    start, stop = 0, len(array)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fits(_rows(array, start, middle), column_type):
            start = middle
        else:
            stop = middle
    return start


def _values(row: Any, column: str) -> Iterator[_Value]:
    """The single values in one row of a column: itself, or the fields of its gold answers."""
    chunk = row.combine_chunks() if isinstance(row, pa.ChunkedArray) else row
    if not pa.types.is_nested(row.type):
        yield _Value(repr(column), row, pa.large_string())
        return
    entries = chunk.flatten()
    for number in range(len(entries)):
        for field in GOLD:
            value = pc.struct_field(entries.slice(number, 1), field.name)  # pyright: ignore[reportAttributeAccessIssue]
            yield _Value(f"{field.name!r} of {column!r}", value, field.type)


def _shown(column: Any) -> str:
    """The single value of a column, shortened; bytes if it is not valid UTF-8."""
    try:
        text = repr(column[0].as_py())
    except UnicodeDecodeError:
        text = repr(column[0].as_buffer().to_pybytes())
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
