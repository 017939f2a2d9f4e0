"""How far the run is: a bar on a terminal, a line now and then elsewhere, lines in a log file; a report at the end."""

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
    """One line: documents, windows per second, time left (from the plan's windows)."""
    rate = counts.windows / seconds if seconds else 0.0
    return (
        f"{counts.documents}/{num_documents} documents, {counts.windows} windows, {rate:.1f} windows/s, "
        f"{counts.rejects.total()} rejects, {time_left(counts, num_windows, rate)} left"
    )


def time_left(counts: Counts, num_windows: int, rate: float) -> str:
    """Hours, minutes and seconds to go, or ? while nothing is known."""
    if not counts.windows or not rate:
        return "?"
    return _clock(max(0, num_windows - counts.windows) / rate)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def shown(poll: Callable[[], Counts], num_documents: int, num_windows: int) -> AbstractContextManager[None]:
    """While the block runs, shows what ``poll`` says; ``num_windows`` is the plan's estimate of what is to be done."""
    return _beside_block(lambda ended: _show(poll, num_documents, num_windows, ended))


@contextmanager
def _beside_block(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """While the block runs, so does ``show``, until the event that it is given."""
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
            last_round = ended.wait(POLL_SECONDS)
            counts = poll()
            now = time.monotonic()
            if not counts.windows:
                # The rate counts from the first window, not from the model's loading.
                first_window_at = now - POLL_SECONDS
            seconds = now - first_window_at
            rate = counts.windows / seconds
            bar.update(task, completed=counts.documents, rate=f"{rate:.1f}", left=time_left(counts, num_windows, rate))
            if last_round or now - last_line_at >= LINE_SECONDS:
                LOG.info(describe(counts, num_documents, num_windows, seconds))
                last_line_at = now
            if last_round:
                return
