"""Gold answers -> the tokens that a model should find in each window, for training.

A gold answer is a text and, where it is known, the character where it begins. Training data are not always right about
that: a begin that does not fit the text is mended where the text stands once within REACH_CHARS of it, and otherwise
the answer is told as a fault. Nothing is guessed.

Shapes: T tokens of the document, W windows, A answers of a question.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qa_ray.schemas import Tokens, Windows

REACH_CHARS = 200


class Located(NamedTuple):
    """Where an answer stands in its document, and how that was found."""

    start_char: int
    stop_char: int
    how: str  # as_given, relocated, found


class Fault(NamedTuple):
    """Why nothing can be learned from an answer."""

    reason: str  # empty_answer, answer_not_found, answer_ambiguous
    detail: str


def locate(document: str, answer: str, start_char: int | None) -> Located | Fault:
    """The characters of ``answer``; white space round it does not count."""
    stripped = answer.strip()
    if not stripped:
        place = "" if start_char is None else f" at character {start_char}"
        return Fault("empty_answer", f"the answer{place} is empty")
    if start_char is None:
        starts, how, where = _occurrences(document, stripped, 0, len(document)), "found", "the document"
    else:
        start_char += len(answer) - len(answer.lstrip())
        if start_char >= 0 and document.startswith(stripped, start_char):
            return Located(start_char, start_char + len(stripped), "as_given")
        first, last = max(0, start_char - REACH_CHARS), start_char + len(stripped) + REACH_CHARS
        starts, how = _occurrences(document, stripped, first, last), "relocated"
        where = f"{REACH_CHARS} characters of {start_char}"
    if len(starts) == 1:
        return Located(starts[0], starts[0] + len(stripped), how)
    reason = "answer_ambiguous" if starts else "answer_not_found"
    return Fault(reason, f"{stripped[:60]!r} stands {len(starts)} times within {where}")


def _occurrences(document: str, text: str, first: int, last: int) -> list[int]:
    starts, start = [], document.find(text, first, last)
    while start >= 0:
        starts.append(start)
        start = document.find(text, start + 1, last)
    return starts


class Labels(NamedTuple):
    """What a model should say of each window.

    A window that holds whole answers should find any of them; one that holds none says that there is no answer here;
    one that holds a piece of one and no whole one is nothing to learn from (``is_cut_W``).
    """

    is_inside_WA: np.ndarray
    is_cut_W: np.ndarray


def tokens_of(tokens: Tokens, start_char: int, stop_char: int) -> tuple[int, int]:
    """The tokens ``[start, stop)`` that hold a character of ``[start_char, stop_char)``; none if they are equal."""
    start = int(np.searchsorted(tokens.stop_char_T, start_char, side="right"))
    return start, max(start, int(np.searchsorted(tokens.start_char_T, stop_char, side="left")))


def labels(windows: Windows, answers: Sequence[tuple[int, int]] | np.ndarray) -> Labels:
    """``answers`` are the tokens ``[start, stop)`` of each answer in the document."""
    start_A, stop_A = np.array(answers, dtype=np.int64).reshape(-1, 2).T
    start_W1, stop_W1 = windows.start_W[:, None], windows.stop_W[:, None]
    is_inside_WA = (start_W1 <= start_A) & (stop_A <= stop_W1)
    touches_WA = (start_W1 < stop_A) & (start_A < stop_W1)
    is_cut_W = np.logical_and(touches_WA.any(axis=1), ~is_inside_WA.any(axis=1))
    return Labels(is_inside_WA, is_cut_W)
