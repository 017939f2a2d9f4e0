"""Windows of many (document, question) pairs -> batches -> start and end logits of whole documents.

Windows are sorted by length and batched under a token budget, concatenated without padding. Each window's logits for
the tokens that it owns are scattered into its document's. The result is one start and one end logit for every token of
a document, from the window that gives the token the most context, and the null logits of every window.

Shapes: B windows of a batch, N tokens of all of them, T tokens and W windows of a document (or of all pairs,
concatenated), P pieces.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qa_ray.model.device import is_out_of_memory, release_unused_memory
from qa_ray.model.runner import Model
from qa_ray.schemas import BatchSize, Layout, Windows


class Pair(NamedTuple):
    """A question asked about a document: token ids of both, and the windows that are read for it.

    Of a document that is read in part, the tokens are those of these windows, and the windows are ranges of them.
    """

    document_ids_T: np.ndarray
    question_ids: np.ndarray
    windows: Windows


class Logits(NamedTuple):
    """The logits of all pairs, concatenated: float32, on the model's device."""

    start_T: Tensor
    end_T: Tensor
    null_start_W: Tensor
    null_end_W: Tensor


def logits(
    model: Model, layout: Layout, pairs: Sequence[Pair], on_batch: Callable[[BatchSize], object] = lambda size: None
) -> Logits:
    """The logits of all pairs; ``on_batch`` is called with the size of each finished batch.

    No batch has more than ``model.batch_tokens`` tokens, unless it is a single window. A batch that does not fit in the
    device's memory halves ``model.batch_tokens`` permanently.

    Raises:
        an error for which is_out_of_memory holds: a single window, or the logits of all pairs, do not fit.
    """
    table = _table(layout, pairs)
    logits = Logits(
        *(torch.empty(int(table.own_stop_W[-1]), device=model.device) for _ in range(2)),
        *(torch.empty(len(table.length_W), device=model.device) for _ in range(2)),
    )
    order = np.argsort(-table.length_W, kind="stable")  # longest first, so that neighbors have nearly equal length
    first = oom_retries = 0
    while first < len(order):
        batch_B = order[first : first + max(1, model.batch_tokens // int(table.length_W[order[first]]))]
        length_B = table.length_W[batch_B]
        try:
            _compute(model, table, batch_B, logits)
        except (RuntimeError, MemoryError) as error:
            if len(batch_B) == 1 or not is_out_of_memory(error):
                raise
        else:
            num_tokens = int(length_B.sum())
            on_batch(
                BatchSize(len(length_B), num_tokens, model.num_computed(length_B), model.batch_tokens, oom_retries)
            )
            first, oom_retries = first + len(length_B), 0
            continue
        release_unused_memory()  # here, because in the except clause the error still holds the batch's tensors
        model.batch_tokens = int(length_B.sum()) // 2
        oom_retries += 1
    return logits


def _compute(model: Model, table: "_Table", batch_B: np.ndarray, logits: Logits) -> None:
    """Writes the logits of a batch's windows to ``logits``."""
    length_B = table.length_W[batch_B]
    ids_N = table.ids(batch_B)
    with model.stopwatch.stage("forward"):
        start_logits_N, end_logits_N = model(ids_N, length_B, table.num_prefix_tokens_W[batch_B])
    start_B = np.cumsum(length_B) - length_B  # of each window in the batch
    num_own_B = table.own_stop_W[batch_B] - table.own_start_W[batch_B]
    own_N = _ranges(start_B + table.own_offset_W[batch_B], num_own_B)
    own_T = _ranges(table.own_start_W[batch_B], num_own_B)
    own_N, own_T, first_B, window_B = (
        torch.from_numpy(a).to(model.device, non_blocking=True) for a in (own_N, own_T, start_B, batch_B)
    )
    logits.start_T[own_T], logits.end_T[own_T] = start_logits_N[own_N], end_logits_N[own_N]
    logits.null_start_W[window_B], logits.null_end_W[window_B] = start_logits_N[first_B], end_logits_N[first_B]


class _Table(NamedTuple):
    """All windows of all pairs. The input of each is three pieces of ``source``: the head (everything before the
    document's part), the document's part, and the suffix (the special tokens after it).
    """

    source: np.ndarray  # token ids of all documents, of each pair's head, and of the suffix
    piece_start_W3: np.ndarray
    piece_length_W3: np.ndarray
    length_W: np.ndarray
    num_prefix_tokens_W: np.ndarray
    own_start_W: np.ndarray  # in the tokens of all pairs, concatenated
    own_stop_W: np.ndarray
    own_offset_W: np.ndarray  # of the first owned token in the window

    def ids(self, windows_B: np.ndarray) -> np.ndarray:
        """The input ids of these windows, packed."""
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
        num_prefix_tokens_W=head_length_W - len(layout.middle),
        own_start_W=document_W + windows.own_start_W,
        own_stop_W=document_W + windows.own_stop_W,
        own_offset_W=head_length_W + windows.own_start_W - windows.start_W,
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges [start, start + length), concatenated."""
    stops = np.cumsum(lengths)
    return np.arange(stops[-1]) + np.repeat(starts - stops + lengths, lengths)
