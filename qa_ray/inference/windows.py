"""Document tokens -> overlapping windows of (start_token, stop_token).

A window is a pair of indices into the document's tokens; nothing is copied. The windows are those of a fast tokenizer's
``return_overflowing_tokens`` with ``stride=overlap_tokens``: each begins ``room - overlap`` after the one before, and
the last one ends with the document.

Every token is *owned* by one window: the one in which it has most context, that is, in which the nearer cut edge is
farthest away (edges at the document's own ends cut nothing). Between two neighbours that is the middle of their
overlap.
"""

import numpy as np

from qa_ray.schemas import Windows


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
