"""JSON texts whose objects have each key once: of two values of one key, Python would keep only the last."""

import json
from collections import Counter
from typing import Any

from qa_ray.errors import InputError


class RepeatedKeyError(ValueError):
    """An object has a key twice."""


def parse_json(text: str, place: str, remedy: str) -> Any:
    """The value of a JSON text, which may have NaN.

    Raises:
        InputError: it is not JSON, nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_object)
    except RepeatedKeyError as error:
        raise InputError(f"{place}: {error}; keep one of them") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}; {remedy}") from error


def unique_object(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The object with these keys and values, as ``object_pairs_hook`` of ``json.loads``.

    Raises:
        RepeatedKeyError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RepeatedKeyError(f"an object has the key {repeated!r} twice")
    return found
