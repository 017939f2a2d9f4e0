"""Cores, threads, memory and time of this process."""

import ctypes
import math
import os
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CPU_QUOTA = "/sys/fs/cgroup/cpu.max"  # of this process's container: microseconds per period, or "max"


def num_cores() -> int:
    """The cores that this process may use: of its affinity mask and its container's quota, or all (macOS)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError), open(CPU_QUOTA) as file:
        quota, period = map(int, file.read().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def let_threads_sleep() -> None:
    """Makes OpenMP's threads of this process, and of those it starts, wait for each other asleep; before torch loads.

    They spin otherwise: beside other processes on the same cores, two threads then took 6 times as long as one.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def threads_sleep() -> bool:
    """Whether ``let_threads_sleep`` came in time, or the environment says how threads wait."""
    return "OMP_WAIT_POLICY" in os.environ


def keep_memory() -> None:
    """Makes malloc keep freed memory for the next batch, because new pages from the kernel are slow (page faults)."""
    no_mmap, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):  # only glibc has mallopt
        c_library = ctypes.CDLL("libc.so.6")
        c_library.mallopt(no_mmap, 0)
        c_library.mallopt(trim_threshold, 2**31 - 1)


def peak_bytes() -> int:
    """The peak resident memory of this process, in bytes."""
    # On Linux, ru_maxrss is inherited from the parent process: it may be too large.
    with suppress(OSError), open("/proc/self/status") as file:
        if match := re.search(r"VmHWM:\s+(\d+) kB", file.read()):
            return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def private_bytes() -> int:
    """The resident memory of this process in bytes, without Ray's object store, which all processes of a machine share.

    After ``keep_memory``, it is also close to the peak.
    """
    with suppress(OSError), open("/proc/self/status") as file:
        if sizes := re.findall(r"Rss(?:Anon|File):\s+(\d+) kB", file.read()):
            return sum(map(int, sizes)) * 1024
    return peak_bytes()


class Stopwatch:
    """Wall-clock seconds per stage. GPU work is asynchronous: it counts for the stage that waits for its result."""

    def __init__(self):
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._inner_seconds = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's time to stage ``name``, without the time of nested stages."""
        start, outer_seconds = time.perf_counter(), self._inner_seconds
        self._inner_seconds = 0.0
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._seconds[name] += seconds - self._inner_seconds
            self._inner_seconds = outer_seconds + seconds

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
