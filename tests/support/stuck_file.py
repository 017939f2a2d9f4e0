"""A file on a file system that does not answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def stuck_file(path: Path) -> Iterator[None]:
    """Until the block ends, whoever opens the file waits: it is a named pipe that nobody writes to."""
    file = path.rename(path.with_suffix(".file"))
    os.mkfifo(path)
    try:
        yield
    finally:
        pipe = path.rename(path.with_suffix(".pipe"))
        with suppress(OSError):  # nobody waits
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # wakes all who wait
        pipe.unlink()
        file.rename(path)
