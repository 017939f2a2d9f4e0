"""Attention of a Longformer layer block by block, by products one by one, with its gradient: for CPUs.

On a CPU that is faster than the fused kernel: by 1.2 to 1.7 times in float32, 1.5 to 2.1 in bfloat16 (128 queries with
654 keys and 170 with 170, 12 heads of 32 or 64, two cores of an AMD EPYC). Learning in bfloat16 is 1.1 to 1.4 times
faster with windows of 384 tokens and 1.5 times with 4,096: autograd would make a gradient as large as all tokens for
every block's slice of them.

In float32, where nothing is to be learned, few global tokens attend to the hidden states themselves, with W_k^T q as
queries: no token needs global keys and values, which are a seventh of all projections. With 14 of them, one layer's
global attention then takes a third of the time (768 wide) or three fifths (384 wide). In bfloat16 it was no gain.

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

# A block of Q queries computes Q + 2 w scores a query where 2 w + 1 are needed, so fewer is less work. With w = 256 on
# two CPU cores, 128 queries at a time took 3 to 19 % less than 256.
BLOCK_TOKENS = 128
# Blocks of few different shapes: the bfloat16 kernels are compiled for each, which takes time and memory.
FILL_MULTIPLE = 32
# Global attention is folded where heads times global tokens are at most this share of the width.
MOST_FOLDED = 0.75


class _Block(NamedTuple):
    """Neighbouring queries, and the keys that they see: some of the window's global tokens, and those within reach.

    Behind the last query and the last key may stand others, to fill up: the mask hides them, or nobody looks.
    """

    start: int  # the first query's token
    queries: slice
    num_queries: int  # without those that fill up
    global_keys: slice
    near_keys: slice
    mask_QK: Tensor | None = None  # added to the scores; None hides nothing

    def keys(self, x_HNE: Tensor) -> Tensor:
        """The rows of x that are keys: a view where that can be."""
        if self.global_keys.stop == self.near_keys.start:
            return x_HNE[:, self.global_keys.start : self.near_keys.stop]
        return torch.cat([x_HNE[:, self.global_keys], x_HNE[:, self.near_keys]], dim=1)

    @property
    def tokens(self) -> slice:
        """The queries' tokens, without those that fill up."""
        return slice(self.start, self.start + self.num_queries)


class BlockwiseAttention(NamedTuple):
    """Who sees whom in the windows of a batch, for layers of one reach."""

    windows: list[slice]  # the tokens of each
    of_locals: list[list[_Block]]
    of_globals: list[_Block]  # one a window; their queries are counted among all global tokens

    def attend(self, attention: LongformerSelfAttention, x_ND: Tensor) -> Tensor:
        """Self-attention before its output projection, [N, D]."""

        def heads(projection: nn.Linear, x_ND: Tensor) -> Tensor:
            x_HNE = projection(x_ND).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
            return pad(x_HNE, (0, 0, 0, FILL_MULTIPLE)).contiguous()  # the last block is filled up, too

        of_locals = [heads(projection, x_ND) for projection in (attention.query, attention.key, attention.value)]
        if self._folds(attention, x_ND):
            out_ND = _ByHand.apply(len(x_ND), self._replace(of_globals=[]), *of_locals)
            for window, block in zip(self.windows, self.of_globals, strict=True):
                out_ND[block.tokens] = _folded(attention, x_ND[block.tokens], x_ND[window])
            return out_ND
        global_x_GD = torch.cat([x_ND[block.tokens] for block in self.of_globals])
        return _ByHand.apply(
            len(x_ND),
            self,
            *of_locals,
            heads(attention.query_global, pad(global_x_GD, (0, 0, 0, -len(global_x_GD) % FILL_MULTIPLE))),
            heads(attention.key_global, x_ND),
            heads(attention.value_global, x_ND),
        )

    def _folds(self, attention: LongformerSelfAttention, x_ND: Tensor) -> bool:
        """Whether scores of all heads with the hidden states are clearly less work than keys and values."""
        if torch.is_grad_enabled() or x_ND.dtype.itemsize < 4:  # bfloat16 and float16: their weights are packed
            return False
        num_tokens = sum(window.stop - window.start for window in self.windows)
        num_scores = sum(
            block.num_queries * (window.stop - window.start)
            for window, block in zip(self.windows, self.of_globals, strict=True)
        )
        return attention.num_heads * num_scores <= MOST_FOLDED * num_tokens * x_ND.shape[1]


