"""Where terms (token ids) of a document are in its windows.

Shapes: T tokens of the document, W windows, P positions, N pairs of a position and a window that has it.
"""

import numpy as np

from qa_ray.schemas import Windows


def windows_with(position_P: np.ndarray, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a position and a window that has it: indices into ``position_P`` and into the windows, [N] each."""
    first_P = np.searchsorted(windows.stop_W, position_P, side="right")
    num_P = np.searchsorted(windows.start_W, position_P, side="right") - first_P
    index_N = np.repeat(np.arange(len(position_P)), num_P)
    window_N = np.arange(len(index_N)) - np.repeat(np.cumsum(num_P) - num_P - first_P, num_P)
    return index_N, window_N


def distinct_terms(document_ids_T: np.ndarray, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """The distinct terms of each window: windows and terms as pairs, sorted, [N] each."""
    position_N, window_N = windows_with(np.arange(len(document_ids_T)), windows)
    return distinct_pairs(window_N, document_ids_T[position_N])


def distinct_pairs(window_N: np.ndarray, term_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a window and a term without repetitions, sorted."""
    if not len(term_N):
        return window_N, term_N
    num_terms = int(term_N.max()) + 1
    pairs = np.unique(window_N.astype(np.int64) * num_terms + term_N)
    return pairs // num_terms, pairs % num_terms
