"""Windows -> start and end logits of whole documents: the model, and the only place of the answer path that runs one.

Windows of all (document, question) pairs are sorted by length and batched under a token budget; each window's logits of
the tokens that it owns are written into its document's. So what comes back is one start and one end logit for every
token of a document, from the window that gives the token most context, and the null logits of every window.

Shapes: B windows of a batch, L tokens of its longest window, T tokens of a document, W windows of a document.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, LongformerForQuestionAnswering
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ModelError
from qa_ray.longformer import LongformerQA
from qa_ray.records import Layout, Windows

Forward = Literal["auto", "transformers"]

# Batches of fewer different lengths: the CPU kernels keep something for every shape that they have seen.
PAD_MULTIPLE = 16


class Pair(NamedTuple):
    """A question asked of a document: token ids of both, and the document's windows behind this question."""

    document_ids_T: np.ndarray
    question_ids: np.ndarray
    windows: Windows


class DocumentLogits(NamedTuple):
    """What the model says of one pair, in float32 on the model's device."""

    start_T: Tensor
    end_T: Tensor
    null_start_W: Tensor
    null_end_W: Tensor


class Model:
    """A question-answering checkpoint on a device, ready for batches of windows.

    ``forward="auto"`` takes qa-ray's own exact forward pass for Longformer; ``"transformers"`` is the reference.
    """

    def __init__(self, folder: str, *, device: str, dtype: str, forward: Forward = "auto"):
        transformers_logging.disable_progress_bar()
        self.device = torch.device(device)
        model: Any = _load(folder, getattr(torch, dtype)).eval().to(self.device)
        # No padding beyond the positions there are, of which some families lose as many as this.
        self.max_tokens: int = model.config.max_position_embeddings - (model.config.pad_token_id or 0) - 1
        takes = inspect.signature(model.forward).parameters
        self._takes_token_types = "token_type_ids" in takes and getattr(model.config, "type_vocab_size", 0) > 1
        self._takes_global_attention = "global_attention_mask" in takes
        self._model = model
        if forward == "auto" and isinstance(model, LongformerForQuestionAnswering):
            self._model = LongformerQA.from_transformers(model)

    @torch.inference_mode()
    def __call__(
        self, ids_BL: np.ndarray, lengths_B: np.ndarray, before_middle_B: np.ndarray, type_id: int
    ) -> tuple[Tensor, Tensor]:
        """Start and end logits [B, L] in float32.

        Window b has ``lengths_B[b]`` tokens, of which the first ``before_middle_B[b]`` (the first special token and the
        question) attend globally where the family does that; the document's part has token type ``type_id``.
        """
        ids_BL_, lengths_B_, before_B_ = (
            torch.from_numpy(a).to(self.device, torch.long) for a in (ids_BL, lengths_B, before_middle_B)
        )
        if isinstance(self._model, LongformerQA):
            return self._model(ids_BL_, lengths_B_, before_B_)
        position_L = torch.arange(ids_BL.shape[1], device=self.device)
        real_BL = position_L < lengths_B_[:, None]
        inputs = {"input_ids": ids_BL_, "attention_mask": real_BL.long()}
        if self._takes_global_attention:
            inputs["global_attention_mask"] = (position_L < before_B_[:, None]).long()
        if self._takes_token_types:
            # The first separator still belongs to the question's segment.
            inputs["token_type_ids"] = ((position_L > before_B_[:, None]) & real_BL).long() * type_id
        output = self._model(**inputs)
        return output.start_logits.float(), output.end_logits.float()


def _load(folder: str, dtype: torch.dtype) -> torch.nn.Module:
    try:
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {folder!r}: cannot be loaded for question answering ({error}); "
            "it must be a folder that AutoModelForQuestionAnswering loads, with safetensors weights"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"model {folder!r}: the weights lack {', '.join(missing[:3])}, which would be random; "
            "take a checkpoint that was fine-tuned for question answering"
        )
    return model


def logits(
    model: Model,
    layout: Layout,
    pairs: Sequence[Pair],
    batch_tokens: int,
    on_batch: Callable[[int], object] = lambda num_windows: None,
) -> list[DocumentLogits]:
    """The logits of all pairs; no batch holds more than ``batch_tokens`` tokens, unless a single window does.

    ``on_batch`` is told the windows of each batch that is done.
    """
    results = [_empty(pair, model.device) for pair in pairs]
    for batch in _batches(layout, pairs, batch_tokens):
        ids_BL, lengths_B, offset_B = _assemble(layout, pairs, batch, model.max_tokens)
        before_middle_B = offset_B - len(layout.middle)
        start_BL, end_BL = model(ids_BL, lengths_B, before_middle_B, layout.document_type_id)
        for row, (p, w) in enumerate(batch):
            windows, result = pairs[p].windows, results[p]
            own = slice(int(windows.own_start_W[w]), int(windows.own_stop_W[w]))
            shift = int(offset_B[row]) - int(windows.start_W[w])
            result.start_T[own] = start_BL[row, own.start + shift : own.stop + shift]
            result.end_T[own] = end_BL[row, own.start + shift : own.stop + shift]
            result.null_start_W[w], result.null_end_W[w] = start_BL[row, 0], end_BL[row, 0]
        on_batch(len(batch))
    return results


def _empty(pair: Pair, device: torch.device) -> DocumentLogits:
    num_tokens, num_windows = len(pair.document_ids_T), len(pair.windows)
    return DocumentLogits(*(torch.empty(n, device=device) for n in (num_tokens, num_tokens, num_windows, num_windows)))


def _batches(layout: Layout, pairs: Sequence[Pair], batch_tokens: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of (pair, window), longest windows first, so that neighbours are of nearly equal length."""
    lengths = np.concatenate(
        [layout.num_special_tokens + len(p.question_ids) + p.windows.stop_W - p.windows.start_W for p in pairs]
    )
    pair_of = np.repeat(np.arange(len(pairs)), [len(pair.windows) for pair in pairs])
    window_of = np.concatenate([np.arange(len(pair.windows)) for pair in pairs])
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        rows = order[first : first + max(1, batch_tokens // int(lengths[order[first]]))]
        yield list(zip(pair_of[rows].tolist(), window_of[rows].tolist(), strict=True))
        first += len(rows)


def _assemble(
    layout: Layout, pairs: Sequence[Pair], batch: list[tuple[int, int]], max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input ids [B, L], their lengths, and where the document's part begins in each."""
    windows = [
        np.concatenate([layout.prefix, pairs[p].question_ids, layout.middle, document_part, layout.suffix])
        for p, w in batch
        for document_part in [pairs[p].document_ids_T[pairs[p].windows.start_W[w] : pairs[p].windows.stop_W[w]]]
    ]
    lengths_B = np.array([len(window) for window in windows])
    longest = int(lengths_B.max())
    rounded = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
    ids_BL = np.full((len(batch), max(longest, min(rounded, max_tokens))), layout.pad_id, dtype=np.int64)
    for row, window in enumerate(windows):
        ids_BL[row, : len(window)] = window
    offset_B = np.array([len(layout.prefix) + len(pairs[p].question_ids) + len(layout.middle) for p, _ in batch])
    return ids_BL, lengths_B, offset_B
