"""Ends the process of an actor whose work makes no progress, whether or not Python still runs in it."""

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TICKS = 10  # of a time-out
REPORT_SECONDS = 30
STDERR = 2  # Ray writes it to the worker's log


class Watchdog:
    """Ends this process once the work in ``watching`` has shown no ``progress`` for ``timeout_s``; None: never.

    A thread counts ticks without progress, reports, and ends the process. Native code that holds Python's lock stops
    that thread, too: then a timer of faulthandler, which needs no lock, ends the process, without a report. Both first
    write to stderr where all threads are.

    Ticks stand still with a process that is suspended: it reports nothing when it goes on, though the timer may end it.
    """

    def __init__(self, timeout_s: float | None):
        self.timeout_s = timeout_s
        self._signs_of_progress = 0

    def progress(self) -> None:
        """Grants the work the whole time-out again."""
        self._signs_of_progress += 1

    @contextmanager
    def watching(self, report: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Watches the block. ``report`` is called in another thread; it has REPORT_SECONDS."""
        if self.timeout_s is None:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(self.timeout_s, ended, report), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, timeout_s: float, ended: threading.Event, report: Callable[[], object]) -> None:
        signs, ticks = self._signs_of_progress, 0
        while ticks < TICKS:
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)  # in place of the timer before
            if ended.wait(timeout_s / TICKS):
                return
            ticks = ticks + 1 if signs == self._signs_of_progress else 0
            signs = self._signs_of_progress
        faulthandler.dump_traceback_later(REPORT_SECONDS, exit=True, file=STDERR)
        faulthandler.dump_traceback(file=STDERR)
        with suppress(Exception):  # an end without a report counts as a crash
            report()
        if not ended.is_set():
            os._exit(1)
