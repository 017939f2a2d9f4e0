"""The train loop of a Ray Train worker: epochs of steps, validation after each epoch, checkpoints, TensorBoard.

Every worker holds all labeled documents (their tokens are small compared with a model, and shared by the workers of a
machine), samples the same examples for an epoch, and takes its share of every step. So the number of workers may
change, and a killed run resumes at the step after its last checkpoint, with the same examples.
"""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed
from ray import train
from ray.train.torch import get_device, prepare_model
from torch import nn

from qa_ray.inference.reader import Reader
from qa_ray.io.storage import configure_s3
from qa_ray.model.checkpoint import SETTINGS_FILE, open_checkpoint
from qa_ray.model.device import use_threads
from qa_ray.model.settings import WindowSettings
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.process import keep_memory
from qa_ray.training.failures import step_explained, validation_explained
from qa_ray.training.label_stage import read_labeled, read_validation
from qa_ray.training.sampling import Example, epoch_examples, make_batch, micro_batches, share, steps
from qa_ray.training.tensorboard import TensorBoard
from qa_ray.training.trainer import OptimizerSettings, Trainer, learning_rate
from qa_ray.training.validation import Summary, ValidationAnswer, answer_validation, published_settings, summarize

STATE, PROGRESS, MODEL = "state.safetensors", "progress.json", "model"
# Tokens of a micro-batch, which bound its memory; the figure for GPUs is a guess, not measured.
BATCH_TOKENS = {"cpu": 4_096, "cuda": 32_768}


