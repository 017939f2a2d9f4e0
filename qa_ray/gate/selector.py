"""Which windows of a document are read for a question: the gate as the reader and the plan use it."""

import numpy as np

from qa_ray.errors import ConfigError
from qa_ray.gate.choice import best_windows, num_read
from qa_ray.gate.fitted import FittedGate
from qa_ray.gate.lexical import bm25
from qa_ray.model.settings import ReadRule, WindowsRead
from qa_ray.schemas import Windows


class WindowSelector:
    """Chooses by a fitted gate for the questions that it knows, and by BM25 for all others.

    A choice depends on document, question, windows and gate alone: not on batches, blocks or actors.

    Raises:
        ConfigError: a recall is wanted, and there is no gate whose recall is known.
    """

    def __init__(self, read: WindowsRead, gate: FittedGate | None = None):
        self.gate = gate
        self._rule, self._rule_for_others = None, None
        if isinstance(read, ReadRule):
            self._rule = self._rule_for_others = read
            if read.recall is not None:
                if gate is None:
                    raise ConfigError(
                        f"windows.read={{recall: {read.recall:g}}}: only a fitted gate knows how many windows keep a "
                        "recall; fit one with `qa-ray gate` and give windows.gate=…, or say how many windows to read, "
                        "such as windows.read={most: 8}"
                    )
                self._rule, self._rule_for_others = (
                    held_out.rule_for(read.recall) for held_out in (gate.held_out, gate.others)
                )

    def num_read(self, question_ids: np.ndarray, num_windows: int) -> int:
        """How many of a document's ``num_windows`` windows are read for the question."""
        rule = self._rule if self.gate and self.gate.weights_of(question_ids) else self._rule_for_others
        return num_read(rule, num_windows) if rule else num_windows

    def choose(self, document_ids_T: np.ndarray, question_ids: np.ndarray, windows: Windows) -> np.ndarray | None:
        """The indices of the windows to read, ascending; None if all are."""
        number = self.num_read(question_ids, len(windows))
        if number == len(windows):
            return None
        weights = self.gate.weights_of(question_ids) if self.gate else None
        scores = weights.scores(document_ids_T, windows) if weights else bm25(document_ids_T, question_ids, windows)
        return best_windows(scores, number)
