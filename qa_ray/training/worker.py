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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ray import train
from ray.train.torch import get_device, prepare_model
from torch import nn

from qa_ray.gate.files import gate_bytes
from qa_ray.inference.reader import Reader
from qa_ray.io.storage import configure_s3
from qa_ray.model.checkpoint import GATE_FILE, SETTINGS_FILE, open_checkpoint
from qa_ray.model.device import use_threads
from qa_ray.model.proof import Proof, trust
from qa_ray.model.settings import WindowSettings
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.process import keep_memory
from qa_ray.schemas import BatchSize
from qa_ray.training.collective import gather_from_workers, sum_over_workers
from qa_ray.training.failures import no_window_to_train_on, start_explained, step_explained, validation_explained
from qa_ray.training.label_stage import read_labeled, read_validation
from qa_ray.training.progress import TRAINING, describe_epoch
from qa_ray.training.sampling import (
    Example,
    count_without_answer,
    epoch_examples,
    make_batch,
    micro_batches,
    share,
    steps,
)
from qa_ray.training.tensorboard import TensorBoard
from qa_ray.training.trainer import OptimizerSettings, Trainer, learning_rate
from qa_ray.training.validation import Summary, answer_validation, published_settings, summarize
from qa_ray.wording import counted

STATE, PROGRESS_FILE, MODEL = "state.safetensors", "progress.json", "model"
# Tokens of a micro-batch, which bound its memory; the figure for GPUs is a guess, not measured.
BATCH_TOKENS = {"cpu": 4_096, "cuda": 32_768}


