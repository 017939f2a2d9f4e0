"""How far the run is: a bar on a terminal, a line now and then elsewhere, lines in a log file; a report at the end."""

import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qa_ray.errors import OutputError
from qa_ray.io.storage import is_local, read_text, write_text
from qa_ray.process import peak_bytes
from qa_ray.runtime.run_stats import Counts
from qa_ray.version import VERSION

LOG = logging.getLogger("qa_ray")
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


def measured(counts: Counts, resources: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was, for its report and the manifest."""
    return {
        "windows_this_run": counts.windows,
        "windows_per_second": round(counts.windows_per_second, 2),
        "padding_fraction": round(counts.padding_fraction, 4),
        "batch_tokens": counts.batch_tokens,
        "resources": dict(resources),
        "peak_memory_mb": {"driver": peak_bytes() // 2**20, "actor": counts.peak_actor_bytes // 2**20},
    }


@contextmanager
def reported(uri: str, poll: Callable[[], Counts], resources: Mapping[str, Any]) -> Iterator[None]:
    """Writes down how the block went, however it ends; the commit comes after it, and ``_SUCCESS`` after that."""
    started, outcome = time.time(), "all documents are read"
    try:
        yield
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        with suppress(RayError, OutputError):  # what went wrong before is what matters
            counts = poll()
            report = {
                "outcome": outcome,
                "qa_ray": VERSION,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.time() - started, 1),
                "documents_done": counts.documents,
                "tokens": counts.tokens,
                "answers": counts.answers,
                "rejects_by_reason": dict(counts.rejects),
                "memory_retreats": counts.memory_retreats,
                "seconds_by_stage": {stage: round(seconds, 2) for stage, seconds in counts.seconds.items()},
                "busy_share": counts.busy_share,
                **measured(counts, resources),
            }
            write_text(uri, json.dumps(report, indent=2, ensure_ascii=False))


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
        return (self.epoch + (self.step / self.steps if self.steps else 0.0)) / max(1, self.epochs)

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
