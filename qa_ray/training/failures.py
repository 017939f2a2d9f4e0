"""Failures of training that a restart would only repeat: they end the run and name the setting to change."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.train import UserCallback

from qa_ray.errors import ConfigError, ModelError
from qa_ray.model.device import is_out_of_memory
from qa_ray.training.sampling import Batch
from qa_ray.training.trainer import OptimizerSettings


class EndAtUserErrors(UserCallback):
    """Makes Ray Train end the run at the first error of a worker in config or model, whatever the others wait for.

    Ray Train restarts the workers after any exception of theirs, but not after one of its controller, which calls this.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, ConfigError | ModelError):
                raise error


@contextmanager
def step_explained(settings: OptimizerSettings, batch_tokens: int, batches: Sequence[Batch]) -> Iterator[None]:
    """Turns errors of an optimizer step on these batches into a ConfigError if its settings are to blame."""
    try:
        yield
    except FloatingPointError as error:
        raise _not_finite("the gradient is", settings) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _batch_too_large(batch_tokens, batches, error) from error


@contextmanager
def validation_explained(settings: OptimizerSettings) -> Iterator[None]:
    """Turns errors of the reader in validation into a ConfigError if the settings are to blame."""
    try:
        yield
    except FloatingPointError as error:
        raise _not_finite("the model's logits are", settings) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"validation: {error}") from error


@contextmanager
def start_explained(model: str, settings: OptimizerSettings) -> Iterator[None]:
    """Turns errors of the reader in validating the model before training into those that name their cause."""
    try:
        with validation_explained(settings):
            yield
    except ConfigError as error:
        if not isinstance(error.__cause__, FloatingPointError):
            raise
        remedy = "use another model" if settings.dtype == "float32" else "set training.dtype=float32"
        raise ModelError(f"model {model!r}: its logits are not finite before any training; {remedy}") from error


def no_window_to_train_on(epoch: int, window_tokens: Sequence[int], positives: float) -> ConfigError:
    """The error of an epoch (the first is 0) without a single example."""
    lengths = ", ".join(map(str, window_tokens))
    return ConfigError(
        f"training.window_tokens: epoch {epoch + 1} has no window to train on: none of up to {lengths} tokens holds a "
        f"whole gold answer, or training.positives={positives:g} draws none; raise them"
    )


def _not_finite(what: str, settings: OptimizerSettings) -> ConfigError:
    remedy = "lower it" if settings.dtype == "float32" else "lower it or set training.dtype=float32"
    return ConfigError(
        f"training.learning_rate={settings.learning_rate:g}: {what} not finite; {remedy}, in a new output folder"
    )


def _batch_too_large(batch_tokens: int, batches: Sequence[Batch], error: Exception) -> ConfigError:
    # With padding, as batch_tokens counts. Batches may be far smaller than batch_tokens: then half of it is no remedy.
    largest = max(batches, key=lambda batch: len(batch.length_B) * int(batch.length_B.max()))
    num_windows, longest = len(largest.length_B), int(largest.length_B.max())
    if num_windows > 1:
        what = f"a batch of {num_windows} windows of up to {longest} tokens does not fit into memory"
        remedy = (
            f"set training.batch_tokens={num_windows * longest // 2} and run the same command again, which goes on "
            "from the last checkpoint"
        )
    else:
        what = f"a single window of {longest} tokens does not fit into memory"
        remedy = "set training.gradient_checkpointing=true or shorter training.window_tokens, in a new output folder"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ConfigError(f"training.batch_tokens={batch_tokens}: {what}; {remedy} ({reason})")
