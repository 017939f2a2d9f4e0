"""Batches of examples -> optimizer steps on a model's weights (AdamW, linear warmup and decay).

The gradient of a step is that of the mean loss over all of its examples, however they are divided into micro-batches
and among workers. Dropout is a function of seed, step and worker, so a run that resumes from a saved state computes
what an uninterrupted run would have computed: to the bit on a CPU with the same number of threads; on a GPU, whose
backward kernels add up in no fixed order (torch.use_deterministic_algorithms is not set), and with several workers up
to rounding.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ModelError
from qa_ray.model.checkpoint import Checkpoint
from qa_ray.model.device import resolve_dtype
from qa_ray.model.runner import build_backend
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.model.weights import keep_head_in_float32, load
from qa_ray.training.loss import answer_loss
from qa_ray.training.sampling import Batch

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class OptimizerSettings:
    """The fields of config's ``training`` section that one optimizer step depends on."""

    learning_rate: float  # the peak
    warmup: float  # the part of the run in which the rate rises, 0 to 1
    weight_decay: float
    max_gradient_norm: float
    dropout: float | None  # None: the checkpoint's own
    attention_dropout: float | None
    gradient_checkpointing: bool
    dtype: str
    seed: int


def learning_rate(progress: float, peak: float, warmup: float) -> float:
    """The learning rate at ``progress`` (0 to 1) of the run: linear from 0 to the peak, then linear to 0."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * (1 - progress) / (1 - warmup) if warmup < 1 else peak


class Trainer:
    """The checkpoint in ``folder`` and its optimizer; ``step`` trains it, always in float32 weights.

    With ``averaged_with``, folders of checkpoints that pass check_averageable, ``save_pretrained`` writes the mean of
    their weights and the trained ones (Wortsman et al. 2022, "Model soups"). ``prepare`` wraps the model for
    data-parallel training.
    """

    def __init__(
        self,
        folder: str,
        settings: OptimizerSettings,
        *,
        document_type_id: int | None,
        device: str,
        prepare: Callable[[nn.Module], nn.Module] = lambda module: module,
        num_workers: int = 1,
        averaged_with: Sequence[str] = (),
    ):
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        self.settings, self.device, self.num_workers = settings, torch.device(device), num_workers
        torch.manual_seed(settings.seed)  # for a new head's initial weights
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        dropout = _dropout(config, settings.dropout, settings.attention_dropout)
        self._dropout_of_checkpoint = {name: getattr(config, name) for name in dropout}
        self.pretrained: Any = load_trainable(folder, **dropout).train()
        keep_head_in_float32(self.pretrained)
        self._weights_to_average = [load(other, torch.float32).state_dict() for other in averaged_with]
        runner = build_backend(self.pretrained, document_type_id)
        if settings.gradient_checkpointing:
            _enable_gradient_checkpointing(self.pretrained, runner)
        self.model = prepare(runner.to(self.device))
        self.compute_dtype = getattr(torch, resolve_dtype(settings.dtype, device))
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.pretrained, settings.weight_decay),
            lr=settings.learning_rate,
            betas=BETAS,
            fused=True,
        )

    def step(
        self, batches: Iterable[Batch], num_examples: float, progress: float, random_state: tuple[int, ...]
    ) -> tuple[float, float]:
        """Makes one optimizer step, with this worker's batches of a step that has ``num_examples`` on all workers.

        ``progress`` is the part of the run that is done, 0 to 1; ``random_state`` are numbers of the step and the
        worker. Returns the sum of this worker's losses, in nats, and the norm of the gradient before clipping.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are unchanged.
        """
        torch.manual_seed(hash((self.settings.seed, *random_state)))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.settings.learning_rate, self.settings.warmup)
        total, batches = 0.0, list(batches)
        for i, batch in enumerate(batches):
            with self._gradient_sync(is_last=i == len(batches) - 1):
                loss = self._loss(batch)
                # Gradients are averaged over workers; this makes their mean the mean over all examples.
                (loss * (self.num_workers / num_examples)).backward()
                total += float(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm))
        if not math.isfinite(norm):
            raise FloatingPointError("the gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm

    def save(self, file: Path) -> None:
        """Writes weights and optimizer state to ``file``, as safetensors."""
        names = {parameter: name for name, parameter in self.pretrained.named_parameters()}
        tensors = {f"weights.{name}": parameter.detach() for parameter, name in names.items()}
        for parameter, state in self.optimizer.state.items():
            tensors |= {f"optimizer.{key}.{names[parameter]}": value for key, value in state.items()}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, file)

    def load(self, file: Path) -> None:
        """Restores weights and optimizer state that ``save`` wrote."""
        tensors = load_file(file)
        with torch.no_grad():
            for name, parameter in self.pretrained.named_parameters():
                parameter.copy_(tensors[f"weights.{name}"])
                self.optimizer.state[parameter] = {
                    # The fused optimizer needs its step counts on the device of the weights.
                    key: tensors[f"optimizer.{key}.{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer.{key}.{name}" in tensors
                }

    def save_pretrained(self, folder: Path, dtype: str) -> None:
        """Writes a checkpoint folder that transformers loads, with weights in ``dtype``, from any worker.

        The model's own save_pretrained does nothing on workers other than the first.
        """
        saved_dtype = getattr(torch, dtype)
        weights = {}
        for name, tensor in self.pretrained.state_dict().items():
            tensors = [tensor.cpu(), *(state_dict[name] for state_dict in self._weights_to_average)]
            mean = torch.stack(tensors).mean(dim=0) if self._weights_to_average else tensors[0]
            weights[name] = mean.to(saved_dtype).contiguous()
        config = copy.deepcopy(self.pretrained.config)
        config.dtype, config.architectures = saved_dtype, [type(self.pretrained).__name__]
        config.update(self._dropout_of_checkpoint)  # this run's dropout is not the next one's default
        config.save_pretrained(folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def _loss(self, batch: Batch) -> Tensor:
        ids_N, length_B, _, document_start_B, document_stop_B, answers = (
            torch.from_numpy(array).to(self.device) for array in batch
        )
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            start_N, end_N = self.model(ids_N, batch.length_B.tolist(), batch.num_prefix_tokens_B.tolist())
        return answer_loss(start_N, end_N, length_B, document_start_B, document_stop_B, answers).sum()

    def _gradient_sync(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Workers average their gradients once per step: in the backward pass of the last batch."""
        if is_last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def load_trainable(folder: str, **config: Any) -> nn.Module:
    """The checkpoint in ``folder``, with float32 weights; ``config`` overrides values of its own.

    Its head has two outputs, start and end, whatever number of labels its config.json has from another task.

    Raises:
        ModelError: it cannot be loaded, or weights other than the head's are missing.
    """
    return load(folder, torch.float32, needs_head=False, num_labels=2, **config)


