"""Failures of training that a restart would repeat end the run at once, and name the setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import save_model
from ray import train
from running import raises_error
from stories import VOCABULARY, stories, write_tables

from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, ModelError
from qa_ray.training import job
from qa_ray.training.failures import EndAtUserErrors, start_explained, step_explained, validation_explained
from qa_ray.training.sampling import Batch
from qa_ray.training.trainer import OptimizerSettings


def config(folder: Path, workers: int = 1, **training: Any) -> FinetuneConfig:
    """A job in float32 that would be restarted three times."""
    settings = {"max_tokens": 64, "overlap_tokens": 8, "max_question_tokens": 24}
    tables = write_tables(folder, *stories())
    values = {
        **tables,
        "output": str(folder / "output"),
        "model": save_model("bert", folder / "model", text=VOCABULARY, std=0.2, settings=settings),
        "validation": {**tables, "metric": "cmrc"},
        "training": {"epochs": 2, "step_tokens": 200, "dtype": "float32", **training},
        "runner": {"device": "cpu", "cpus_per_worker": 1, "workers": workers, "max_failures": 3},
    }
    return check_config(FinetuneConfig, values, "test")


def record_attempts(monkeypatch: pytest.MonkeyPatch, file: Path, patch: Callable[[], object]) -> None:
    """Makes each worker add its rank to the file, and call ``patch``, before it trains."""
    train_worker = job.train_worker

    def train_recorded(config: dict[str, Any]) -> None:
        with file.open("a") as lines:
            lines.write(f"{train.get_context().get_world_rank()}\n")
        patch()
        train_worker(config)

    monkeypatch.setattr(job, "train_worker", train_recorded)


@pytest.mark.usefixtures("ray_session")
def test_a_batch_that_does_not_fit_in_memory_ends_the_run_although_other_workers_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def use_small_gpu() -> None:
        from qa_ray.training import worker

        step = worker.Trainer.step

        def step_on_small_gpu(self, batches, num_examples, progress, random_state):
            if random_state == (1, 1):  # the second step of the second worker
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return step(self, batches, num_examples, progress, random_state)

        worker.Trainer.step = step_on_small_gpu

    record_attempts(monkeypatch, tmp_path / "attempts", use_small_gpu)
    with raises_error(
        ConfigError,
        "training.batch_tokens=4096: a batch of ",
        " does not fit into memory; set training.batch_tokens=",
        " and run the same command again, which goes on from the last checkpoint (CUDA out of memory. Tried to ",
    ):
        job.finetune(config(tmp_path, workers=2))
    assert sorted((tmp_path / "attempts").read_text().split()) == ["0", "1"]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("step_tokens", "what"), [(100, "the gradient is"), (1000, "the model's logits are")])
def test_weights_that_explode_end_the_run_in_training_or_in_validation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step_tokens: int, what: str
):
    record_attempts(monkeypatch, tmp_path / "attempts", lambda: None)
    with raises_error(
        ConfigError, f"training.learning_rate=1e+30: {what} not finite; lower it, in a new output folder"
    ):
        job.finetune(config(tmp_path, learning_rate=1e30, step_tokens=step_tokens))
    assert (tmp_path / "attempts").read_text().split() == ["0"]


SETTINGS = OptimizerSettings(
    learning_rate=3e-5, warmup=0.0, weight_decay=0.0, max_gradient_norm=1.0, dropout=None, attention_dropout=None,
    gradient_checkpointing=False, dtype="bfloat16", seed=0,
)  # fmt: skip


def batch(*lengths: int) -> Batch:
    return Batch(*[np.array(lengths)] * 6)


def explain_step(error: Exception, *batches: Batch) -> str:
    with pytest.raises(ConfigError) as raised, step_explained(SETTINGS, 32_768, batches):
        raise error
    assert raised.value.__cause__ is error
    return str(raised.value)


def test_the_remedy_is_half_of_the_batch_that_did_not_fit_not_half_of_the_limit():
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")
    assert explain_step(error, batch(500, 400, 380), batch(384, 384, 200, 100)) == (
        "training.batch_tokens=32768: a batch of 4 windows of up to 384 tokens does not fit into memory; set "
        "training.batch_tokens=768 and run the same command again, which goes on from the last checkpoint "
        "(CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`)"
    )


def test_for_a_single_window_a_smaller_batch_is_no_remedy():
    assert explain_step(torch.OutOfMemoryError(), batch(4_096), batch(3_000)) == (
        "training.batch_tokens=32768: a single window of 4096 tokens does not fit into memory; set "
        "training.gradient_checkpointing=true or shorter training.window_tokens, in a new output folder "
        "(OutOfMemoryError)"
    )


def test_for_a_gradient_that_is_not_finite_float32_is_a_remedy_unless_it_is_set():
    assert explain_step(FloatingPointError("not finite"), batch(9)) == (
        "training.learning_rate=3e-05: the gradient is not finite; lower it or set training.dtype=float32, in a new "
        "output folder"
    )


def test_a_window_too_large_for_validation_is_a_config_error_with_the_readers_remedy():
    error = torch.OutOfMemoryError("a document of 9 tokens does not fit into memory; lower windows.max_tokens")
    with pytest.raises(ConfigError, match=f"validation: {error}"), validation_explained(SETTINGS):
        raise error


@pytest.mark.parametrize("explained", [step_explained(SETTINGS, 9, [batch(9)]), validation_explained(SETTINGS)])
def test_other_errors_pass_unchanged_so_that_the_workers_are_restarted(explained: Any):
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(torch.AcceleratorError) as raised, explained:
        raise error
    assert raised.value is error


def explain_start(error: Exception, dtype: str) -> str:
    settings = OptimizerSettings(**{**SETTINGS.__dict__, "dtype": dtype})
    with pytest.raises((ConfigError, ModelError)) as raised, start_explained("org/name", settings):
        raise error
    return str(raised.value)


def test_logits_that_are_not_finite_before_training_are_not_the_fault_of_the_learning_rate():
    message = "model 'org/name': its logits are not finite before any training; "
    assert explain_start(FloatingPointError("not finite"), "float32") == message + "use another model"
    assert explain_start(FloatingPointError("not finite"), "bfloat16") == message + "set training.dtype=float32"
    error = torch.OutOfMemoryError("a document of 9 tokens does not fit into memory; lower windows.max_tokens")
    assert explain_start(error, "float32") == f"validation: {error}"


@pytest.mark.parametrize("error", [ConfigError("a setting"), ModelError("a model")])
def test_an_error_in_the_config_or_the_model_ends_the_run_although_workers_could_be_restarted(error: Exception):
    with pytest.raises(type(error)):
        EndAtUserErrors().after_exception(None, {0: RuntimeError("lost a connection"), 1: error})
    EndAtUserErrors().after_exception(None, {0: RuntimeError("a node was lost")})
