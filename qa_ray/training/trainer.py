"""A model that learns: batches of examples in, weights and optimizer one step further on.

The gradient of a step is that of the mean loss over all of its examples, whatever micro-batches and workers they were
divided among. What a step draws at random (dropout) follows from the seed and the step alone, so a run that goes on
from a saved state does what the unbroken run would have done.
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
from qa_ray.model.runner import build_backend, load
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.training.loss import answer_loss
from qa_ray.training.sampling import Batch

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class OptimizerSettings:
    """How to learn; the defaults are the config's."""

    learning_rate: float  # at its peak
    warmup: float  # the share of the run in which the rate rises
    weight_decay: float
    max_gradient_norm: float
    dropout: float | None  # None: the checkpoint's own
    attention_dropout: float | None
    gradient_checkpointing: bool
    dtype: str
    seed: int


def rate(progress: float, peak: float, warmup: float) -> float:
    """The learning rate at ``progress`` of the run, 0 to 1: a straight line up to the peak, and one down to 0."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * (1 - progress) / (1 - warmup) if warmup < 1 else peak


class Trainer:
    """The checkpoint in ``folder``, its optimizer, and one step after the other.

    ``averaged_with`` are folders of checkpoints like it (check_alike): the mean of their weights and those learned is
    saved (Wortsman et al. 2022, "Model soups").
    """

    def __init__(
        self,
        folder: str,
        settings: OptimizerSettings,
        *,
        document_type_id: int,
        device: str,
        prepare: Callable[[nn.Module], nn.Module] = lambda module: module,  # for several workers
        num_workers: int = 1,
        averaged_with: Sequence[str] = (),
    ):
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        self.settings, self.device, self.num_workers = settings, torch.device(device), num_workers
        torch.manual_seed(settings.seed)  # a head that is new is drawn
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        dropout = _dropout(config, settings.dropout, settings.attention_dropout)
        self._own_dropout = {name: getattr(config, name) for name in dropout}
        self.pretrained: Any = load(folder, torch.float32, needs_head=False, **dropout).train()
        self._averaged = [load(other, torch.float32).state_dict() for other in averaged_with]
        runner = build_backend(self.pretrained, document_type_id)
        if settings.gradient_checkpointing:
            _save_memory(self.pretrained, runner)
        self.model = prepare(runner.to(self.device))
        self.compute_dtype = getattr(torch, resolve_dtype(settings.dtype, device))
        self.optimizer = torch.optim.AdamW(
            _groups(self.pretrained, settings.weight_decay), lr=settings.learning_rate, betas=BETAS, fused=True
        )

    def step(
        self, batches: Iterable[Batch], num_examples: float, progress: float, random_state: tuple[int, ...]
    ) -> tuple[float, float]:
        """Learns from this worker's batches of a step with ``num_examples`` in all.

        ``progress`` is how much of the run is done, ``random_state`` numbers the step and the worker. Returns the sum
        of this worker's losses, in nats, and the norm of the gradient before it was clipped.

        Raises:
            FloatingPointError: a gradient that is no number.
        """
        torch.manual_seed(hash((self.settings.seed, *random_state)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate(progress, self.settings.learning_rate, self.settings.warmup)
        total, batches = 0.0, list(batches)
        for i, batch in enumerate(batches):
            with self._together(is_last=i == len(batches) - 1):
                loss = self._loss(batch)
                # Several workers' gradients are averaged, and the mean over all examples is wanted.
                (loss * (self.num_workers / num_examples)).backward()
                total += float(loss.detach())
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(
                "the gradient is no finite number; try training.dtype=float32 or a smaller training.learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm

    def save(self, file: Path) -> None:
        """Writes weights and optimizer to ``file``, as safetensors."""
        names = {parameter: name for name, parameter in self.pretrained.named_parameters()}
        tensors = {f"weights.{name}": parameter.detach() for parameter, name in names.items()}
        for parameter, state in self.optimizer.state.items():
            tensors |= {f"optimizer.{key}.{names[parameter]}": value for key, value in state.items()}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, file)

    def load(self, file: Path) -> None:
        """Goes on from what ``save`` wrote."""
        tensors = load_file(file)
        with torch.no_grad():
            for name, parameter in self.pretrained.named_parameters():
                parameter.copy_(tensors[f"weights.{name}"])
                self.optimizer.state[parameter] = {
                    # The fused optimizer wants the count of its steps beside the weights.
                    key: tensors[f"optimizer.{key}.{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer.{key}.{name}" in tensors
                }

    def save_pretrained(self, folder: Path, dtype: str) -> None:
        """Writes a folder that transformers loads, weights in ``dtype``; any worker may.

        The model's own save_pretrained writes nothing in workers other than the first.
        """
        kind = getattr(torch, dtype)
        weights = {}
        for name, tensor in self.pretrained.state_dict().items():
            alike = [tensor.cpu(), *(other[name] for other in self._averaged)]
            weights[name] = (torch.stack(alike).mean(dim=0) if self._averaged else alike[0]).to(kind).contiguous()
        config = copy.deepcopy(self.pretrained.config)
        config.dtype, config.architectures = kind, [type(self.pretrained).__name__]
        config.update(self._own_dropout)  # what this run learned with is not the next one's
        config.save_pretrained(folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def _loss(self, batch: Batch) -> Tensor:
        ids_N, *others = (torch.from_numpy(array).to(self.device) for array in batch)
        length_B, _, document_start_B, document_stop_B, answers = others
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            start_N, end_N = self.model(ids_N, batch.length_B.tolist(), batch.num_prefix_tokens_B.tolist())
        return answer_loss(start_N, end_N, length_B, document_start_B, document_stop_B, answers).sum()

    def _together(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Several workers bring their gradients together once a step, after their last batch."""
        if is_last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def check_alike(model: Checkpoint, other: Checkpoint) -> None:
    """That the weights of two checkpoints can be averaged; no weights are read.

    Raises:
        ModelError: they differ in shape or in vocabulary.
    """
    shapes, wanted = _shapes(other.folder), _shapes(model.folder)
    differing = sorted(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
    if not differing and Tokenizer(other.folder).vocabulary != Tokenizer(model.folder).vocabulary:
        differing = ["the vocabulary"]
    if differing:
        raise ModelError(
            f"training.averaged_with: {other.name!r} is not like the model {model.name!r} ({differing[0]} differs); "
            "only models that were made from the same one can be averaged"
        )


def _shapes(folder: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> dict[str, float]:
    """These settings, as the checkpoint's family calls them."""
    given = {
        "hidden_dropout_prob": dropout,
        "dropout": dropout,  # DistilBERT
        "attention_probs_dropout_prob": attention_dropout,
        "attention_dropout": attention_dropout,
    }
    return {name: value for name, value in given.items() if value is not None and hasattr(config, name)}


def _save_memory(pretrained: Any, runner: Any) -> None:
    if hasattr(runner, "gradient_checkpointing"):
        runner.gradient_checkpointing = True
    else:
        pretrained.gradient_checkpointing_enable({"use_reentrant": False})


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms, which have one dimension, do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
