r"""Gold answers of a source: read from the forms that tools write, and moved where another count of characters fits.

Characters are code points of the text. Browsers, Java and .NET count UTF-16 units instead, where an emoji is two; tools
in Go and Rust often count bytes; and if line ends were changed, ``\r\n`` counts for one character or ``\n`` for two.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qa_ray.errors import InputError
from qa_ray.io.json_text import RepeatedKeyError, unique_object
from qa_ray.preparation.values import NOTHING, Row, checked_value, is_missing, start_char

BLANK = "with a blank text, left out"
NEGATIVE = "with a negative start_char, read as unknown"
CONTRADICTED = "left out, because is_impossible is true"
ANSWERABLE = "missing though is_impossible is false, read as unknown"


# ---- Reading


def gold_answers(answers: Any, place: str) -> list[Row] | None:
    """Rows of schemas.GOLD from one of these; None for null:

    ``[{text, start_char or answer_start}]``, ``[text]``, ``{text: […], answer_start: […]}`` as the hub has them,
    ``{text, answer_start}``, or any of these as text, in JSON or as Python prints it.

    Raises:
        InputError: anything else.
    """
    if isinstance(answers, str):
        answers = None if answers.strip().lower() in NOTHING else _parsed(answers, place)
    if is_missing(answers):
        return None
    if isinstance(answers, dict):
        answers = _transposed(answers, f"{place}: answers")
    gold = []
    for i, answer in enumerate(checked_value({"answers": answers}, "answers", place, list)):
        answer_place = f"{place}: answers[{i}]"
        if isinstance(answer, str):
            answer = {"text": answer}
        text = checked_value(answer, "text", answer_place, str)
        name = next((name for name in _starts_of(answer) if not is_missing(answer[name])), "answer_start")
        gold.append({"text": text, "start_char": start_char(answer.get(name), name, answer_place)})
    return gold


def _starts_of(answer: Row) -> list[str]:
    return [name for name in ("start_char", "answer_start") if name in answer]


def _transposed(answers: Row, place: str) -> list[Row]:
    """The answers of ``{text: […], answer_start: […]}`` or ``{text, answer_start}``."""
    if isinstance(answers.get("text"), str):
        return [answers]
    texts = checked_value(answers, "text", place, list)
    columns: dict[str, list[Any]] = {"text": texts}
    for name in _starts_of(answers):
        if is_missing(answers[name]):
            continue
        columns[name] = checked_value(answers, name, place, list)
        if len(columns[name]) != len(texts):
            raise InputError(
                f"{place}: {len(texts)} texts, but {len(columns[name])} values of {name}; give one for each text"
            )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _parsed(text: str, place: str) -> Any:
    """The value of a text in JSON, or as Python prints lists, dicts and NumPy's arrays (a CSV file made by pandas)."""
    try:
        try:
            return json.loads(text, object_pairs_hook=unique_object)
        except (json.JSONDecodeError, RecursionError):
            return _python_value(ast.parse(text.strip(), mode="eval").body)
    except RepeatedKeyError as error:
        raise InputError(f"{place}: 'answers' is the text {text!r:.60}: {error}; keep one of them") from error
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{place}: 'answers' is the text {text!r:.60}, which is not JSON; write it as "
            '[{"text": …, "answer_start": …}]'
        ) from error


def _python_value(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_python_value(key) for key in node.keys if key]
        return unique_object([*zip(keys, map(_python_value, node.values), strict=True)])
    if isinstance(node, ast.List | ast.Tuple):
        return [_python_value(item) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array" and node.args:
        return _python_value(node.args[0])
    if isinstance(node, ast.Name) and node.id == "nan":
        return None
    return ast.literal_eval(node)


# ---- Settling


def settle(text: str | None, questions: Sequence[Row], notes: Counter[str]) -> None:
    """Makes the gold of one document consistent, in place, and counts in ``notes`` what was changed.

    - A blank text is no answer.
    - ``is_impossible``, where the source has it, decides whether the document answers a question.
    - A negative position, by which some sources mean an unknown one, is null.
    - If positions do not fit the text, but all of the document's fit it when they are counted in another way, and no
      third way gives other places, they are moved there.
    """
    for question in questions:
        if given := question["answers"]:
            question["answers"] = [answer for answer in given if answer["text"].strip()]
            notes[BLANK] += len(given) - len(question["answers"])
        gold, is_impossible = question["answers"], question.get("is_impossible")
        if is_impossible:
            notes[CONTRADICTED] += len(gold or [])
            question["answers"] = []
        elif is_impossible is False and gold == []:
            notes[ANSWERABLE] += 1
            question["answers"] = None
    answers = [answer for question in questions for answer in question["answers"] or []]
    for answer in answers:
        if answer["start_char"] is not None and answer["start_char"] < 0:
            answer["start_char"] = None
            notes[NEGATIVE] += 1
    _recount(text or "", [answer for answer in answers if answer["start_char"] is not None], notes)


def _recount(text: str, answers: list[Row], notes: Counter[str]) -> None:
    if not text or all(text.startswith(answer["text"], answer["start_char"]) for answer in answers):
        return
    given = np.array([answer["start_char"] for answer in answers])
    fitting: dict[tuple[int, ...], str] = {}
    for name, chars_before in _counts(text):
        starts = np.searchsorted(chars_before, given, side="right") - 1
        is_exact = (starts >= 0) & (starts < len(text)) & (chars_before[starts] == given)
        places = tuple(starts.tolist())
        if is_exact.all() and all(text.startswith(answer["text"], i) for answer, i in zip(answers, places)):
            fitting.setdefault(places, name)
    if len(fitting) != 1:
        return
    ((places, name),) = fitting.items()
    for answer, place in zip(answers, places):
        notes[name] += answer["start_char"] != place
        answer["start_char"] = place


def _counts(text: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, what is counted before each code point) for each way of counting that differs from code points."""
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    is_newline, after_return = code_points == ord("\n"), np.zeros(len(text), dtype=bool)
    after_return[1:] = code_points[:-1] == ord("\r")
    is_pair, is_lone = is_newline & after_return, is_newline & ~after_return
    astral = code_points >= 0x10000
    one = np.ones(len(text), dtype=np.int64)
    units = {"": one, "UTF-16 units": one + astral}
    units["bytes of UTF-8"] = one + (code_points >= 0x80) + (code_points >= 0x800) + astral
    line_ends = {"": 0 * one, "\\n as two": 1 * is_lone, "\\r\\n as one": -1 * is_pair}
    for unit, width in units.items():
        for line_end, change in line_ends.items():
            counted = width + change
            if (counted != one).any():
                yield f"counted in {' and '.join(filter(None, (unit, line_end)))}", np.cumsum(counted) - counted
    yield "counted from 1", np.arange(1, len(text) + 1)
