"""Columns whose values are in the names of folders, as Spark and Hive write them: ``lang=de/part-0.parquet``."""

from collections.abc import Iterable
from urllib.parse import unquote

import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_values(path: str, root: str) -> dict[str, str | None]:
    """The columns that the folders between ``root`` and the file give, and their values as text."""
    values: dict[str, str | None] = {}
    for folder in path[len(root) :].lstrip("/").split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if name and equals:
            values[_decoded(name)] = None if value == NULL else _decoded(value)
    return values


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def partition_types(paths: Iterable[str], root: str) -> dict[str, pa.DataType]:
    """The columns that the folders of all files give, with the types that Arrow infers: int32 or string."""
    values: dict[str, set[str | None]] = {}
    for path in paths:
        for name, value in partition_values(path, root).items():
            values.setdefault(name, set()).add(value)
    return {name: _inferred_type(values[name] - {None}) for name in values}


def _inferred_type(values: Iterable[str | None]) -> pa.DataType:
    texts = pa.array(values, pa.string())
    try:
        return texts.cast(pa.int32()).type if len(texts) else pa.string()
    except pa.ArrowInvalid:
        return pa.string()
