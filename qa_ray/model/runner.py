"""A checkpoint -> start and end logits of packed windows: the only module of the answer path that runs a model.

Which forward pass runs is the family's (model.families): qa-ray's own, or that of transformers behind the same
interface (model.transformers_backend).

Shapes: B windows of a batch, N tokens of all of them (packed: concatenated without padding).
"""

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ModelError
from qa_ray.model.cpu_linear import prepack
from qa_ray.model.device import check_choice, resolve_dtype
from qa_ray.model.families import find_family
from qa_ray.model.settings import Forward
from qa_ray.model.transformers_backend import TransformersBackend
from qa_ray.process import Stopwatch

# Tokens of a batch. On a CPU more tokens only take more memory; the GPU's figure is a guess, not yet measured.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
# Packed windows are filled up to a multiple of this many tokens: CPU kernels cache something for every size they see.
ROUND_BATCH = 64


class Model:
    """A question-answering checkpoint on a device, ready for batches of up to ``batch_tokens`` tokens.

    ``forward="auto"`` uses qa-ray's own exact forward pass where the family has one, and prepacked linear layers on a
    CPU; ``"transformers"`` is the reference, unchanged. ``document_type_id`` is the token type of a window's document.

    Raises:
        ConfigError: an unknown ``dtype`` or ``forward``.
        ModelError: the checkpoint cannot be loaded, or weights are missing.
    """

    def __init__(
        self,
        folder: str,
        *,
        document_type_id: int,
        device: str,
        dtype: str,
        forward: str = "auto",
        batch_tokens: int | None = None,
    ):
        check_choice("forward", forward, get_args(Forward))
        self.stopwatch = Stopwatch()
        transformers_logging.disable_progress_bar()
        self.device = torch.device(device)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self.device.type]
        model: Any = load(folder, getattr(torch, resolve_dtype(dtype, device))).eval().to(self.device)
        if self.device.type == "cpu" and forward == "auto":
            prepack(model.base_model, find_family(model.config.model_type).layers_not_prepacked)
        keep_head_in_float32(model)
        self._backend = (
            build_backend(model, document_type_id)
            if forward == "auto"
            else TransformersBackend(model, document_type_id)
        )

    @torch.inference_mode()
    def __call__(
        self, ids_N: np.ndarray, length_B: np.ndarray, num_prefix_tokens_B: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits [N], float32, of packed windows.

        Window b has ``length_B[b]`` tokens. Its first ``num_prefix_tokens_B[b]`` tokens (the first special token and
        the question) attend globally in families with global attention.
        """
        lengths = length_B.tolist(), num_prefix_tokens_B.tolist()
        if isinstance(self._backend, TransformersBackend):
            return self._backend(self._tensor(ids_N), *lengths)
        padded_N = np.append(ids_N, np.zeros(self.num_computed(length_B) - len(ids_N), ids_N.dtype))
        start_N, end_N = self._backend(self._tensor(padded_N), *lengths)
        return start_N[: len(ids_N)], end_N[: len(ids_N)]

    def num_computed(self, length_B: np.ndarray) -> int:
        """The tokens that a batch of windows of these lengths computes, padding included."""
        if isinstance(self._backend, TransformersBackend):
            return len(length_B) * self._backend.padded_length(length_B.tolist())
        return -(-int(length_B.sum()) // ROUND_BATCH) * ROUND_BATCH

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Non-blocking, so that a GPU receives its next batch while it computes this one.
        return torch.from_numpy(array).to(self.device, torch.long, non_blocking=True)


def keep_head_in_float32(model: Any) -> None:
    """Makes the question-answering head compute in float32, whatever the rest of the model or autocast computes in.

    Rounded to bfloat16, many of a window's logits would be equal.
    """
    head = model.qa_outputs.float()
    forward = head.forward

    def forward_in_float32(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    head.forward = forward_in_float32


def build_backend(model: Any, document_type_id: int) -> nn.Module:
    """A forward pass over packed windows for this transformers model: its family's own, or transformers'."""
    make_backend = find_family(model.config.model_type).make_backend
    return make_backend(model, document_type_id) if make_backend else TransformersBackend(model, document_type_id)


def load(folder: str, dtype: torch.dtype, *, needs_head: bool = True, **config: Any) -> nn.Module:
    """The checkpoint in ``folder``; without ``needs_head`` its question-answering head may be new, and random.

    ``config`` overrides values of the checkpoint's own.

    Raises:
        ModelError: it cannot be loaded, or weights are missing.
    """
    try:
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **config
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {folder!r}: cannot be loaded for question answering ({error}); "
            "it must be a folder that AutoModelForQuestionAnswering loads, with safetensors weights"
        ) from error
    if missing := sorted(name for name in info["missing_keys"] if needs_head or not name.startswith("qa_outputs.")):
        raise ModelError(
            f"model {folder!r}: the weights lack {', '.join(missing[:3])}, which would be random; "
            "use a checkpoint that was fine-tuned for question answering"
        )
    return model
