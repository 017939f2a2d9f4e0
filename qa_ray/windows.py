"""Document tokens -> overlapping windows of (start_token, stop_token).

A window is a pair of indices into the document's tokens; nothing is copied. The windows are those of a fast tokenizer's
``return_overflowing_tokens`` with ``stride=overlap_tokens``: each begins ``room - overlap`` after the one before, and the
last one ends with the document.

Every token is *owned* by one window: the one in which it has most context, that is, in which the nearer cut edge is
farthest away (edges at the document's own ends cut nothing). Between two neighbours that is the middle of their overlap.
"""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """W windows over the tokens of one document, in order; all ranges half open, in tokens of the document.

    ``[own_start, own_stop)`` are the tokens that a window owns: these ranges follow each other without gap or overlap.
    """

    start_W: np.ndarray
    stop_W: np.ndarray
    own_start_W: np.ndarray
    own_stop_W: np.ndarray

    def __len__(self) -> int:
        """W. (A NamedTuple would say 4, the number of its fields.)"""
        return len(self.start_W)

    def reach_T(self) -> np.ndarray:
        """For each token, where the last window that holds it stops: a span from here cannot go farther in one window."""
        num_tokens = int(self.stop_W[-1])
        last_window_T = np.searchsorted(self.start_W, np.arange(num_tokens), side="right") - 1
        return self.stop_W[last_window_T]


def windows(num_tokens: int, room_tokens: int, overlap_tokens: int) -> Windows:
    """The windows of a document of ``num_tokens`` ≥ 1 tokens.

    ``room_tokens`` is what a window has left for the document, behind the question and the special tokens;
    ``overlap_tokens`` is how many tokens two neighbours share, less than the room.
    """
    assert num_tokens >= 1, num_tokens
    assert 0 <= overlap_tokens < room_tokens, (overlap_tokens, room_tokens)
    step = room_tokens - overlap_tokens
    num_windows = 1 + max(0, -(-(num_tokens - room_tokens) // step))
    start_W = np.arange(num_windows, dtype=np.int64) * step
    stop_W = np.minimum(start_W + room_tokens, num_tokens)
    # A token t goes to window w rather than w + 1 if stop[w] - 1 - t >= t - start[w + 1].
    border = (stop_W[:-1] - 1 + start_W[1:]) // 2 + 1
    return Windows(start_W, stop_W, np.append(0, border), np.append(border, num_tokens))
