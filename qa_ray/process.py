"""Threads and memory of this process."""

import ctypes
import os
import re
import resource
from contextlib import suppress

import torch


def use_threads(num_threads: int) -> None:
    """How many threads this process's forward passes may use; Ray would leave it at one."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


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