@dataclass(frozen=True)
class TrainingJob:
    """The plan's part for the workers."""

    storage: dict[str, Any]  # for configure_s3
    model: str
    averaged_with: tuple[str, ...]  # models
    proof: Proof  # of the driver's copy of the model
    windows: WindowSettings  # in validation, and of the saved model
    gate: str | None  # of these windows, besides the model's own
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
        self._begin("loading the model")
        self.base = open_checkpoint(job.model, needs_head=False)
        trust(job.proof)
        self.folder = self.base.folder
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
        checkpoint = train.get_checkpoint()
        if checkpoint:
            with checkpoint.as_directory() as folder:
                self.trainer.load(Path(folder) / STATE)
                self.progress = SavedProgress(**json.loads((Path(folder) / PROGRESS_FILE).read_text()))
        with TensorBoard(self.job.tensorboard, self.progress.total_steps, is_writer=self.rank == 0) as self.tensorboard:
            if not checkpoint:
                self._validate_start()
            while self.progress.epoch < self.job.epochs:
                self._train_epoch()
                self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
                self._end_epoch()
            if not self.job.epochs and not checkpoint:
                self._end_epoch()  # the model is only evaluated and calibrated
        self._begin("ending the workers")

    def _train_epoch(self) -> None:
        job, progress = self.job, self.progress
        examples = epoch_examples(
            self.documents,
            self.layout,
            max_tokens=job.window_tokens,
            overlap_tokens=job.windows.overlap_tokens,
            positives=job.positives,
            negatives=job.negatives,
            seed=job.optimizer.seed,
            epoch=progress.epoch,
        )
        if not examples:
            raise no_window_to_train_on(progress.epoch, job.window_tokens, job.positives)
        num_never = count_without_answer(self.documents, examples)
        if num_never and not progress.epoch and job.positives >= 1:  # with fewer, not every question is drawn
            self._say(f"{counted(num_never, 'question')} trained without the answer: no window holds it whole")
        epoch_steps = steps(examples, job.step_tokens)
        self._begin(TRAINING)
        while progress.step < len(epoch_steps):
            self._step(epoch_steps[progress.step], len(epoch_steps))
            is_last = progress.step == len(epoch_steps)
            if not is_last and progress.total_steps % job.checkpoint_steps == 0:
                self._report({}, None)

    def _validate_start(self) -> None:
        """Adds the figures of the model that training starts from, as it is, as those of epoch 0."""
        job = self.job
        if not job.epochs and not job.averaged_with:
            return  # the same model is validated once more, to be published
        if not self.base.has_head:
            self._say("epoch 0 is left out: the question-answering head is new and knows nothing before training")
            return
        reader = self._reader(self.folder, gate=job.gate, **job.windows.model_dump())
        with start_explained(job.model, job.optimizer):
            summary = self._validate(reader, "validating the model before training")
        self._add_figures(0, summary)

    def _end_epoch(self) -> None:
        progress, job = self.progress, self.job
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / MODEL
            self.trainer.save_pretrained(folder, job.saved_dtype)
            self.tokenizer.save(str(folder))
            if gate := job.gate or self.base.gate:
                (folder / GATE_FILE).write_bytes(gate_bytes(gate))
            self._write_settings(folder, {})
            # The same family, tokenizer and layout as the model that training started from, which was proved.
            trust(replace(job.proof, fingerprint=open_checkpoint(str(folder)).fingerprint))
            with validation_explained(job.optimizer):
                phase = f"validating epoch {progress.epoch}" if job.epochs else "answering the questions to fit scores"
                summary = self._validate(self._reader(str(folder)), phase)
            self._write_settings(folder, summary.settings | {"scores": summary.figures, "fitted": summary.fit})
            self._add_figures(progress.epoch, summary)
            self._begin("saving the model")
            self._report(summary.figures, Path(scratch))

    def _step(self, step: Sequence[Example], num_steps: int) -> None:
        progress, job = self.progress, self.job
        started = time.perf_counter()
        own_examples = share(step, self.rank, self.num_workers)
        # A worker without examples must still take part in averaging the gradients: with one example of weight 0.
        is_idle = not own_examples
        # In the middle of the step, so that neither the first step nor the last has a learning rate of 0.
        fraction_done = (progress.epoch + (progress.step + 0.5) / num_steps) / job.epochs
        batches = [
            make_batch(self.documents, self.layout, examples)
            for examples in micro_batches(own_examples or step[:1], self.batch_tokens)
        ]
        num_examples = math.inf if is_idle else len(step)
        with step_explained(job.optimizer, self.batch_tokens, batches):
            loss, norm = self.trainer.step(batches, num_examples, fraction_done, (progress.total_steps, self.rank))
        loss = sum_over_workers(0.0 if is_idle else loss, self.num_workers, self.trainer.device) / len(step)
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

    def _reader(self, folder: str, **settings: Any) -> Reader:
        """The answer job's reader of the model in ``folder``."""
        return Reader(
            folder,
            device=self.trainer.device.type,
            dtype=self.job.optimizer.dtype,
            batch_tokens=self.job.batch_tokens,
            threads=self.job.num_threads,
            **settings,
        )

    def _validate(self, reader: Reader, phase: str) -> Summary:
        """The quality of the reader's answers to the validation questions of all workers."""
        # Of this worker, which stands for the others.
        num_windows = sum(
            reader.num_read(document, question) for document, _, _ in self.validation for question in document.questions
        )
        self._begin(phase, num_windows)
        answers = answer_validation(reader, self.validation, self._on_batch)
        rows = gather_from_workers(answers, self.num_workers)
        summary = summarize(rows, self.job.metric, self.base.settings)
        n_best = [(row.question, row.gold.texts, spans) for row, spans in zip(rows, summary.n_best, strict=True)]
        self.tensorboard.answers(self.progress.total_steps, n_best)
        return summary

    def _write_settings(self, folder: Path, fitted: dict[str, Any]) -> None:
        job = self.job
        windows = job.windows.model_dump(exclude_none=True)
        settings = published_settings(self.base.settings, windows, fitted)
        settings |= job.about | {"epoch": self.progress.epoch}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _report(self, figures: dict[str, float], folder: Path | None) -> None:
        """Reports to Ray Train with a checkpoint: weights, optimizer, progress, and the model in ``folder``, if any."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = folder or Path(scratch)
            checkpoint = None
            if self.rank == 0:
                self.trainer.save(folder / STATE)
                (folder / PROGRESS_FILE).write_text(json.dumps(asdict(self.progress)))
                checkpoint = train.Checkpoint.from_directory(folder)
            self.tensorboard.flush()
            train.report({"epoch": self.progress.epoch, "step": self.progress.total_steps, **figures}, checkpoint)

    def _add_figures(self, epoch: int, summary: Summary) -> None:
        self.progress.epochs.append({"epoch": epoch, **summary.figures})
        figures = {f"validation/{name}": value for name, value in summary.figures.items()}
        self.tensorboard.scalars(self.progress.total_steps, figures)
        self._say(describe_epoch(self.progress.epochs[-1]))

    def _begin(self, phase: str, num_windows: int = 0) -> None:
        if self.rank == 0:
            self.reporter.begin.remote(phase, num_windows)

    def _on_batch(self, size: BatchSize) -> None:
        if self.rank == 0:
            self.reporter.add_windows.remote(size.num_windows)

    def _say(self, line: str) -> None:
        if self.rank == 0:
            self.reporter.add_line.remote(line)


def _prepare(module: nn.Module) -> nn.Module:
    return prepare_model(module, move_to_device=False)


def _tables(name: str) -> list[pa.Table]:
    shard: Any = train.get_dataset_shard(name)
    return list(shard.iter_batches(batch_size=None, batch_format="pyarrow"))
