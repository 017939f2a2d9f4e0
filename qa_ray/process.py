"""Memory and time of this process."""

import ctypes
import re
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def keep_memory() -> None:
    """Lets this process keep memory that it has freed for its next batch, as new pages are slow to come."""
    no_mmap, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):  # only glibc has it
        c_library = ctypes.CDLL("libc.so.6")
        c_library.mallopt(no_mmap, 0)
        c_library.mallopt(trim_threshold, 2**31 - 1)


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    # Linux lets getrusage's figure begin with that of the process which started this one.
    with suppress(OSError), open("/proc/self/status") as file:
        if found := re.search(r"VmHWM:\s+(\d+) kB", file.read()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def private_bytes() -> int:
    """The memory that this process holds now, without Ray's object store, which all processes of a machine share.

    Behind keep_memory it is also about the most that it has held so far.
    """
    with suppress(OSError), open("/proc/self/status") as file:
        if found := re.findall(r"Rss(?:Anon|File):\s+(\d+) kB", file.read()):
            return sum(map(int, found)) * 1024
    return peak_bytes()


class Stopwatch:
    """How long this process worked at each stage. A GPU works behind its process's back: there it is the waiting."""

    def __init__(self):
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._inner_seconds = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes, without that of stages inside it."""
        started, outer_seconds = time.perf_counter(), self._inner_seconds
        self._inner_seconds = 0.0
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._seconds[name] += seconds - self._inner_seconds
            self._inner_seconds = outer_seconds + seconds

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last time."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
