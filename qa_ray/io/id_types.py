"""The types of ids: strings within a job, where documents meet questions; in its results, as they came."""

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from qa_ray.io.column_types import common_type, decoded, is_text, keeps_values

INTEGER = re.compile("0|-?[1-9][0-9]*")


def is_id_type(column_type: pa.DataType) -> bool:
    """Whether ids may have this type: strings, integers, decimals without fraction, UUIDs."""
    return is_text(column_type) or pa.types.is_integer(column_type) or _is_whole(column_type) or is_uuid(column_type)


def is_uuid(column_type: pa.DataType) -> bool:
    """Whether it is Arrow's type of UUIDs, which Parquet files of DuckDB and others have."""
    return isinstance(column_type, pa.UuidType)


def _is_whole(column_type: pa.DataType) -> bool:
    return pa.types.is_decimal(column_type) and column_type.scale == 0


def common_id_type(types: Iterable[pa.DataType | None]) -> pa.DataType:
    """The type for ids of all these types; string if they differ in kind, or if there are none."""
    known = [column_type for column_type in types if column_type is not None and not pa.types.is_null(column_type)]
    common = common_type(known)
    if known and common is not None and all(keeps_values(each, common) for each in known) and is_id_type(common):
        return decoded(common)
    return pa.string()


def id_strings(ids: pa.Array | pa.ChunkedArray) -> Any:
    """The ids as large strings: how they are called within a job."""
    if is_uuid(ids.type):
        return pa.array([None if id_ is None else str(id_) for id_ in ids.to_pylist()], pa.large_string())
    return ids.cast(pa.large_string())


def ids_of_type(strings: Any, id_type: pa.DataType) -> Any:
    """The inverse of ``id_strings``, for an array or a chunked array of strings; null where a string is no such id."""
    if is_text(id_type):
        return strings.cast(id_type)
    if not is_uuid(id_type):
        try:
            ids = strings.cast(id_type)
        except pa.ArrowInvalid:
            pass
        else:
            if id_strings(ids).equals(strings.cast(pa.large_string())):
                return ids
    return pa.array([_parsed(id_, id_type) for id_ in strings.to_pylist()], id_type)


def _parsed(text: str | None, id_type: pa.DataType) -> Any:
    if text is None:
        return None
    if is_uuid(id_type):
        try:
            value = UUID(text)
        except ValueError:
            return None
        return value.bytes if str(value) == text else None
    if not INTEGER.fullmatch(text):
        return None
    if pa.types.is_decimal(id_type):
        return int(text) if len(text.lstrip("-")) <= id_type.precision else None
    bounds = np.iinfo(id_type.to_pandas_dtype())
    return int(text) if bounds.min <= int(text) <= bounds.max else None
