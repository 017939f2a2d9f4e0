"""Blockwise attention of a Longformer layer for CPUs: one matrix product after another, with a gradient of its own.

Each block of queries attends to its window's global tokens and to the tokens within reach. On a CPU this is faster than
the fused kernel, 1.2 to 1.7 times in float32 and 1.5 to 2.1 times in bfloat16 (128 queries with 654 keys and 170 with
170, 12 heads of 32 or 64, two cores of an AMD EPYC). Training in bfloat16 is 1.1 to 1.4 times faster with windows of
384 tokens and 1.5 times with 4,096: autograd would allocate a gradient of all tokens for every block's slice of them.

Folding: in float32 inference, few global tokens attend to the hidden states directly, with W_kᵀ q as queries, so that
no token needs global keys and values, which are a seventh of all projections. With 14 global tokens, one layer's global
attention then takes a third of the time (width 768) or three fifths (width 384). In bfloat16 it was no gain.

Shapes as in qa_ray.model.longformer.model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

if TYPE_CHECKING:
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

# A block of Q queries computes Q + 2 w scores per query where 2 w + 1 are needed, so smaller blocks are less work. With
# w = 256 on two CPU cores, blocks of 128 queries took 3 to 19 % less time than blocks of 256.
BLOCK_TOKENS = 128
# Rounds block shapes, so that there are few: the bfloat16 kernels are compiled for each, which takes time and memory.
FILL_MULTIPLE = 32
# Global attention is folded if heads times global tokens are at most this fraction of the width.
MAX_FOLDED_FRACTION = 0.75


class _Block(NamedTuple):
    """Consecutive queries and their keys: the window's global tokens, and the tokens within reach.

    Queries and keys are padded with the tokens that follow; padding keys are masked, padding queries' output is unused.
    """

    start: int  # the first query's token
    queries: slice
    num_queries: int  # without padding
    global_keys: slice
    near_keys: slice
    mask_QK: Tensor | None = None  # added to the scores; None masks nothing

    def keys(self, x_HNE: Tensor) -> Tensor:
        """The rows of x that are keys: a view if they are contiguous."""
        if self.global_keys.stop == self.near_keys.start:
            return x_HNE[:, self.global_keys.start : self.near_keys.stop]
        return torch.cat([x_HNE[:, self.global_keys], x_HNE[:, self.near_keys]], dim=1)

    @property
    def tokens(self) -> slice:
        """The queries' tokens, without padding."""
        return slice(self.start, self.start + self.num_queries)


class BlockwiseAttention(NamedTuple):
    """The blocks of a batch of windows, for layers of one reach."""

    windows: list[slice]  # the tokens of each
    local_blocks: list[list[_Block]]  # of each window
    global_blocks: list[_Block]  # one per window; their ``queries`` index the global tokens of the batch

    def attend(self, attention: LongformerSelfAttention, x_ND: Tensor) -> Tensor:
        """Self-attention before its output projection, [N, D]."""

        def heads(projection: nn.Linear, x_ND: Tensor) -> Tensor:
            x_HNE = projection(x_ND).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
            return pad(x_HNE, (0, 0, 0, FILL_MULTIPLE)).contiguous()  # padding for the last block

        local_qkv = [heads(projection, x_ND) for projection in (attention.query, attention.key, attention.value)]
        if self._can_fold(attention, x_ND):
            out_ND = _Attend.apply(len(x_ND), self._replace(global_blocks=[]), *local_qkv)
            for window, block in zip(self.windows, self.global_blocks, strict=True):
                out_ND[block.tokens] = _attend_folded(attention, x_ND[block.tokens], x_ND[window])
            return out_ND
        global_x_GD = torch.cat([x_ND[block.tokens] for block in self.global_blocks])
        return _Attend.apply(
            len(x_ND),
            self,
            *local_qkv,
            heads(attention.query_global, pad(global_x_GD, (0, 0, 0, -len(global_x_GD) % FILL_MULTIPLE))),
            heads(attention.key_global, x_ND),
            heads(attention.value_global, x_ND),
        )

    def _can_fold(self, attention: LongformerSelfAttention, x_ND: Tensor) -> bool:
        """Whether scores of all heads against the hidden states are clearly less work than keys and values."""
        if torch.is_grad_enabled() or x_ND.dtype.itemsize < 4:  # bfloat16 and float16: the weights are prepacked
            return False
        num_tokens = sum(window.stop - window.start for window in self.windows)
        num_scores = sum(
            block.num_queries * (window.stop - window.start)
            for window, block in zip(self.windows, self.global_blocks, strict=True)
        )
        return attention.num_heads * num_scores <= MAX_FOLDED_FRACTION * num_tokens * x_ND.shape[1]


