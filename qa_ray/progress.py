"""How far the run is: a bar on a terminal, a line now and then elsewhere, and lines in a log file."""

import io
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qa_ray.errors import OutputError
from qa_ray.storage import is_local, read_text, write_text

LOG = logging.getLogger("qa_ray")
POLL_SECONDS = 0.5
LINE_SECONDS = 10


@dataclass
class Counts:
    """The documents that are done, what the actors did in this run, and the most memory one of them ever held."""

    documents: int = 0
    windows: int = 0
    tokens: int = 0
    computed_tokens: int = 0  # with padding
    rejects: int = 0
    peak_actor_bytes: int = 0
    batch_tokens: int = 0  # the fewest that an actor takes at a time, since more did not fit
    timed_windows: int = 0  # all but those of the first batch
    timed_seconds: float = 0.0  # from the end of the first batch to that of the last

    @property
    def windows_per_second(self) -> float:
        """Without the start of Ray and the loading of the model."""
        return self.timed_windows / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def padding_fraction(self) -> float:
        """The share of padding among the tokens that went through the model."""
        return 1 - self.tokens / self.computed_tokens if self.computed_tokens else 0.0


class Tally:
    """The actor that counts what all others do; the driver asks it, and an actor asks it whether to go on."""

    def __init__(self, finished_documents: int, num_pairs: int, max_rejected_fraction: float):
        self._counts = Counts(documents=finished_documents)
        self._num_pairs, self._limit = num_pairs, max_rejected_fraction
        self._reasons: Counter[str] = Counter()
        self._last_detail = ""
        self._first_batch_at: float | None = None

    def add_batch(self, windows: int, tokens: int, computed_tokens: int, batch_tokens: int) -> None:
        """Notes a batch that went through the model: the fields of logits.BatchSize."""
        self._counts.windows += windows
        self._counts.tokens += tokens
        self._counts.computed_tokens += computed_tokens
        self._counts.batch_tokens = min(self._counts.batch_tokens or batch_tokens, batch_tokens)
        if self._first_batch_at is None:
            self._first_batch_at = time.monotonic()
        else:
            self._counts.timed_windows += windows
            self._counts.timed_seconds = time.monotonic() - self._first_batch_at

    def add_block(self, documents: int, rejects: list[dict[str, Any]], peak_bytes: int) -> None:
        """Notes a finished block; ``rejects`` have the fields of records.REJECT."""
        self._counts.documents += documents
        self._counts.rejects += len(rejects)
        self._counts.peak_actor_bytes = max(self._counts.peak_actor_bytes, peak_bytes)
        self._reasons.update(row["reason"] for row in rejects)
        self._last_detail = rejects[-1]["detail"] if rejects else self._last_detail

    def counts(self) -> Counts:
        """All blocks so far."""
        return self._counts

    def verdict(self) -> str | None:
        """Why the job should end now: there are more rejects already than it may have when all is done."""
        if self._counts.rejects <= self._limit * self._num_pairs:
            return None
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons.most_common(5))
        return (
            f"{self._counts.rejects} of {self._num_pairs} questions were rejected already ({reasons}), more than "
            f"limits.max_rejected_fraction={self._limit}; the last one: {self._last_detail}; mend the input or raise "
            "the limit and start again: documents that are done stay done"
        )


def describe(counts: Counts, num_documents: int, num_windows: int, seconds: float) -> str:
    """One line: documents, windows per second, time left (from the plan's windows)."""
    rate = counts.windows / seconds if seconds else 0.0
    return (
        f"{counts.documents}/{num_documents} documents, {counts.windows} windows, {rate:.1f} windows/s, "
        f"{counts.rejects} rejects, {time_left(counts, num_windows, rate)} left"
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


@dataclass
class LearningState:
    """How far fine-tuning is; ``seconds`` and ``tokens`` are those of this process's run."""

    epochs: int
    epoch: int = 0
    step: int = 0
    steps: int = 0  # of this epoch
    loss: float = 0.0  # of about the last 20 steps
    tokens: int = 0
    seconds: float = 0.0
    done_at_start: float | None = None
    scores: list[dict[str, float]] = field(default_factory=list)  # of the epochs that ended

    @property
    def done(self) -> float:
        """How much of the whole run is done, 0 to 1."""
        return (self.epoch + (self.step / self.steps if self.steps else 0.0)) / self.epochs

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Learning:
    """The actor that a training worker tells how far it is, and that the driver asks."""

    def __init__(self, epochs: int):
        self._state = LearningState(epochs)

    def tell(self, epoch: int, step: int, steps: int, loss: float, tokens: int, seconds: float) -> None:
        state = self._state
        state.loss = loss if not state.steps else 0.95 * state.loss + 0.05 * loss
        state.epoch, state.step, state.steps = epoch, step, steps
        if state.done_at_start is None:
            state.done_at_start = state.done
        state.tokens += tokens
        state.seconds += seconds

    def tell_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self._state.scores.append({"epoch": epoch + 1, **figures})

    def state(self) -> LearningState:
        return self._state


def describe_learning(state: LearningState) -> str:
    """One line: epoch, step, loss, tokens per second, time left for learning."""
    left = "?"
    if state.done_at_start is not None and state.done > state.done_at_start:
        left = _clock(state.seconds * (1 - state.done) / (state.done - state.done_at_start))
    return (
        f"epoch {state.epoch + 1}/{state.epochs}, step {state.step}/{state.steps}, loss {state.loss:.3f}, "
        f"{state.tokens_per_second:,.0f} tokens/s, {left} left"
    )


def describe_epoch(figures: dict[str, float]) -> str:
    """One line: what validation found."""
    return f"epoch {figures['epoch']:.0f}: " + ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items() if name != "epoch"
    )


def shown_learning(poll: Callable[[], LearningState]) -> AbstractContextManager[None]:
    """While the block runs, shows what ``poll`` says."""
    return _beside_block(lambda ended: _show_learning(poll, ended))


def _show_learning(poll: Callable[[], LearningState], ended: threading.Event) -> None:
    console = Console(stderr=True)
    last_line_at, num_shown = time.monotonic(), 0
    with Progress(
        TextColumn("learning"), BarColumn(), TextColumn("{task.description} ·"), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=1.0)
        while True:
            last_round = ended.wait(POLL_SECONDS)
            state = poll()
            bar.update(task, completed=state.done, description=describe_learning(state))
            for figures in state.scores[num_shown:]:
                LOG.info(describe_epoch(figures))
                if console.is_terminal:
                    console.print(describe_epoch(figures))
            num_shown = len(state.scores)
            if state.steps and (last_round or time.monotonic() - last_line_at >= LINE_SECONDS):
                LOG.info(describe_learning(state))
                last_line_at = time.monotonic()
            if last_round:
                return


@contextmanager
def logged_to(uri: str) -> Iterator[None]:
    """While the block runs, sends qa-ray's log lines to the file ``uri`` (appended), and to stderr if no terminal.

    Object storage cannot append: there the lines are written when the block ends.
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
            with suppress(OutputError):  # a log is not worth a run
                write_text(uri, (read_text(uri) or "") + lines.getvalue())


class _LogFile(logging.FileHandler):
    """A log on a full disk is left as it is; the run itself says that the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()
