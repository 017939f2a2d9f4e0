"""The package's loggers, the log file of a run, and the lines that a person sees while a command runs.

qa_ray             warnings, and a line for each phase: in run.log and on stderr
qa_ray.progress    lines every few seconds: in run.log, and on stderr if that is no terminal, which shows a bar
qa_ray.details     what Ray and other libraries said about a failure: in run.log alone
"""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qa_ray.errors import OutputError, QaRayError

LOG = logging.getLogger("qa_ray")
PROGRESS = LOG.getChild("progress")
DETAILS = LOG.getChild("details")


@contextmanager
def logged_to(uri: str) -> Iterator[None]:
    """Appends qa-ray's log lines to the file ``uri`` while the block runs.

    Object storage cannot append to a file: there the lines are written when the block ends.
    """
    from qa_ray.io.storage import is_local, read_text, write_text  # slow to load, and a command's first line is not

    lines = io.StringIO()
    handler = _LogFile(uri, encoding="utf-8") if is_local(uri) else logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    try:
        with _attached(handler):
            try:
                yield
            except QaRayError:
                raise
            except Exception:
                DETAILS.exception("not an error of qa-ray's own:")
                raise
    finally:
        if not is_local(uri):
            with suppress(OutputError):  # a run does not fail because of its log
                write_text(uri, (read_text(uri) or "") + lines.getvalue())


@contextmanager
def shown() -> Iterator[None]:
    """Shows qa-ray's log lines on stderr while the block runs: with the time, except on a terminal."""
    handler = _Stderr()
    is_terminal = bool(sys.stderr and sys.stderr.isatty())
    handler.setFormatter(_ForTerminal() if is_terminal else logging.Formatter("%(asctime)s %(message)s"))
    hidden = {DETAILS.name, PROGRESS.name} if is_terminal else {DETAILS.name}
    handler.addFilter(lambda record: record.name not in hidden)
    with _attached(handler):
        yield


@contextmanager
def _attached(handler: logging.Handler) -> Iterator[None]:
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """Ignores a full disk: the run itself reports it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the moment: a progress bar replaces it, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr:
            with suppress(OSError, ValueError):  # whoever read it has gone
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()


class _ForTerminal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        return label + super().format(record)
