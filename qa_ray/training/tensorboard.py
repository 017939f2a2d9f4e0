"""What TensorBoard shows of a run: curves, and some questions with their answers."""

import html
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import SummaryWriter

from qa_ray.io.storage import is_local, upload_folder

SHOWN_ANSWERS, SHOWN_CHARS = 8, 200


class TensorBoard:
    """TensorBoard's files: written in place on a disk, and else copied to where they belong at every checkpoint."""

    def __init__(self, uri: str, step: int, *, is_writer: bool):
        self._uri = uri
        self._scratch = tempfile.TemporaryDirectory()
        self._folder = uri if is_local(uri) else self._scratch.name
        self._writer: Any = None
        if is_writer:
            # What a killed run wrote behind its last checkpoint is written again.
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
        """Some (question, gold, n best with scores), evenly spaced, so that they are the same in every epoch."""
        lines = ["| question | gold | n best |", "|---|---|---|"]
        for question, gold, n_best in rows[:: max(1, len(rows) // SHOWN_ANSWERS)][:SHOWN_ANSWERS]:
            found = "; ".join(f"{text} ({score:.2f})" for text, score in n_best)
            cells = (question, "; ".join(dict.fromkeys(gold)) or "no answer", found or "no answer")
            lines.append("| " + " | ".join(map(_escaped, cells)) + " |")
        if self._writer:
            self._writer.add_text("validation/answers", "\n".join(lines), step)

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()
            if not is_local(self._uri):
                upload_folder(self._folder, self._uri)


def _escaped(text: str) -> str:
    """Document text in a Markdown table that a browser shows."""
    return html.escape(" ".join(text.split())[:SHOWN_CHARS]).replace("|", "&#124;")
