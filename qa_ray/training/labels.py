"""Gold answers -> characters, tokens and labels per window, for training.

A gold answer is a text and, if known, its first character. Training data is not always right about that character: if
the text does not start there, it is searched for within REACH_CHARS, or in the whole document if no character is given.
Exactly one occurrence is accepted; none or several are a fault, so nothing is guessed.

Shapes: T tokens of the document, W windows, A answers of a question.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qa_ray.inference.borders import widen
from qa_ray.io.row_checks import Fault
from qa_ray.schemas import Tokens, Windows

REACH_CHARS = 200


class Located(NamedTuple):
    """The characters ``[start_char, stop_char)`` of an answer in its document, and how they were located."""

    start_char: int
    stop_char: int
    how: str  # as_given; relocated: near the given character; found: no character was given


class GoldTokens(NamedTuple):
    """The gold answers of a question in its document."""

    ranges: set[tuple[int, int]]  # tokens [start, stop)
    outcomes: list[str]  # for each answer, how it was located, or why not
    fault: Fault | None  # why none of them was located; None if one was, or if there are none


def locate_gold(text: str, tokens: Tokens, gold: Sequence[Mapping[str, Any]]) -> GoldTokens:
    """The tokens of all gold answers (rows of schemas.GOLD) that are located; a blank text is no answer."""
    ranges, outcomes, faults = set(), [], []
    for answer in gold:
        if not (answer["text"] or "").strip():
            outcomes.append("blank")
            continue
        located = locate(text, answer["text"], answer["start_char"])
        if not isinstance(located, Fault):
            start, stop = answer_tokens(text, tokens, located)
            if start < stop:
                ranges.add((start, stop))
                outcomes.append(located.how)
                continue
            located = Fault("no_tokens", "the tokenizer finds no token in the answer")
        faults.append(located)
        outcomes.append(located.reason)
    return GoldTokens(ranges, outcomes, faults[0] if faults and not ranges else None)


def locate(document: str, answer: str, start_char: int | None) -> Located | Fault:
    """The characters of ``answer``, which is not blank, in ``document``, without leading and trailing white space."""
    stripped = answer.strip()
    assert stripped
    if start_char is None:
        starts, how, scope = _occurrences(document, stripped, 0, len(document)), "found", "the document"
    else:
        start_char += len(answer) - len(answer.lstrip())
        if start_char >= 0 and document.startswith(stripped, start_char):
            return Located(start_char, start_char + len(stripped), "as_given")
        first, last = max(0, start_char - REACH_CHARS), start_char + len(stripped) + REACH_CHARS
        starts, how = _occurrences(document, stripped, first, last), "relocated"
        scope = f"{REACH_CHARS} characters of {start_char}"
    if len(starts) == 1:
        return Located(starts[0], starts[0] + len(stripped), how)
    reason = "answer_ambiguous" if starts else "answer_not_found"
    return Fault(reason, f"{stripped[:60]!r} occurs {len(starts)} times within {scope}")


def _occurrences(document: str, text: str, first: int, last: int) -> list[int]:
    starts, start = [], document.find(text, first, last)
    while start >= 0:
        starts.append(start)
        start = document.find(text, start + 1, last)
    return starts


class Labels(NamedTuple):
    """The training target of each window.

    A window with whole answers is a positive for any of them, one without any part of an answer is a negative; one
    that cuts an answer and holds no whole one is not used (``is_cut_W``).
    """

    is_inside_WA: np.ndarray
    is_cut_W: np.ndarray


def answer_tokens(text: str, tokens: Tokens, answer: Located) -> tuple[int, int]:
    """The tokens ``[start, stop)`` that overlap the answer; start = stop if none.

    Of a number that the gold answer cuts, they are all tokens, as the answer path gives it whole.
    """
    start_char, stop_char = widen(text, answer.start_char, answer.stop_char)
    start = int(np.searchsorted(tokens.stop_char_T, start_char, side="right"))
    return start, max(start, int(np.searchsorted(tokens.start_char_T, stop_char, side="left")))


def labels(windows: Windows, answers: Sequence[tuple[int, int]] | np.ndarray) -> Labels:
    """The labels of a document's windows; ``answers`` [A, 2] are the document's tokens ``[start, stop)`` of each."""
    start_A, stop_A = np.array(answers, dtype=np.int64).reshape(-1, 2).T
    start_W1, stop_W1 = windows.start_W[:, None], windows.stop_W[:, None]
    is_inside_WA = (start_W1 <= start_A) & (stop_A <= stop_W1)
    touches_WA = (start_W1 < stop_A) & (start_A < stop_W1)
    is_cut_W = np.logical_and(touches_WA.any(axis=1), ~is_inside_WA.any(axis=1))
    return Labels(is_inside_WA, is_cut_W)
