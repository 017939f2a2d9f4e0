"""One type for a column that files of a table have with different types, where no value is lost by it."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FLOAT_BITS = {16: 11, 32: 24, 64: 53}  # whole numbers of so many bits are exact


def is_text(column_type: pa.DataType) -> bool:
    """Whether it is a type of strings, also of a dictionary of them."""
    plain = decoded(column_type)
    return pa.types.is_string(plain) or pa.types.is_large_string(plain)


def without_views(column_type: pa.DataType) -> pa.DataType:
    """The type with views as large strings, at any depth: Arrow has few compute functions for views yet."""
    types = pa.types
    if types.is_string_view(column_type):
        return pa.large_string()
    if types.is_binary_view(column_type):
        return pa.large_binary()
    if types.is_dictionary(column_type):
        value_type = without_views(column_type.value_type)
        return pa.dictionary(column_type.index_type, value_type, column_type.ordered)
    if types.is_struct(column_type):
        return pa.struct([_plain_field(field) for field in column_type])
    if types.is_map(column_type):
        return pa.map_(_plain_field(column_type.key_field), _plain_field(column_type.item_field))
    if types.is_list(column_type):
        return pa.list_(_plain_field(column_type.value_field))
    if types.is_large_list(column_type):
        return pa.large_list(_plain_field(column_type.value_field))
    if types.is_fixed_size_list(column_type):
        return pa.list_(_plain_field(column_type.value_field), column_type.list_size)
    return column_type


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(without_views(field.type))


def decoded(column_type: pa.DataType) -> pa.DataType:
    """The type without views; that of the values, if they are encoded as a dictionary."""
    column_type = without_views(column_type)
    return column_type.value_type if pa.types.is_dictionary(column_type) else column_type


def common_type(types: Iterable[pa.DataType]) -> pa.DataType | None:
    """The type that Arrow promotes all of these to, null for none of them; None if it has no such type."""
    common = pa.null()
    for column_type in map(without_views, types):
        if column_type == common or pa.types.is_null(column_type):
            continue
        one, other = common, column_type
        if not pa.types.is_null(one) and (pa.types.is_dictionary(one) or pa.types.is_dictionary(other)):
            one, other = decoded(one), decoded(other)
        schemas = [pa.schema([("column", each)]) for each in (one, other)]
        try:
            common = pa.unify_schemas(schemas, promote_options="permissive").field("column").type
        except pa.ArrowException:
            return None
    return common


def keeps_values(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether every value of the type ``source`` is the same in the type ``target``, which it is promoted to."""
    types = pa.types
    if source == target or types.is_null(source):
        return True
    if types.is_dictionary(source):
        return keeps_values(source.value_type, target)
    if types.is_nested(source):
        return _keeps_nested(source, target)
    if types.is_integer(source):
        return _keeps_integers(source, target)
    if types.is_decimal(source):
        digits = target.precision - target.scale if types.is_decimal(target) else -1
        return digits >= source.precision - source.scale and target.scale >= source.scale
    if types.is_floating(source):
        return types.is_floating(target) and target.bit_width >= source.bit_width
    if is_text(source) or types.is_binary(source) or types.is_large_binary(source):
        return is_text(target) or types.is_binary(target) or types.is_large_binary(target)
    if types.is_fixed_size_binary(source):
        return types.is_binary(target) or types.is_large_binary(target)
    return (types.is_date(source) and types.is_date(target)) or (types.is_time(source) and types.is_time(target))


def _keeps_integers(source: pa.DataType, target: pa.DataType) -> bool:
    bounds = np.iinfo(source.to_pandas_dtype())
    if pa.types.is_integer(target):
        room = np.iinfo(target.to_pandas_dtype())
        return room.min <= bounds.min and bounds.max <= room.max
    if pa.types.is_floating(target):
        return bounds.max < 2 ** FLOAT_BITS[target.bit_width]
    return pa.types.is_decimal(target) and target.precision - target.scale >= len(str(bounds.max))


def _keeps_nested(source: pa.DataType, target: pa.DataType) -> bool:
    if not pa.types.is_nested(target):
        return False
    if pa.types.is_struct(source):
        return all(keeps_values(field.type, target.field(field.name).type) for field in source)
    if pa.types.is_map(source):
        return keeps_values(source.key_type, target.key_type) and keeps_values(source.item_type, target.item_type)
    return keeps_values(source.value_type, target.value_type)


def values_fit(metadata: pq.FileMetaData, column: str, source: pa.DataType, target: pa.DataType) -> bool:
    """Whether all values of the file's column are the same in the type ``target``, as its statistics show.

    For types in which a range of values can be cast if both ends can: integers, times in another unit. False where
    statistics are absent.
    """
    if not (pa.types.is_integer(source) or pa.types.is_timestamp(source) or pa.types.is_duration(source)):
        return False
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            statistics = chunk.statistics
            if chunk.path_in_schema != column or (statistics and statistics.null_count == group.num_rows):
                continue
            if not (statistics and statistics.has_min_max):
                return False
            try:
                pa.array([statistics.min, statistics.max], source).cast(target)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                return False
    return True
