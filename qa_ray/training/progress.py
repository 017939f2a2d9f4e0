"""How far fine-tuning is: the state that a worker reports, and what a person sees of it."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from qa_ray.log import LOG
from qa_ray.runtime.progress import LINE_SECONDS, POLL_SECONDS, _beside_block, _clock


@dataclass
class TrainingState:
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


class TrainingProgress:
    """The actor that a training worker tells how far it is, and that the driver asks."""

    def __init__(self, epochs: int):
        self._state = TrainingState(epochs)

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

    def state(self) -> TrainingState:
        return self._state


def describe_learning(state: TrainingState) -> str:
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


def shown_learning(poll: Callable[[], TrainingState]) -> AbstractContextManager[None]:
    """While the block runs, shows what ``poll`` says."""
    return _beside_block(lambda ended: _show_learning(poll, ended))


def _show_learning(poll: Callable[[], TrainingState], ended: threading.Event) -> None:
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
