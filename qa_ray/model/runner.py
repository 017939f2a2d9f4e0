"""Windows -> start and end logits of whole documents: the model, and the only place of the answer path that runs one.

Windows of all (document, question) pairs are sorted by length and batched under a token budget, end to end; each
window's logits of the tokens that it owns are written into its document's. So what comes back is one start and one end
logit for every token of a document, from the window that gives the token most context, and the null logits of every
window.

Shapes: B windows of a batch, N tokens of all of them, L tokens of the longest, T tokens and W windows of a document (or
of all pairs, end to end), P pieces.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering, LongformerForQuestionAnswering
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ModelError
from qa_ray.model.cpu_linear import pack
from qa_ray.model.longformer.model import LongformerQA
from qa_ray.model.transformers_backend import PaddedQA
from qa_ray.process import Stopwatch
from qa_ray.schemas import BatchSize, Layout, Windows

Forward = Literal["auto", "transformers"]

# On a CPU more tokens would only hold more memory; the GPU's figure is a guess that no GPU has seen yet.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 65_536}
# Windows end to end are filled up to a multiple of these tokens: CPU kernels keep something for every size they see.
ROUND_BATCH = 64


class Pair(NamedTuple):
    """A question asked of a document: token ids of both, and the document's windows behind this question."""

    document_ids_T: np.ndarray
    question_ids: np.ndarray
    windows: Windows


class Logits(NamedTuple):
    """What the model says of all pairs, end to end: in float32, on the model's device."""

    start_T: Tensor
    end_T: Tensor
    null_start_W: Tensor
    null_end_W: Tensor


