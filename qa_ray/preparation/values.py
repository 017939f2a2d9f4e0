"""Values of source records, by type: what is certain is read, everything else is an InputError with its place.

Sources that went through CSV, pandas or a spreadsheet have booleans and numbers as text, and NaN where there was
nothing. Nothing here goes by truthiness: ``bool("False")`` is true.
"""

import datetime
import hashlib
import math
import re
import uuid
from decimal import Decimal
from typing import Any

from qa_ray.errors import InputError
from qa_ray.wording import shown

Row = dict[str, Any]

NOTHING = {"", "nan", "null", "none"}  # how CSV, pandas and Python write a value that is missing
TRUE, FALSE = {"true", "t", "yes", "1"}, {"false", "f", "no", "0"}
MAX_EXACT_FLOAT = 2**53  # above, neighboring whole numbers are the same float
MAX_START_CHAR = 2**63


def text_digest(text: str | None) -> bytes:
    """A hash that is the same for equal texts only."""
    return b"" if text is None else hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def is_missing(value: Any) -> bool:
    """Whether the value is null or NaN, which is how pandas writes null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def checked_value(record: Any, key: str, place: str, *types: type) -> Any:
    """``record[key]``.

    Raises:
        InputError: ``record`` is not a dict, has no such key, or the value has none of these types.
    """
    value = record.get(key, ...) if isinstance(record, dict) else ...
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return value
    names = {str: "text", int: "a whole number", list: "a list", dict: "an object", type(None): "null"}
    expected = " or ".join(names[each] for each in types)
    if not isinstance(record, dict):
        raise InputError(f"{place}: {shown(record)} is not an object with {key!r} ({expected}); fix the source")
    if value is ...:
        raise InputError(f"{place}: there is no {key!r} (expected {expected}); fix the source")
    raise InputError(f"{place}: {key!r} is {shown(value)}, not {expected}; fix the source")


def text_or_none(record: Any, key: str, place: str) -> str | None:
    """The text at ``key``, which must exist; None for null and NaN."""
    if isinstance(record, dict) and key in record and is_missing(record[key]):
        return None
    return checked_value(record, key, place, str, type(None))


def identifier(record: Any, key: str, place: str) -> str | None:
    """The id at ``key`` as text; None if it is missing. A float such as 7.0 is the whole number, "7".

    Databases also export whole numbers as decimals, and have UUIDs and dates.

    Raises:
        InputError: it is neither text nor a whole number, or a float that may have lost digits.
    """
    value = record.get(key)
    if is_missing(value) or isinstance(value, str):
        return None if is_missing(value) else value
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(value, key, place)
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT_FLOAT:
        return str(int(value))
    if isinstance(value, Decimal) and _is_whole(value):
        return str(int(value))
    if type(value) in (uuid.UUID, datetime.date):
        return str(value)
    lost = " (a float of this size has lost digits)" if isinstance(value, float) and value.is_integer() else ""
    raise InputError(
        f"{place}: {key!r} is {shown(value)}, not text or a whole number{lost}; write the ids of the source as text"
    )


def truth(record: Any, key: str, place: str) -> bool | None:
    """The boolean at ``key``, also as text or 0 and 1; None if it is missing.

    Raises:
        InputError: it can be read neither as true nor as false.
    """
    value = record.get(key)
    if is_missing(value) or isinstance(value, bool):
        return None if is_missing(value) else value
    word = value.strip().lower() if isinstance(value, str) else str(int(value)) if value in (0, 1) else ""
    if isinstance(value, str) and word in NOTHING:
        return None
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise InputError(f"{place}: {key!r} is {shown(value)}, neither true nor false; write true, false or null")


def start_char(value: Any, name: str, place: str) -> int | None:
    """The position of a gold answer, also as a float without a fraction or as text; None if it is missing.

    Raises:
        InputError: it is not a whole number.
    """
    number = value
    if isinstance(value, str):
        if value.strip().lower() in NOTHING:
            return None
        number = _number(value)
    if is_missing(value):
        return None
    if isinstance(number, float) and math.isfinite(number) and not number.is_integer():
        raise InputError(f"{place}: {name} is {shown(value)}, which has a fraction; {_REMEDY_FOR_POSITIONS}")
    if (isinstance(number, float) and abs(number) < MAX_EXACT_FLOAT) or (
        isinstance(number, Decimal) and _is_whole(number)
    ):
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= MAX_START_CHAR:
        raise InputError(f"{place}: {name} is {shown(value)}, not a whole number; {_REMEDY_FOR_POSITIONS}")
    return number


_REMEDY_FOR_POSITIONS = "give the number of characters before the answer, or leave it out"


def _number(text: str) -> int | float | None:
    """Python's int() and float() take more than numbers of a table, such as 1_000."""
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,20}(\.[0-9]*)?\s*", text):
        return None
    return float(text) if "." in text else int(text)


def _is_whole(value: Decimal) -> bool:
    return value.is_finite() and value == value.to_integral_value()


def _digits(number: int, key: str, place: str) -> str:
    try:
        return str(number)
    except ValueError as error:  # Python writes at most 4,300 digits
        raise InputError(f"{place}: {key!r} is a number of more digits than can be read; write it as text") from error
