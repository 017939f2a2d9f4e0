"""The progress of a fine-tuning run: the actor that a worker reports to, a bar on a terminal, and log lines."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from qa_ray.log import LOG, PROGRESS
from qa_ray.runtime.progress import LINE_SECONDS, POLL_SECONDS, format_duration, run_in_background

TRAINING = "training"


@dataclass
class TrainingState:
    """The position in the run; ``tokens`` and ``seconds`` count from the start of this process, not of the run."""

    num_epochs: int
    phase: str = "starting the workers"  # TRAINING, or what else is done
    windows: int = 0  # of the phase, if it has windows to count
    num_windows: int = 0
    epoch: int = 0
    step: int = 0
    num_steps: int = 0  # of this epoch
    loss: float = 0.0  # moving average over about 20 steps
    tokens: int = 0
    seconds: float = 0.0
    fraction_at_start: float | None = None
    lines: list[str] = field(default_factory=list)  # what is worth a line of its own, such as an epoch's figures

    @property
    def fraction_done(self) -> float:
        """The part of all epochs that is done, 0 to 1."""
        return (self.epoch + (self.step / self.num_steps if self.num_steps else 0.0)) / max(1, self.num_epochs)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class TrainingProgress:
    """An actor that the first training worker reports to and the driver polls."""

    def __init__(self, num_epochs: int):
        self._state = TrainingState(num_epochs)

    def begin(self, phase: str, num_windows: int = 0) -> None:
        """Enters a phase, of so many windows."""
        state = self._state
        state.phase, state.windows, state.num_windows = phase, 0, num_windows

    def add_windows(self, num_windows: int) -> None:
        # A group of windows that does not fit into memory is begun again in halves: its windows come twice.
        self._state.windows = min(self._state.num_windows, self._state.windows + num_windows)

    def add_step(self, epoch: int, step: int, num_steps: int, loss: float, tokens: int, seconds: float) -> None:
        state = self._state
        state.loss = loss if not state.num_steps else 0.95 * state.loss + 0.05 * loss
        state.epoch, state.step, state.num_steps = epoch, step, num_steps
        if state.fraction_at_start is None:
            state.fraction_at_start = state.fraction_done
        state.tokens += tokens
        state.seconds += seconds

    def add_line(self, line: str) -> None:
        self._state.lines.append(line)

    def state(self) -> TrainingState:
        return self._state


def describe_training(state: TrainingState) -> str:
    """One line: epoch, step, mean loss, tokens per second, time left (without validation); or another phase."""
    if state.phase != TRAINING:
        return state.phase + (f", {state.windows:,} of {state.num_windows:,} windows" if state.num_windows else "")
    if not state.num_steps:
        return state.phase
    left = "?"
    if state.fraction_at_start is not None and state.fraction_done > state.fraction_at_start:
        seconds_per_run = state.seconds / (state.fraction_done - state.fraction_at_start)
        left = format_duration(seconds_per_run * (1 - state.fraction_done))
    return (
        f"epoch {state.epoch + 1}/{state.num_epochs}, step {state.step}/{state.num_steps}, "
        f"mean loss of about 20 steps {state.loss:.3f}, {state.tokens_per_second:,.0f} tokens/s, {left} left"
    )


def describe_epoch(figures: dict[str, float]) -> str:
    """One line: the validation figures of an epoch; epoch 0 is the model before training."""
    return f"epoch {figures['epoch']:.0f}: " + ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items() if name != "epoch"
    )


def show_training_progress(poll: Callable[[], TrainingState]) -> AbstractContextManager[None]:
    """Shows the state from ``poll`` while the block runs."""
    return run_in_background(lambda ended: _show(poll, ended))


def _show(poll: Callable[[], TrainingState], ended: threading.Event) -> None:
    console = Console(stderr=True)
    last_line_at, num_shown, last_phase = time.monotonic(), 0, ""
    with Progress(
        TextColumn("fine-tuning"), BarColumn(), TextColumn("{task.description} ·"), TimeElapsedColumn(),
        console=console, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=1.0)
        while True:
            is_last_round = ended.wait(POLL_SECONDS)
            state = poll()
            bar.update(task, completed=state.fraction_done, description=describe_training(state))
            for line in state.lines[num_shown:]:
                LOG.info(line)
            num_shown = len(state.lines)
            is_new_phase = state.phase != last_phase
            if is_new_phase or is_last_round or time.monotonic() - last_line_at >= LINE_SECONDS:
                PROGRESS.info(describe_training(state))
                last_line_at, last_phase = time.monotonic(), state.phase
            if is_last_round:
                return