def blockwise_attention(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> BlockwiseAttention:
    """``reach`` is how far a local query sees on either side, attention_window / 2."""

    @cache  # most blocks of a batch are alike
    def mask_QK(num_queries: int, num_global: int, near_start: int, near_stop: int, reach: int) -> Tensor | None:
        """For queries [0, num_queries) and keys [near_start, near_stop) behind the global ones, which all see."""
        num_more = -(num_global + near_stop - near_start) % FILL_MULTIPLE
        if not num_more and max(num_queries - near_start, near_stop) <= reach + 1:
            return None
        query_Q = torch.arange(num_queries + -num_queries % FILL_MULTIPLE, device=device)
        key_K = torch.arange(near_start, near_stop + num_more, device=device)
        is_hidden_QK = ((query_Q[:, None] - key_K).abs() > reach) | (key_K >= near_stop)
        mask_QK = torch.zeros(len(query_Q), num_global + len(key_K), dtype=dtype, device=device)
        mask_QK[:, num_global:].masked_fill_(is_hidden_QK, torch.finfo(dtype).min)
        return mask_QK

    def block(window: int, start: int, stop: int, num_global: int, near: tuple[int, int], reach: int) -> _Block:
        """Queries [start, stop) of the window that begins with this token of all."""
        num_more = -(num_global + near[1] - near[0]) % FILL_MULTIPLE
        return _Block(
            start=window + start,
            queries=slice(window + start, window + stop + (start - stop) % FILL_MULTIPLE),
            num_queries=stop - start,
            global_keys=slice(window, window + num_global),
            near_keys=slice(window + near[0], window + near[1] + num_more),
            mask_QK=mask_QK(stop - start, num_global, near[0] - start, near[1] - start, reach),
        )

    blocks = BlockwiseAttention([], [], [])
    first = first_global = 0
    for length, num_global in zip(lengths_B, num_global_B, strict=True):
        of_globals = block(first, 0, num_global, 0, (0, length), length)
        queries = slice(first_global, first_global + of_globals.queries.stop - first)
        blocks.windows.append(slice(first, first + length))
        blocks.of_globals.append(of_globals._replace(queries=queries))
        blocks.of_locals.append(
            [
                block(
                    first, start, stop, num_global, (max(num_global, start - reach), min(stop + reach, length)), reach
                )
                for start, stop in pairwise([*range(num_global, length, BLOCK_TOKENS), length])
            ]
        )
        first, first_global = first + length, first_global + num_global
    return blocks


class _ByHand(torch.autograd.Function):
    """Softmax(q kᵀ / √E + mask) v of all blocks, [N, D]."""

    @staticmethod
    def forward(ctx: Any, num_tokens: int, blocks: BlockwiseAttention, *qkv: Tensor) -> Tensor:
        ctx.blocks = blocks
        ctx.save_for_backward(*qkv)
        with torch.autocast("cpu", enabled=False):
            out_NHE = qkv[0].new_zeros(num_tokens, qkv[0].shape[0], qkv[0].shape[2])
            of_all = [(block, qkv[:3]) for some in blocks.of_locals for block in some]
            of_all += [(block, qkv[3:]) for block in blocks.of_globals if block.num_queries]
            for block, (q_HNE, k_HNE, v_HNE) in of_all:
                p_HQK = _probabilities(q_HNE[:, block.queries], block.keys(k_HNE), block.mask_QK)
                out_HQE = torch.bmm(p_HQK, block.keys(v_HNE))
                out_NHE[block.tokens] = out_HQE[:, : block.num_queries].transpose(0, 1)
        return out_NHE.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv: tuple[Tensor, ...] = ctx.saved_tensors
        heads, _, width = qkv[0].shape
        do_HNE = gradients[0].to(qkv[0].dtype).unflatten(1, (heads, width)).transpose(0, 1)
        found = [torch.zeros_like(of) for of in qkv]
        (dq_HNE, *local_dkv), (global_dq_HNE, *global_dkv) = found[:3], found[3:]
        with torch.autocast("cpu", enabled=False):
            for window, of_locals, of_globals in zip(*ctx.blocks, strict=True):
                # Window by window, as small sums stay in the cache; in float32, where the last of many is not lost.
                num_keys = window.stop - window.start
                sums_2HKE = do_HNE.new_zeros(2, heads, num_keys + FILL_MULTIPLE, width, dtype=torch.float32)
                for block in of_locals:
                    dq_HQE, *dkv = _gradients(block, qkv[:3], do_HNE)
                    dq_HNE[:, block.tokens] = dq_HQE[:, : block.num_queries]
                    num_global = block.global_keys.stop - window.start
                    near = slice(block.near_keys.start - window.start, block.near_keys.stop - window.start)
                    for sum_HKE, d_HKE in zip(sums_2HKE, dkv, strict=True):
                        sum_HKE[:, :num_global] += d_HKE[:, :num_global]
                        sum_HKE[:, near] += d_HKE[:, num_global:]
                for d_HNE, sum_HKE in zip(local_dkv, sums_2HKE, strict=True):
                    d_HNE[:, window] = sum_HKE[:, :num_keys]
                if of_globals.num_queries:
                    dq_HQE, *dkv = _gradients(of_globals, qkv[3:], do_HNE)
                    global_dq_HNE[:, of_globals.queries][:, : of_globals.num_queries] = dq_HQE[
                        :, : of_globals.num_queries
                    ]
                    for d_HNE, d_HKE in zip(global_dkv, dkv, strict=True):
                        d_HNE[:, window] = d_HKE[:, :num_keys]
        return None, None, *found


def _gradients(block: _Block, qkv: Sequence[Tensor], do_HNE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the block's queries, keys and values, from that of the output of all tokens.

    With P the probabilities: dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - rowsum(P dP)), dQ = dS K, dK = dSᵀ Q.
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


def _folded(attention: LongformerSelfAttention, x_GD: Tensor, x_KD: Tensor) -> Tensor:
    """Attention of a window's global tokens x_G to all of its tokens x_K, [G, D].

    q (W_k x + b_k) is (W_k^T q) x plus what all keys have in common, which the softmax takes away; and
    sum p (W_v x + b_v) is W_v (sum p x) + b_v.
    """
    heads = (-1, attention.head_dim)
    q_HGE = attention.query_global(x_GD).unflatten(-1, heads).transpose(0, 1) * attention.head_dim**-0.5
    q_HGD = torch.bmm(q_HGE, attention.key_global.weight.unflatten(0, heads))
    seen_HGD = torch.softmax(q_HGD @ x_KD.T, dim=-1) @ x_KD
    out_HGE = torch.bmm(seen_HGD, attention.value_global.weight.unflatten(0, heads).mT)
    return out_HGE.transpose(0, 1).flatten(1) + attention.value_global.bias