def check_gradient_checkpointing(checkpoint: Checkpoint, document_type_id: int | None) -> None:
    """Checks that the checkpoint's family has gradient checkpointing.

    Raises:
        ModelError: it has none.
    """
    pretrained = load_trainable(checkpoint.folder)
    _enable_gradient_checkpointing(pretrained, build_backend(pretrained, document_type_id))


def check_averageable(model: Checkpoint, other: Checkpoint) -> None:
    """Checks that the weights of two checkpoints can be averaged, without reading them.

    Raises:
        ModelError: they differ in the shape of a weight or in the vocabulary.
    """
    shapes, other_shapes = _shapes(model.folder), _shapes(other.folder)
    differences = sorted(name for name in shapes | other_shapes if shapes.get(name) != other_shapes.get(name))
    if not differences and Tokenizer(other.folder).vocabulary != Tokenizer(model.folder).vocabulary:
        differences = ["the vocabulary"]
    if differences:
        raise ModelError(
            f"training.averaged_with: {other.name!r} cannot be averaged with the model {model.name!r} "
            f"({differences[0]} differs); give models that were fine-tuned from the same one"
        )


def _shapes(folder: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AutoModelForQuestionAnswering.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=False, num_labels=2)
        )
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> dict[str, float]:
    """The dropout settings that are given, under the names of the model family's config."""
    values = {
        "hidden_dropout_prob": dropout,
        "dropout": dropout,  # DistilBERT
        "attention_probs_dropout_prob": attention_dropout,
        "attention_dropout": attention_dropout,
    }
    return {name: value for name, value in values.items() if value is not None and hasattr(config, name)}


def _enable_gradient_checkpointing(pretrained: Any, runner: Any) -> None:
    """Activation checkpointing: layer inputs are kept, the rest is recomputed in the backward pass.

    Raises:
        ModelError: the family has none.
    """
    if hasattr(runner, "gradient_checkpointing"):
        runner.gradient_checkpointing = True
        return
    try:
        pretrained.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(
            f"training.gradient_checkpointing=true: transformers has no gradient checkpointing for the model's family, "
            f"{pretrained.config.model_type!r}; set it to false, and training.batch_tokens lower if memory runs out"
        ) from error


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases and norms (which have one dimension)."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
