"""Windows -> start and end logits of whole documents: the model, and the only place of the answer path that runs one.

Windows of all (document, question) pairs are sorted by length and batched under a token budget, end to end; each
window's logits of the tokens that it owns are written into its document's. So what comes back is one start and one end
logit for every token of a document, from the window that gives the token most context, and the null logits of every
window.

Shapes: B windows of a batch, N tokens of all of them, L tokens of the longest, T tokens and W windows of a document (or
of all pairs, end to end), P pieces.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering, LongformerForQuestionAnswering
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ModelError
from qa_ray.model.cpu_linear import prepack
from qa_ray.model.device import resolve_dtype
from qa_ray.model.longformer.model import LongformerQA
from qa_ray.model.transformers_backend import TransformersBackend
from qa_ray.process import Stopwatch

Forward = Literal["auto", "transformers"]


# On a CPU more tokens would only hold more memory; the GPU's figure is a guess that no GPU has seen yet.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
# Windows end to end are filled up to a multiple of these tokens: CPU kernels keep something for every size they see.
ROUND_BATCH = 64


class Model:
    """A question-answering checkpoint on a device, ready for batches of up to ``batch_tokens`` tokens.

    ``forward="auto"`` takes qa-ray's own exact forward pass for Longformer, and linear layers packed for a CPU;
    ``"transformers"`` is the reference, as it is. ``document_type_id`` is the token type of a window's document.
    """

    def __init__(
        self,
        folder: str,
        *,
        document_type_id: int,
        device: str,
        dtype: str,
        forward: Forward = "auto",
        batch_tokens: int | None = None,
    ):
        self.stopwatch = Stopwatch()
        transformers_logging.disable_progress_bar()
        self.device = torch.device(device)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self.device.type]
        model: Any = load(folder, getattr(torch, resolve_dtype(dtype, device))).eval().to(self.device)
        if self.device.type == "cpu" and forward == "auto":
            prepack(model.base_model)
        # In float32: rounded to bfloat16, many of a window's logits would be equal.
        model.qa_outputs.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self._model = (
            build_backend(model, document_type_id)
            if forward == "auto"
            else TransformersBackend(model, document_type_id)
        )

    @torch.inference_mode()
    def __call__(
        self, ids_N: np.ndarray, length_B: np.ndarray, num_prefix_tokens_B: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits [N] in float32, of windows that lie end to end.

        Window b has ``length_B[b]`` tokens. The first ``num_prefix_tokens_B[b]`` of them (the first special token and
        the question) attend globally where the family does that.
        """
        lengths = length_B.tolist(), num_prefix_tokens_B.tolist()
        if isinstance(self._model, TransformersBackend):
            return self._model(self._tensor(ids_N), *lengths)
        padded_N = np.append(ids_N, np.zeros(self.num_computed(length_B) - len(ids_N), ids_N.dtype))
        start_N, end_N = self._model(self._tensor(padded_N), *lengths)
        return start_N[: len(ids_N)], end_N[: len(ids_N)]

    def num_computed(self, length_B: np.ndarray) -> int:
        """How many tokens a batch of windows of these lengths has with its padding."""
        if isinstance(self._model, TransformersBackend):
            return len(length_B) * self._model.padded_length(length_B.tolist())
        return -(-int(length_B.sum()) // ROUND_BATCH) * ROUND_BATCH

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Not blocking: a GPU is given its next batch while it works at this one.
        return torch.from_numpy(array).to(self.device, torch.long, non_blocking=True)


def build_backend(model: nn.Module, document_type_id: int) -> LongformerQA | TransformersBackend:
    """The model of transformers for windows that lie end to end, with a forward pass of our own for Longformer."""
    if isinstance(model, LongformerForQuestionAnswering):
        return LongformerQA.from_transformers(model)
    return TransformersBackend(model, document_type_id)


def load(folder: str, dtype: torch.dtype, *, needs_head: bool = True, **config: Any) -> nn.Module:
    """The checkpoint in ``folder``; without ``needs_head`` its question-answering head may be new, and random.

    ``config`` is laid over the checkpoint's own.

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
            "take a checkpoint that was fine-tuned for question answering"
        )
    return model