def blockwise_attention(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> BlockwiseAttention:
    """The blocks of windows of these lengths, whose first ``num_global_B`` tokens are global.

    ``reach`` is the number of tokens that a local query sees on either side, attention_window / 2.
    """

    @cache  # most blocks of a batch have the same shape
    def mask_QK(num_queries: int, num_global: int, near_start: int, near_stop: int, reach: int) -> Tensor | None:
        """For queries [0, num_queries) and keys [near_start, near_stop); the global keys before them are not masked."""
        num_padding = -(num_global + near_stop - near_start) % FILL_MULTIPLE
        if not num_padding and max(num_queries - near_start, near_stop) <= reach + 1:
            return None
        query_Q = torch.arange(num_queries + -num_queries % FILL_MULTIPLE, device=device)
        key_K = torch.arange(near_start, near_stop + num_padding, device=device)
        is_masked_QK = ((query_Q[:, None] - key_K).abs() > reach) | (key_K >= near_stop)
        mask_QK = torch.zeros(len(query_Q), num_global + len(key_K), dtype=dtype, device=device)
        mask_QK[:, num_global:].masked_fill_(is_masked_QK, torch.finfo(dtype).min)
        return mask_QK

    def block(window: int, start: int, stop: int, num_global: int, near: tuple[int, int], reach: int) -> _Block:
        """Queries [start, stop) of the window whose first token is ``window``."""
        num_padding = -(num_global + near[1] - near[0]) % FILL_MULTIPLE
        return _Block(
            start=window + start,
            queries=slice(window + start, window + stop + (start - stop) % FILL_MULTIPLE),
            num_queries=stop - start,
            global_keys=slice(window, window + num_global),
            near_keys=slice(window + near[0], window + near[1] + num_padding),
            mask_QK=mask_QK(stop - start, num_global, near[0] - start, near[1] - start, reach),
        )

    blocks = BlockwiseAttention([], [], [])
    first = first_global = 0
    for length, num_global in zip(lengths_B, num_global_B, strict=True):
        global_block = block(first, 0, num_global, 0, (0, length), length)
        queries = slice(first_global, first_global + global_block.queries.stop - first)
        blocks.windows.append(slice(first, first + length))
        blocks.global_blocks.append(global_block._replace(queries=queries))
        blocks.local_blocks.append(
            [
                block(
                    first, start, stop, num_global, (max(num_global, start - reach), min(stop + reach, length)), reach
                )
                for start, stop in pairwise([*range(num_global, length, BLOCK_TOKENS), length])
            ]
        )
        first, first_global = first + length, first_global + num_global
    return blocks


class _Attend(torch.autograd.Function):
    """Softmax(q kᵀ / √E + mask) v of all blocks, [N, D]. ``qkv`` are the local q, k, v and the global ones, if any."""

    @staticmethod
    def forward(ctx: Any, num_tokens: int, blocks: BlockwiseAttention, *qkv: Tensor) -> Tensor:
        ctx.blocks = blocks
        ctx.save_for_backward(*qkv)
        with torch.autocast("cpu", enabled=False):
            out_NHE = qkv[0].new_zeros(num_tokens, qkv[0].shape[0], qkv[0].shape[2])
            inputs = [(block, qkv[:3]) for window_blocks in blocks.local_blocks for block in window_blocks]
            inputs += [(block, qkv[3:]) for block in blocks.global_blocks if block.num_queries]
            for block, (q_HNE, k_HNE, v_HNE) in inputs:
                p_HQK = _probabilities(q_HNE[:, block.queries], block.keys(k_HNE), block.mask_QK)
                out_HQE = torch.bmm(p_HQK, block.keys(v_HNE))
                out_NHE[block.tokens] = out_HQE[:, : block.num_queries].transpose(0, 1)
        return out_NHE.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv: tuple[Tensor, ...] = ctx.saved_tensors
        heads, _, width = qkv[0].shape
        do_HNE = gradients[0].to(qkv[0].dtype).unflatten(1, (heads, width)).transpose(0, 1)
        dqkv = [torch.zeros_like(tensor) for tensor in qkv]
        (dq_HNE, *local_dkv), (global_dq_HNE, *global_dkv) = dqkv[:3], dqkv[3:]
        with torch.autocast("cpu", enabled=False):
            for window, local_blocks, global_block in zip(*ctx.blocks, strict=True):
                # Sums of one window at a time, which stay in the cache, and in float32, which keeps small addends.
                num_keys = window.stop - window.start
                sums_2HKE = do_HNE.new_zeros(2, heads, num_keys + FILL_MULTIPLE, width, dtype=torch.float32)
                for block in local_blocks:
                    dq_HQE, *dkv = _gradients(block, qkv[:3], do_HNE)
                    dq_HNE[:, block.tokens] = dq_HQE[:, : block.num_queries]
                    num_global = block.global_keys.stop - window.start
                    near = slice(block.near_keys.start - window.start, block.near_keys.stop - window.start)
                    for sum_HKE, d_HKE in zip(sums_2HKE, dkv, strict=True):
                        sum_HKE[:, :num_global] += d_HKE[:, :num_global]
                        sum_HKE[:, near] += d_HKE[:, num_global:]
                for d_HNE, sum_HKE in zip(local_dkv, sums_2HKE, strict=True):
                    d_HNE[:, window] = sum_HKE[:, :num_keys]
                if num_global := global_block.num_queries:
                    dq_HQE, *dkv = _gradients(global_block, qkv[3:], do_HNE)
                    global_dq_HNE[:, global_block.queries][:, :num_global] = dq_HQE[:, :num_global]
                    for d_HNE, d_HKE in zip(global_dkv, dkv, strict=True):
                        d_HNE[:, window] = d_HKE[:, :num_keys]
        return None, None, *dqkv


def _gradients(block: _Block, qkv: Sequence[Tensor], do_HNE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV of one block, from the gradient ``do_HNE`` of the output of all tokens.

    With P the attention probabilities: dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - rowsum(P dP)), dQ = dS K, dK = dSᵀ Q.
    """
    q_HNE, k_HNE, v_HNE = qkv
    q_HQE, k_HKE, v_HKE = q_HNE[:, block.queries], block.keys(k_HNE), block.keys(v_HNE)
    p_HQK = _probabilities(q_HQE, k_HKE, block.mask_QK)
    do_HQE = pad(do_HNE[:, block.tokens], (0, 0, 0, q_HQE.shape[1] - block.num_queries))
    ds_HQK = torch.ops.aten._softmax_backward_data(torch.bmm(do_HQE, v_HKE.mT), p_HQK, -1, p_HQK.dtype)
    ds_HQK *= q_HQE.shape[-1] ** -0.5
    return torch.bmm(ds_HQK, k_HKE), torch.bmm(ds_HQK.mT, q_HQE), torch.bmm(p_HQK.mT, do_HQE)


def _probabilities(q_HQE: Tensor, k_HKE: Tensor, mask_QK: Tensor | None) -> Tensor:
    scores_HQK = torch.bmm(q_HQE * q_HQE.shape[-1] ** -0.5, k_HKE.mT)
    if mask_QK is not None:
        scores_HQK += mask_QK
    return torch.softmax(scores_HQK, dim=-1, out=scores_HQK)


def _attend_folded(attention: LongformerSelfAttention, x_GD: Tensor, x_KD: Tensor) -> Tensor:
    """Attention of a window's global tokens x_G to all of its tokens x_K, [G, D].

    q (W_k x + b_k) is (W_kᵀ q) x plus a term that is equal for all keys, which the softmax cancels; and
    Σ p (W_v x + b_v) is W_v (Σ p x) + b_v.
    """
    heads = (-1, attention.head_dim)
    q_HGE = attention.query_global(x_GD).unflatten(-1, heads).transpose(0, 1) * attention.head_dim**-0.5
    q_HGD = torch.bmm(q_HGE, attention.key_global.weight.unflatten(0, heads))
    mean_x_HGD = torch.softmax(q_HGD @ x_KD.T, dim=-1) @ x_KD
    out_HGE = torch.bmm(mean_x_HGD, attention.value_global.weight.unflatten(0, heads).mT)
    return out_HGE.transpose(0, 1).flatten(1) + attention.value_global.bias
