"""The progress of an answer run: a bar on a terminal; everywhere a log line every LINE_SECONDS."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from qa_ray.log import PROGRESS
from qa_ray.runtime.run_stats import Counts
from qa_ray.wording import counted

LOADING = "loading the model"  # into the actors: until the first window is read
WIDE = 120  # columns of a terminal with room for a bar
POLL_SECONDS = 0.5
LINE_SECONDS = 10


def describe(counts: Counts, num_documents: int, num_windows: int, seconds: float) -> str:
    """One line: documents, windows per second, rejects, time left by the planned ``num_windows``."""
    rate = counts.windows / seconds if seconds else 0.0
    rejects, left = counted(counts.rejects.total(), "reject"), time_left(counts, num_windows, rate)
    return (
        f"{counts.documents:,}/{counted(num_documents, 'document')}, "
        f"{windows_done(counts, num_windows, num_documents)}, {rate:.1f} windows/s, {rejects}, {left} left"
    )


def windows_done(counts: Counts, num_windows: int, num_documents: int) -> str:
    """Windows of this run, of the planned number as long as it may be right: it is an estimate."""
    may_be_right = counts.windows <= num_windows and counts.documents < num_documents
    if not may_be_right:
        return counted(counts.windows, "window")
    return f"{counts.windows:,} of about {counted(num_windows, 'window')}"


def time_left(counts: Counts, num_windows: int, rate: float) -> str:
    """Time left at ``rate`` windows per second as h:mm:ss, or ? before the first window."""
    if not counts.windows or not rate:
        return "?"
    return format_duration(max(0, num_windows - counts.windows) / rate)


def format_duration(seconds: float) -> str:
    """The time as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def show_progress(poll: Callable[[], Counts], num_documents: int, num_windows: int) -> AbstractContextManager[None]:
    """Shows the counts from ``poll`` while the block runs; ``num_windows`` is the plan's estimate for this run."""
    return run_in_background(lambda ended: _show(poll, num_documents, num_windows, ended))


@contextmanager
def run_in_background(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs ``show`` in a thread while the block runs; the event that it gets is set when the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def _show(poll: Callable[[], Counts], num_documents: int, num_windows: int, ended: threading.Event) -> None:
    console = Console(stderr=True)
    first_window_at = last_line_at = time.monotonic()
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True))  # too long a line loses its end
    is_wide = console.width >= WIDE
    bars = [BarColumn(bar_width=None, table_column=Column(ratio=1)), TimeElapsedColumn()] if is_wide else []
    with Progress(text, *bars, console=console, expand=is_wide, disable=not console.is_terminal) as bar:
        task = bar.add_task(LOADING, total=num_documents)
        while True:
            is_last_round = ended.wait(POLL_SECONDS)
            counts = poll()
            now = time.monotonic()
            if not counts.windows:
                # The rate counts from the first window, so it excludes loading the model.
                first_window_at = now - POLL_SECONDS
            seconds = now - first_window_at
            rate = counts.windows / seconds
            left = time_left(counts, num_windows, rate)
            line = f"answering: {counts.documents:,}/{counted(num_documents, 'document')}, {left} left, "
            line += f"{windows_done(counts, num_windows, num_documents)}, {rate:.1f} windows/s"
            is_answering = counts.windows or is_last_round
            bar.update(task, description=line if is_answering else LOADING, completed=counts.documents)
            if is_last_round or now - last_line_at >= LINE_SECONDS:
                PROGRESS.info(describe(counts, num_documents, num_windows, seconds))
                last_line_at = now
            if is_last_round:
                return