def use_threads(num_threads: int) -> None:
    """How many threads this process's forward passes may use; Ray would leave it at one."""
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)


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
        model: Any = load(folder, getattr(torch, find_dtype(dtype, device))).eval().to(self.device)
        if self.device.type == "cpu" and forward == "auto":
            pack(model.base_model)
        # In float32: rounded to bfloat16, many of a window's logits would be equal.
        model.qa_outputs.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self._model = end_to_end(model, document_type_id) if forward == "auto" else PaddedQA(model, document_type_id)

    @torch.inference_mode()
    def __call__(self, ids_N: np.ndarray, length_B: np.ndarray, before_middle_B: np.ndarray) -> tuple[Tensor, Tensor]:
        """Start and end logits [N] in float32, of windows that lie end to end.

        Window b has ``length_B[b]`` tokens, of which the first ``before_middle_B[b]`` (the first special token and the
        question) attend globally where the family does that.
        """
        lengths = length_B.tolist(), before_middle_B.tolist()
        if isinstance(self._model, PaddedQA):
            return self._model(self._tensor(ids_N), *lengths)
        padded_N = np.append(ids_N, np.zeros(self.num_computed(length_B) - len(ids_N), ids_N.dtype))
        start_N, end_N = self._model(self._tensor(padded_N), *lengths)
        return start_N[: len(ids_N)], end_N[: len(ids_N)]

    def num_computed(self, length_B: np.ndarray) -> int:
        """How many tokens a batch of windows of these lengths has with its padding."""
        if isinstance(self._model, PaddedQA):
            return len(length_B) * self._model.padded_length(length_B.tolist())
        return -(-int(length_B.sum()) // ROUND_BATCH) * ROUND_BATCH

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Not blocking: a GPU is given its next batch while it works at this one.
        return torch.from_numpy(array).to(self.device, torch.long, non_blocking=True)


def end_to_end(model: nn.Module, document_type_id: int) -> LongformerQA | PaddedQA:
    """The model of transformers for windows that lie end to end, with a forward pass of our own for Longformer."""
    if isinstance(model, LongformerForQuestionAnswering):
        return LongformerQA.from_transformers(model)
    return PaddedQA(model, document_type_id)


def find_dtype(dtype: str, device: str) -> str:
    """``auto`` is bfloat16 where the device computes in it (every GPU since 2020), else float32."""
    if dtype != "auto":
        return dtype
    native = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's
    has_bfloat16 = device == "cuda" or any(torch.cpu.get_capabilities().get(name) for name in native)
    return "bfloat16" if has_bfloat16 else "float32"


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


def logits(
    model: Model, layout: Layout, pairs: Sequence[Pair], on_batch: Callable[[BatchSize], object] = lambda size: None
) -> Logits:
    """The logits of all pairs; ``on_batch`` is told the size of each batch that is done.

    No batch holds more than ``model.batch_tokens`` tokens, unless a single window does. A batch that does not fit into
    the device's memory halves that number, for good.
    """
    table = _table(layout, pairs)
    tokens = [torch.empty(int(table.own_stop_W[-1]), device=model.device) for _ in range(2)]
    nulls = [torch.empty(len(table.length_W), device=model.device) for _ in range(2)]
    order = np.argsort(-table.length_W, kind="stable")  # longest first, so that neighbours are of nearly equal length
    first = retreats = 0
    while first < len(order):
        batch_B = order[first : first + max(1, model.batch_tokens // int(table.length_W[order[first]]))]
        length_B = table.length_W[batch_B]
        try:
            ids_N = table.ids(batch_B)
            with model.stopwatch.stage("forward"):
                found = model(ids_N, length_B, table.before_middle_W[batch_B])
        except torch.OutOfMemoryError:
            if len(batch_B) == 1:
                raise
            model.batch_tokens = int(length_B.sum()) // 2
            retreats += 1
            continue
        start_B = np.cumsum(length_B) - length_B  # of each window in the batch
        num_own_B = table.own_stop_W[batch_B] - table.own_start_W[batch_B]
        own_N = _ranges(start_B + table.own_offset_W[batch_B], num_own_B)
        own_T = _ranges(table.own_start_W[batch_B], num_own_B)
        own_N, own_T, start_B, batch_B = (
            torch.from_numpy(a).to(model.device, non_blocking=True) for a in (own_N, own_T, start_B, batch_B)
        )
        for logits_N, logits_T, null_logits_W in zip(found, tokens, nulls, strict=True):
            logits_T[own_T], null_logits_W[batch_B] = logits_N[own_N], logits_N[start_B]
        num_computed = model.num_computed(length_B)
        on_batch(BatchSize(len(length_B), int(length_B.sum()), num_computed, model.batch_tokens, retreats))
        first, retreats = first + len(length_B), 0
    return Logits(*tokens, *nulls)


class _Table(NamedTuple):
    """All windows of all pairs. The input of each is three pieces of ``source``: all before the document's part, that
    part, and the special tokens behind it.
    """

    source: np.ndarray  # token ids: of all documents, of what stands before each, of what stands behind all
    piece_start_W3: np.ndarray
    piece_length_W3: np.ndarray
    length_W: np.ndarray
    before_middle_W: np.ndarray
    own_start_W: np.ndarray  # in the tokens of all pairs, end to end
    own_stop_W: np.ndarray
    own_offset_W: np.ndarray  # of the first own token in the window

    def ids(self, windows_B: np.ndarray) -> np.ndarray:
        """The input ids of these windows, end to end."""
        return self.source[_ranges(self.piece_start_W3[windows_B].ravel(), self.piece_length_W3[windows_B].ravel())]


def _table(layout: Layout, pairs: Sequence[Pair]) -> _Table:
    documents = [pair.document_ids_T for pair in pairs]
    heads = [np.concatenate([layout.prefix, pair.question_ids, layout.middle]) for pair in pairs]
    pieces = [*documents, *heads, np.array(layout.suffix)]
    start_P = np.cumsum([0, *map(len, pieces)])
    pair_W = np.repeat(np.arange(len(pairs)), [len(pair.windows) for pair in pairs])
    windows = Windows(*map(np.concatenate, zip(*(pair.windows for pair in pairs), strict=True)))
    document_W, head_W = start_P[pair_W], start_P[len(pairs) + pair_W]
    head_length_W = start_P[len(pairs) + pair_W + 1] - head_W
    suffix_W = np.full_like(pair_W, start_P[-2])
    piece_start_W3 = np.stack([head_W, document_W + windows.start_W, suffix_W], axis=1)
    suffix_length_W = np.full_like(pair_W, len(layout.suffix))
    piece_length_W3 = np.stack([head_length_W, windows.stop_W - windows.start_W, suffix_length_W], axis=1)
    return _Table(
        source=np.concatenate(pieces, dtype=np.int32, casting="same_kind"),
        piece_start_W3=piece_start_W3,
        piece_length_W3=piece_length_W3,
        length_W=piece_length_W3.sum(axis=1),
        before_middle_W=head_length_W - len(layout.middle),
        own_start_W=document_W + windows.own_start_W,
        own_stop_W=document_W + windows.own_stop_W,
        own_offset_W=head_length_W + windows.own_start_W - windows.start_W,
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, as many as its length, one range behind the other."""
    stops = np.cumsum(lengths)
    return np.arange(stops[-1]) + np.repeat(starts - stops + lengths, lengths)
