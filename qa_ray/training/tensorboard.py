"""The event files of a training run for TensorBoard: scalar curves, and a sample of answered questions."""

import html
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import SummaryWriter

from qa_ray.io.storage import is_local, upload_folder

MAX_ANSWERS, MAX_CHARS = 8, 200  # per epoch, per table cell


class TensorBoard:
    """Writes event files to ``uri``: in place on a disk, on object storage by uploading them at every ``flush``.

    Only the worker with ``is_writer`` writes; on the others all methods do nothing.
    """

    def __init__(self, uri: str, step: int, *, is_writer: bool):
        self._uri = uri
        self._scratch = tempfile.TemporaryDirectory()
        self._folder = uri if is_local(uri) else self._scratch.name
        self._writer: Any = None
        if is_writer:
            # Steps that a killed run logged after its last checkpoint are computed and logged again.
            name = f".{int(time.time())}"
            self._writer = SummaryWriter(self._folder, purge_step=step + 1, flush_secs=10, filename_suffix=name)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()
        self._scratch.cleanup()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)

    def answers(self, step: int, rows: Sequence[tuple[str, Sequence[str], Sequence[tuple[str, float]]]]) -> None:
        """Logs some rows of (question, gold texts, n best with scores): evenly spaced, so the same in every epoch."""
        lines = ["| question | gold | n best |", "|---|---|---|"]
        for question, gold, n_best in rows[:: max(1, len(rows) // MAX_ANSWERS)][:MAX_ANSWERS]:
            answers = "; ".join(f"{text} ({score:.2f})" for text, score in n_best)
            cells = (question, "; ".join(dict.fromkeys(gold)) or "no answer", answers or "no answer")
            lines.append("| " + " | ".join(map(_escaped, cells)) + " |")
        if self._writer:
            self._writer.add_text("validation/answers", "\n".join(lines), step)

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()
            if not is_local(self._uri):
                upload_folder(self._folder, self._uri)


def _escaped(text: str) -> str:
    """Untrusted text as a cell of a Markdown table that a browser renders."""
    return html.escape(" ".join(text.split())[:MAX_CHARS]).replace("|", "&#124;")
