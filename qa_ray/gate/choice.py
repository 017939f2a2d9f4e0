"""The scores of a document's windows and a rule -> the windows that are read, and the part of the document that they
hold.

Shapes: W windows, T tokens of the document, R windows that are read, U tokens of these.
"""

import numpy as np

from qa_ray.model.settings import ReadRule
from qa_ray.schemas import Windows


def num_read(rule: ReadRule, num_windows: int) -> int:
    """How many of a document's windows are read; the rule's ``recall`` is resolved already (selector.py)."""
    if rule.most is not None:
        return min(rule.most, num_windows)
    assert rule.fraction is not None, rule
    # 0.07 of 100 is 7.000000000000001
    return min(num_windows, max(rule.floor, int(np.ceil(rule.fraction * num_windows - 1e-9))))


def best_windows(score_W: np.ndarray, num_windows: int) -> np.ndarray:
    """The indices of the windows with the highest scores, ascending, [R]; of equal scores, the earlier ones."""
    return np.sort(np.argsort(-score_W, kind="stable")[:num_windows])


def only(windows: Windows, chosen_R: np.ndarray) -> tuple[Windows, np.ndarray]:
    """The chosen windows, and the tokens of the document that they hold, [U]: those of no other window are left out.

    The windows are ranges of these U tokens. Every one is owned by the window that is read and in which it has the
    most context, as in inference.windows. Windows with a gap between them are neighbors then, without an overlap: no
    span goes from one into the other, because none goes beyond its window.
    """
    start_R, stop_R = windows.start_W[chosen_R], windows.stop_W[chosen_R]
    change_T = np.zeros(int(windows.stop_W[-1]) + 1, dtype=np.int32)
    np.add.at(change_T, start_R, 1)
    np.add.at(change_T, stop_R, -1)
    token_U = np.flatnonzero(change_T[:-1].cumsum())
    start_R, stop_R = np.searchsorted(token_U, start_R), np.searchsorted(token_U, stop_R)
    border = (stop_R[:-1] - 1 + start_R[1:]) // 2 + 1
    return Windows(start_R, stop_R, np.append(0, border), np.append(border, len(token_U))), token_U
