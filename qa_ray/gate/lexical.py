"""The lexical gate: BM25 of a document's windows for a question, in any language.

Terms are token ids, and document frequencies are those of the document's own windows: nothing outside the document is
needed, and a word counts by how rare it is there (Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework:
BM25 and Beyond").

Shapes: T tokens of the document, W windows, Q distinct terms of the question.
"""

import numpy as np

from qa_ray.gate.occurrences import windows_with
from qa_ray.schemas import Windows

SATURATION, LENGTH_WEIGHT = 1.2, 0.5  # k1 and b


def bm25(document_ids_T: np.ndarray, question_ids: np.ndarray, windows: Windows) -> np.ndarray:
    """The score of each window, [W] in float64; 0 for a window without a term of the question."""
    terms, num_windows = np.unique(question_ids), len(windows)
    position_P = np.flatnonzero(np.isin(document_ids_T, terms))
    index_N, window_N = windows_with(position_P, windows)
    term_N = np.searchsorted(terms, document_ids_T[position_P])[index_N]
    count_WQ = np.bincount(window_N * len(terms) + term_N, minlength=num_windows * len(terms))
    count_WQ = count_WQ.reshape(num_windows, len(terms))
    num_with_Q = (count_WQ > 0).sum(axis=0)
    rarity_Q = np.log1p((num_windows - num_with_Q + 0.5) / (num_with_Q + 0.5))
    length_W = windows.stop_W - windows.start_W
    norm_W1 = SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * length_W / length_W.mean())[:, None]
    return (rarity_Q * count_WQ * (SATURATION + 1) / (count_WQ + norm_W1)).sum(axis=1)
