"""Questions in a list column of the documents themselves: the column's type, its parts in Parquet, and its entries.

They are read, streamed and answered with their documents, and nowhere are all of them in memory.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qa_ray.errors import InputError
from qa_ray.io.id_types import id_strings
from qa_ray.io.table_files import TableFiles, check_name, check_type

LISTED = pa.list_(pa.struct([("question_id", pa.large_string()), ("question", pa.large_string())]))
"""A document's questions as they are read; ids and texts are not checked yet."""

VALUES_PER_BATCH = 65_536  # ids or questions in memory at a time, for each file that is read


class QuestionLists(NamedTuple):
    """The name of the list column, and those of the fields of its structs."""

    column: str
    question_id: str
    question: str
    answers: str | None = None  # gold answers are not read without it


def question_lists(columns: Mapping[str, str | None]) -> QuestionLists | None:
    """The names in a config's ``columns``; None if it turns the list column off."""
    column, question_id, question = (columns.get(name) for name in ("questions", "question_id", "question"))
    if column is None or question_id is None or question is None:
        return None
    return QuestionLists(column, question_id, question, columns.get("answers"))


def check_lists(schema: pa.Schema, lists: QuestionLists, table: str) -> None:
    """Checks that the column is a list of structs with the fields of ``lists``; lists that are all empty have no type.

    Raises:
        InputError: it is not; the message begins with ``table`` ("documents").
    """
    column_type = schema.field(lists.column).type
    is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
    if pa.types.is_null(column_type) or (is_list and pa.types.is_null(column_type.value_type)):
        return
    if not is_list or not pa.types.is_struct(column_type.value_type):
        raise InputError(
            f"{table}: the column {lists.column!r} has type {column_type}, not list<struct<{lists.question_id}, "
            f"{lists.question}>>; cast it, or name the column with the questions with columns.questions=…, null: none"
        )
    struct = pa.schema(list(column_type.value_type))
    for name, field in lists._asdict().items():
        if field is not None and name != "column":
            place = f"{table}: the structs of {lists.column!r}"
            check_name(struct.names, name, field, place)
            if name == "answers" or not pa.types.is_null(struct.field(field).type):
                check_type(struct.field(field).type, name, field, place)


def id_types(files: TableFiles, lists: QuestionLists) -> list[pa.DataType]:
    """The types of the questions' ids in the lists of all files, which are checked; lists that are all empty have none.

    Raises:
        InputError: a reason of ``check_lists``.
    """
    types = []
    for schema, _ in files.layouts:
        if lists.column not in schema.names:
            continue
        check_lists(schema, lists, files.table)
        column_type = schema.field(lists.column).type
        if not (pa.types.is_null(column_type) or pa.types.is_null(column_type.value_type)):
            types.append(column_type.value_type.field(lists.question_id).type)
    return types


class Leaves(NamedTuple):
    """The parts of a Parquet file that hold fields of the structs."""

    names: list[str]  # by which Parquet reads them alone, such as questions.list.element.question_id
    num_values: int  # of one of them; an empty list counts as one
    max_bytes: int  # compressed, of one of them in one row group


def list_leaves(metadata: pq.FileMetaData, lists: QuestionLists, fields: Sequence[str]) -> Leaves:
    """Where these fields are; the whole column if that is not clear, as writers differ in the names in between."""
    paths = [metadata.schema.column(index).path for index in range(len(metadata.schema))]
    own = {path: path.removeprefix(f"{lists.column}.").split(".", 2)[-1] for path in paths if _is_in(path, lists)}
    names = [path for path, field in own.items() if field in fields]
    names = names if len(names) == len(fields) else list(own)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(paths.index(name)) for group in groups for name in names]
    return Leaves(
        names=names if len(names) == len(fields) else [lists.column],
        num_values=sum(chunk.num_values for chunk in chunks) // max(1, len(names)),
        max_bytes=max((chunk.total_compressed_size for chunk in chunks), default=0),
    )


def _is_in(path: str, lists: QuestionLists) -> bool:
    return path == lists.column or path.startswith(f"{lists.column}.")


def rows_per_batch(leaves: Leaves, num_rows: int) -> int:
    """Documents in a batch of about VALUES_PER_BATCH questions, if ``num_rows`` documents have those of ``leaves``."""
    return max(1, VALUES_PER_BATCH * num_rows // max(leaves.num_values, num_rows, 1))


def num_listed(array: pa.Array) -> int:
    """The number of entries of all lists, null entries included."""
    return 0 if pa.types.is_null(array.type) else len(array.flatten())


def read_lists(array: pa.Array, lists: QuestionLists) -> pa.ListArray:
    """The lists as LISTED, one per document; null lists are empty, and null entries have nulls."""
    if pa.types.is_null(array.type):
        return pa.array([[]] * len(array), LISTED)
    lengths = pc.list_value_length(array).fill_null(0)  # pyright: ignore[reportAttributeAccessIssue]
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(lengths.to_numpy(), out=offsets[1:])
    entries = array.flatten()
    fields = [id_strings(list_field(entries, field)) for field in (lists.question_id, lists.question)]
    structs = pa.StructArray.from_arrays(fields, fields=list(LISTED.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def list_field(entries: pa.Array, field: str) -> pa.Array:
    """A field of the lists' entries: null where the entry is."""
    if pa.types.is_null(entries.type):
        return entries
    return pc.struct_field(entries, field)  # pyright: ignore[reportAttributeAccessIssue]
