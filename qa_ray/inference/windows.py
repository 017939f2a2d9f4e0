"""Document tokens -> overlapping windows of (start_token, stop_token).

A window is a pair of indices into the document's tokens; nothing is copied. The windows are those of a fast tokenizer's
``return_overflowing_tokens`` with ``stride=overlap_tokens``: each starts ``room - overlap`` tokens after the previous
one, and the last one ends with the document.

Every token is *owned* by one window, the one in which it has the most context: the nearer cut edge is farthest away
(the document's own ends are not cuts). Between two neighbors the border is the middle of their overlap.
"""

import numpy as np

from qa_ray.schemas import Windows


def windows(num_tokens: int, room_tokens: int, overlap_tokens: int) -> Windows:
    """The windows of a document of ``num_tokens`` ≥ 1 tokens.

    ``room_tokens`` is the number of tokens that a window has for the document, besides the question and the special
    tokens; ``overlap_tokens`` is the number of tokens that two neighbors share, less than ``room_tokens``.
    """
    assert num_tokens >= 1, num_tokens
    assert 0 <= overlap_tokens < room_tokens, (overlap_tokens, room_tokens)
    step = room_tokens - overlap_tokens
    num_windows = 1 + max(0, -(-(num_tokens - room_tokens) // step))
    start_W = np.arange(num_windows, dtype=np.int64) * step
    stop_W = np.minimum(start_W + room_tokens, num_tokens)
    # Window w owns token t, and not window w + 1, if stop[w] - 1 - t >= t - start[w + 1].
    border = (stop_W[:-1] - 1 + start_W[1:]) // 2 + 1
    return Windows(start_W, stop_W, np.append(0, border), np.append(border, num_tokens))
