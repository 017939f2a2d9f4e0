"""The progress of an answer run: a bar on a terminal; everywhere a log line every LINE_SECONDS."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qa_ray.log import LOG
from qa_ray.runtime.run_stats import Counts

POLL_SECONDS = 0.5
LINE_SECONDS = 10


def describe(counts: Counts, num_documents: int, num_windows: int, seconds: float) -> str:
    """One line: documents, windows per second, rejects, time left by the planned ``num_windows``."""
    rate = counts.windows / seconds if seconds else 0.0
    return (
        f"{counts.documents}/{num_documents} documents, {counts.windows} windows, {rate:.1f} windows/s, "
        f"{counts.rejects.total()} rejects, {time_left(counts, num_windows, rate)} left"
    )


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
    with Progress(
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents · {task.fields[rate]} windows/s · {task.fields[left]} left ·"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=num_documents, rate="0.0", left="?")
        while True:
            is_last_round = ended.wait(POLL_SECONDS)
            counts = poll()
            now = time.monotonic()
            if not counts.windows:
                # The rate counts from the first window, so it excludes loading the model.
                first_window_at = now - POLL_SECONDS
            seconds = now - first_window_at
            rate = counts.windows / seconds
            bar.update(task, completed=counts.documents, rate=f"{rate:.1f}", left=time_left(counts, num_windows, rate))
            if is_last_round or now - last_line_at >= LINE_SECONDS:
                LOG.info(describe(counts, num_documents, num_windows, seconds))
                last_line_at = now
            if is_last_round:
                return
