"""A checkpoint -> start and end logits of packed windows: the only module of the answer path that runs a model.

Which forward pass runs is the family's (model.families): qa-ray's own, or that of transformers behind the same
interface (model.transformers_backend).

Shapes: B windows of a batch, N tokens of all of them (packed: concatenated without padding).
"""

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from qa_ray.model.cpu_linear import prepack, prepack_int8
from qa_ray.model.device import check_choice, resolve_dtype
from qa_ray.model.families import find_family
from qa_ray.model.settings import Forward
from qa_ray.model.transformers_backend import TransformersBackend
from qa_ray.model.weights import keep_head_in_float32, load
from qa_ray.process import Stopwatch

# Tokens of a batch. On a CPU more tokens only take more memory; the GPU's figure is a guess, not yet measured.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
# Packed windows are filled up to a multiple of this many tokens: CPU kernels cache something for every size they see.
ROUND_BATCH = 64


class Model:
    """A question-answering checkpoint on a device, ready for batches of up to ``batch_tokens`` tokens.

    ``forward="auto"`` uses qa-ray's own exact forward pass where the family has one, and prepacked linear layers on a
    CPU; ``"transformers"`` is the reference, unchanged. In int8 only the linear layers differ from bfloat16, in both.
    ``document_type_id`` is the token type of a window's document, None if the tokenizer gives no token types.

    Raises:
        ConfigError: an unknown ``dtype`` or ``forward``, or int8 where it is not faster.
        ModelError: the checkpoint cannot be loaded, or its weights are not exactly the model's.
    """

    def __init__(
        self,
        folder: str,
        *,
        document_type_id: int | None,
        device: str,
        dtype: str,
        forward: str = "auto",
        batch_tokens: int | None = None,
    ):
        check_choice("forward", forward, get_args(Forward))
        self.stopwatch = Stopwatch()
        self.device = torch.device(device)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self.device.type]
        dtype = resolve_dtype(dtype, device)
        load_dtype = torch.bfloat16 if dtype == "int8" else getattr(torch, dtype)
        model: Any = load(folder, load_dtype).eval().to(self.device)
        if dtype == "int8":
            prepack_int8(model.base_model)
        elif self.device.type == "cpu" and forward == "auto":
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
            return self._backend.num_computed(length_B.tolist())
        return -(-int(length_B.sum()) // ROUND_BATCH) * ROUND_BATCH

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Non-blocking, so that a GPU receives its next batch while it computes this one.
        return torch.from_numpy(array).to(self.device, torch.long, non_blocking=True)


def build_backend(model: Any, document_type_id: int | None) -> nn.Module:
    """A forward pass over packed windows for this transformers model: its family's own, or transformers'."""
    make_backend = find_family(model.config.model_type).make_backend
    return make_backend(model, document_type_id or 0) if make_backend else TransformersBackend(model, document_type_id)