@dataclass(frozen=True)
class TrainingJob:
    """The plan's part for the workers."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    averaged_with: tuple[str, ...]  # models
    max_tokens: int  # of windows in validation and inference
    overlap_tokens: int
    max_question_tokens: int
    optimizer: OptimizerSettings
    window_tokens: tuple[int, ...]  # of windows in training
    positives: float
    negatives: float
    epochs: int
    step_tokens: int
    batch_tokens: int | None
    checkpoint_steps: int
    metric: str
    saved_dtype: str
    about: dict[str, Any]  # goes into the model's qa_ray.json
    tensorboard: str
    num_threads: int


@dataclass
class SavedProgress:
    """The position of a run, saved in each checkpoint: the next step, and the figures of each finished epoch."""

    epoch: int = 0
    step: int = 0  # within the epoch
    total_steps: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training steps alone
    epochs: list[dict[str, Any]] = field(default_factory=list)


def train_worker(config: dict[str, Any]) -> None:
    """The train loop of a worker; ``config`` has the TrainingJob ``job`` and ``reporter``, a TrainingProgress actor."""
    job: TrainingJob = config["job"]
    configure_s3(**job.storage)
    use_threads(job.num_threads)
    keep_memory()
    _Worker(job, config["reporter"]).run()


class _Worker:
    def __init__(self, job: TrainingJob, reporter: Any):
        self.job, self.reporter = job, reporter
        context = train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.documents = read_labeled(_tables("train"))
        # Each worker answers every num_workers-th validation document.
        self.validation = read_validation(_tables("validation"))[self.rank :: self.num_workers]
        self.folder = open_checkpoint(job.model, needs_head=False).folder
        self.tokenizer = Tokenizer(self.folder)
        self.layout = self.tokenizer.layout()
        device = get_device()
        assert isinstance(device, torch.device)
        self.trainer = Trainer(
            self.folder,
            job.optimizer,
            document_type_id=self.layout.document_type_id,
            device=device.type,
            prepare=_prepare,
            num_workers=self.num_workers,
            averaged_with=[open_checkpoint(model).folder for model in job.averaged_with],
        )
        self.batch_tokens = job.batch_tokens or BATCH_TOKENS[device.type]
        self.progress = SavedProgress()

    def run(self) -> None:
        if checkpoint := train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                self.trainer.load(Path(folder) / STATE)
                self.progress = SavedProgress(**json.loads((Path(folder) / PROGRESS).read_text()))
        with TensorBoard(self.job.tensorboard, self.progress.total_steps, is_writer=self.rank == 0) as self.tensorboard:
            while self.progress.epoch < self.job.epochs:
                self._train_epoch()
                self._end_epoch()
            if not self.progress.epochs:  # training.epochs=0: the model is only evaluated and calibrated
                self._end_epoch()

    def _train_epoch(self) -> None:
        job, progress = self.job, self.progress
        examples = epoch_examples(
            self.documents,
            self.layout,
            max_tokens=job.window_tokens,
            overlap_tokens=job.overlap_tokens,
            positives=job.positives,
            negatives=job.negatives,
            seed=job.optimizer.seed,
            epoch=progress.epoch,
        )
        epoch_steps = steps(examples, job.step_tokens)
        while progress.step < len(epoch_steps):
            self._step(epoch_steps[progress.step], len(epoch_steps))
            is_last = progress.step == len(epoch_steps)
            if not is_last and progress.total_steps % job.checkpoint_steps == 0:
                self._report({}, None)

    def _end_epoch(self) -> None:
        progress = self.progress
        with tempfile.TemporaryDirectory() as folder:
            summary = self._validate(Path(folder) / MODEL)
            progress.epochs.append({"epoch": progress.epoch + 1, **summary.figures})
            self._log_figures(summary)
            progress.epoch, progress.step = progress.epoch + 1, 0
            self._report(summary.figures, Path(folder))

    def _step(self, step: Sequence[Example], num_steps: int) -> None:
        progress, job = self.progress, self.job
        started = time.perf_counter()
        own_examples = share(step, self.rank, self.num_workers)
        # A worker without examples must still take part in averaging the gradients: with one example of weight 0.
        is_idle = not own_examples
        fraction_done = (progress.epoch + progress.step / num_steps) / job.epochs
        batches = [
            make_batch(self.documents, self.layout, examples)
            for examples in micro_batches(own_examples or step[:1], self.batch_tokens)
        ]
        num_examples = math.inf if is_idle else len(step)
        with step_explained(job.optimizer, self.batch_tokens, batches):
            loss, norm = self.trainer.step(batches, num_examples, fraction_done, (progress.total_steps, self.rank))
        loss = self._sum(0.0 if is_idle else loss) / len(step)
        progress.step += 1
        progress.total_steps += 1
        num_tokens = sum(example.num_tokens for example in step)
        progress.tokens += num_tokens
        seconds = time.perf_counter() - started
        progress.seconds += seconds
        rate = learning_rate(fraction_done, job.optimizer.learning_rate, job.optimizer.warmup)
        self.tensorboard.scalars(
            progress.total_steps,
            {
                "train/loss": loss,
                "train/gradient_norm": norm,
                "train/learning_rate": rate,
                "train/tokens_per_second": num_tokens / seconds,
                "train/examples_per_step": len(step),
            },
        )
        if self.rank == 0:
            self.reporter.add_step.remote(progress.epoch, progress.step, num_steps, loss, num_tokens, seconds)

    def _validate(self, folder: Path) -> Summary:
        """Saves the model to ``folder`` as it will be published, and evaluates that copy."""
        self.trainer.save_pretrained(folder, self.job.saved_dtype)
        self.tokenizer.save(str(folder))
        self._write_settings(folder, {})
        reader = Reader(
            str(folder),
            device=self.trainer.device.type,
            dtype=self.job.optimizer.dtype,
            batch_tokens=self.job.batch_tokens,
        )
        with validation_explained(self.job.optimizer):
            answers = answer_validation(reader, self.validation)
        rows = self._gather(answers)
        summary = summarize(rows, self.job.metric)
        self._write_settings(folder, summary.settings | {"scores": summary.figures})
        n_best = [(row.question, row.gold.texts, spans) for row, spans in zip(rows, summary.n_best, strict=True)]
        self.tensorboard.answers(self.progress.total_steps, n_best)
        return summary

    def _write_settings(self, folder: Path, fitted: dict[str, Any]) -> None:
        job = self.job
        base_settings = open_checkpoint(job.model, needs_head=False).settings
        windows = {name: getattr(job, name) for name in WindowSettings.model_fields}
        settings = published_settings(base_settings, windows, fitted)
        settings |= job.about | {"epoch": len(self.progress.epochs) + 1}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _report(self, figures: dict[str, float], folder: Path | None) -> None:
        """Reports to Ray Train with a checkpoint: weights, optimizer, progress, and the model in ``folder``, if any."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = folder or Path(scratch)
            checkpoint = None
            if self.rank == 0:
                self.trainer.save(folder / STATE)
                (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)))
                checkpoint = train.Checkpoint.from_directory(folder)
            self.tensorboard.flush()
            train.report({"epoch": self.progress.epoch, "step": self.progress.total_steps, **figures}, checkpoint)

    def _log_figures(self, summary: Summary) -> None:
        figures = {f"validation/{name}": value for name, value in summary.figures.items()}
        self.tensorboard.scalars(self.progress.total_steps, figures)
        if self.rank == 0:
            self.reporter.add_epoch.remote(self.progress.epoch, summary.figures)

    def _sum(self, value: float) -> float:
        if self.num_workers == 1:
            return value
        total = torch.tensor(value, device=self.trainer.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def _gather(self, rows: list[ValidationAnswer]) -> list[ValidationAnswer]:
        if self.num_workers == 1:
            return rows
        rows_by_worker: list[Any] = [None] * self.num_workers
        torch.distributed.all_gather_object(rows_by_worker, rows)
        return [row for worker_rows in rows_by_worker for row in worker_rows]


def _prepare(module: nn.Module) -> nn.Module:
    return prepare_model(module, move_to_device=False)


def _tables(name: str) -> list[pa.Table]:
    shard: Any = train.get_dataset_shard(name)
    return list(shard.iter_batches(batch_size=None, batch_format="pyarrow"))
