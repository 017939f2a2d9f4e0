"""The package's logger, and the log file of a run."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qa_ray.errors import OutputError
from qa_ray.io.storage import is_local, read_text, write_text

LOG = logging.getLogger("qa_ray")


@contextmanager
def logged_to(uri: str) -> Iterator[None]:
    """Appends qa-ray's log lines to the file ``uri`` while the block runs, and writes them to stderr if no terminal.

    Object storage cannot append to a file: there the lines are written when the block ends.
    """
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    handlers: list[logging.Handler] = [] if sys.stderr.isatty() else [logging.StreamHandler()]
    lines = io.StringIO()
    handlers.append(_LogFile(uri, encoding="utf-8") if is_local(uri) else logging.StreamHandler(lines))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        if not is_local(uri):
            with suppress(OutputError):  # a run does not fail because of its log
                write_text(uri, (read_text(uri) or "") + lines.getvalue())


class _LogFile(logging.FileHandler):
    """Ignores a full disk: the run itself reports it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()
