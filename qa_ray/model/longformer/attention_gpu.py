"""Attention of a Longformer layer in two calls of the fused kernel: for GPUs, and for dropout.

All blocks of a batch are gathered into one call for the local tokens and one for the global ones: block by block would
be some thousand kernels a window.

Shapes as in qa_ray.model.longformer.model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

# Every block has its own copy of its keys, so larger blocks are less to copy.
BLOCK_TOKENS = 256
KEYS_MULTIPLE = 16  # the kernel would copy the mask if a row of it began elsewhere


class _Gather(NamedTuple):
    """Blocks of one shape. Behind the last of a window's tokens stand others, to fill up: hidden, or not looked at."""

    query_CQ: Tensor  # tokens among all
    key_CK: Tensor
    mask_C1QK: Tensor  # added to the scores, for all heads

    def attended(self, q_CQHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, dropout: float) -> Tensor:
        """Softmax(q kᵀ / √E + mask) v, [C Q, H, E]."""
        if not self.query_CQ.numel():
            return q_CQHE.flatten(0, 1)
        k_CHKE, v_CHKE = (_rows(x, self.key_CK).transpose(1, 2) for x in (k_NHE, v_NHE))
        out_CHQE = scaled_dot_product_attention(q_CQHE.transpose(1, 2), k_CHKE, v_CHKE, self.mask_C1QK, dropout)
        return out_CHQE.transpose(1, 2).flatten(0, 1)


class BatchedAttention(NamedTuple):
    """Who sees whom in the windows of a batch, for one call of the fused kernel for all local and one for all global
    tokens of a layer.
    """

    of_locals: _Gather
    of_globals: _Gather
    place_N: Tensor  # of each token among the queries of both

    def attend(self, attention: LongformerSelfAttention, x_ND: Tensor) -> Tensor:
        """Self-attention before its output projection, [N, D]."""

        def heads(projection: nn.Linear, x_XD: Tensor) -> Tensor:
            return projection(x_XD).unflatten(-1, (-1, attention.head_dim))

        dropout = attention.dropout if attention.training else 0.0
        q_CQHE = _rows(heads(attention.query, x_ND), self.of_locals.query_CQ)
        global_q_BQHE = heads(attention.query_global, _rows(x_ND, self.of_globals.query_CQ))
        out_MHE = torch.cat(
            [
                self.of_locals.attended(q_CQHE, heads(attention.key, x_ND), heads(attention.value, x_ND), dropout),
                self.of_globals.attended(
                    global_q_BQHE, heads(attention.key_global, x_ND), heads(attention.value_global, x_ND), dropout
                ),
            ]
        )
        # What stands behind the last window means nothing, and may be any token's.
        place_N = pad(self.place_N, (0, len(x_ND) - len(self.place_N)))
        return out_MHE.index_select(0, place_N).flatten(1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], with a gradient that need not sort."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


def batched_attention(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> BatchedAttention:
    """What attention_by_hand.block_by_block finds, as tensors on the device, which is not waited for."""
    num_tokens = sum(lengths_B)
    most_local = max(1, *(length - num for length, num in zip(lengths_B, num_global_B, strict=True)))
    num_queries = -(-most_local // -(-most_local // BLOCK_TOKENS))  # blocks of about equal size
    blocks_B = [-(-(length - num) // num_queries) for length, num in zip(lengths_B, num_global_B, strict=True)]
    window_C = [window for window, number in enumerate(blocks_B) for _ in range(number)]
    nth_C = [nth for number in blocks_B for nth in range(number)]
    length_B, global_B = torch.tensor([lengths_B, num_global_B]).to(device, non_blocking=True)
    window_C, nth_C = torch.tensor([window_C, nth_C], dtype=torch.long).to(device, non_blocking=True)
    first_B = length_B.cumsum(0) - length_B
    # Behind the last token stands a place for what no token looks at.
    place_N = torch.zeros(num_tokens + 1, dtype=torch.long, device=device)

    def upto(number: int) -> Tensor:
        return torch.arange(number, device=device)

    def gather(
        window_C: Tensor, start_C: Tensor, stop_B: Tensor, num_queries: int, num_global: int, num_near: int, reach: int,
        first_place: int,
    ) -> _Gather:  # fmt: skip
        """Of each block the queries from ``start_C`` on, as far as ``stop_B``, which see so many global tokens and
        those within reach, of which there are no more than ``num_near``.
        """
        num_near += -(num_global + num_near) % KEYS_MULTIPLE
        first_C, length_C, stop_C = first_B[window_C], length_B[window_C], stop_B[window_C]
        seen_C = global_B[window_C] if num_global else torch.zeros_like(first_C)
        query_CQ = start_C[:, None] + upto(num_queries)
        near_C = torch.maximum(seen_C, torch.minimum(start_C - reach, length_C - num_near))
        near_CK = near_C[:, None] + upto(num_near)
        global_CK = upto(num_global).expand(len(window_C), -1)
        is_seen_CK = torch.cat([global_CK < seen_C[:, None], near_CK < length_C[:, None]], dim=1)
        is_hidden_CQK = ~is_seen_CK[:, None, :].repeat(1, num_queries, 1)
        is_hidden_CQK[:, :, num_global:] |= (query_CQ[:, :, None] - near_CK[:, None, :]).abs() > reach
        mask_CQK = torch.zeros(is_hidden_CQK.shape, dtype=dtype, device=device)
        mask_CQK.masked_fill_(is_hidden_CQK, torch.finfo(dtype).min)

        def tokens(place_CX: Tensor) -> Tensor:
            return first_C[:, None] + torch.minimum(place_CX, length_C[:, None] - 1)

        of_token_CQ = torch.where(query_CQ < stop_C[:, None], first_C[:, None] + query_CQ, num_tokens)
        place_N.scatter_(0, of_token_CQ.flatten(), first_place + upto(of_token_CQ.numel()))
        return _Gather(tokens(query_CQ), tokens(torch.cat([global_CK, near_CK], dim=1)), mask_CQK[:, None])

    num_global, longest = max(num_global_B), max(lengths_B)
    start_C = global_B[window_C] + nth_C * num_queries
    num_near = min(num_queries + 2 * reach, most_local)
    of_locals = gather(window_C, start_C, length_B, num_queries, num_global, num_near, reach, 0)
    windows, zeros = upto(len(lengths_B)), torch.zeros_like(length_B)
    of_globals = gather(windows, zeros, global_B, num_global, 0, longest, longest, of_locals.query_CQ.numel())
    return BatchedAttention(of_locals, of_globals, place_N[:-1])
