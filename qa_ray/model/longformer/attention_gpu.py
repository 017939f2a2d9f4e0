"""Batched attention of a Longformer layer for GPUs, and for dropout: two calls of the fused kernel.

All blocks of a batch are gathered into one call for the local tokens and one for the global ones. Block by block, a
window would take about a thousand kernel launches.

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

# Every block has its own copy of its keys, so larger blocks copy less.
BLOCK_TOKENS = 256
KEYS_MULTIPLE = 16  # the kernel would copy a mask whose rows are not aligned to this


class _Gather(NamedTuple):
    """Blocks of one shape; padding keys are masked, the output of padding queries is unused."""

    query_CQ: Tensor  # tokens, as indices into the batch
    key_CK: Tensor
    mask_C1QK: Tensor  # added to the scores, for all heads

    def attend(self, q_CQHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, dropout: float) -> Tensor:
        """Softmax(q kᵀ / √E + mask) v, [C Q, H, E]."""
        if not self.query_CQ.numel():
            return q_CQHE.flatten(0, 1)
        k_CHKE, v_CHKE = (_rows(x, self.key_CK).transpose(1, 2) for x in (k_NHE, v_NHE))
        out_CHQE = scaled_dot_product_attention(q_CQHE.transpose(1, 2), k_CHKE, v_CHKE, self.mask_C1QK, dropout)
        return out_CHQE.transpose(1, 2).flatten(0, 1)


class BatchedAttention(NamedTuple):
    """The blocks of a batch of windows, for layers of one reach: one kernel call for all local tokens of a layer, and
    one for all global tokens.
    """

    local_blocks: _Gather
    global_blocks: _Gather
    query_index_N: Tensor  # of each token among the queries of both

    def attend(self, attention: LongformerSelfAttention, x_ND: Tensor) -> Tensor:
        """Self-attention before its output projection, [N, D]."""

        def heads(projection: nn.Linear, x_XD: Tensor) -> Tensor:
            return projection(x_XD).unflatten(-1, (-1, attention.head_dim))

        dropout = attention.dropout if attention.training else 0.0
        q_CQHE = _rows(heads(attention.query, x_ND), self.local_blocks.query_CQ)
        global_q_BQHE = heads(attention.query_global, _rows(x_ND, self.global_blocks.query_CQ))
        out_MHE = torch.cat(
            [
                self.local_blocks.attend(q_CQHE, heads(attention.key, x_ND), heads(attention.value, x_ND), dropout),
                self.global_blocks.attend(
                    global_q_BQHE, heads(attention.key_global, x_ND), heads(attention.value_global, x_ND), dropout
                ),
            ]
        )
        # Padding after the last window: its output is unused, and may be any token's.
        query_index_N = pad(self.query_index_N, (0, len(x_ND) - len(self.query_index_N)))
        return out_MHE.index_select(0, query_index_N).flatten(1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], with a gradient that needs no sort."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


def batched_attention(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> BatchedAttention:
    """The blocks of attention_cpu.blockwise_attention, as tensors on the device, without a synchronization."""
    num_tokens = sum(lengths_B)
    most_local = max(1, *(length - num for length, num in zip(lengths_B, num_global_B, strict=True)))
    num_queries = -(-most_local // -(-most_local // BLOCK_TOKENS))  # blocks of about equal size
    num_blocks_B = [-(-(length - num) // num_queries) for length, num in zip(lengths_B, num_global_B, strict=True)]
    window_C = [window for window, num_blocks in enumerate(num_blocks_B) for _ in range(num_blocks)]
    nth_C = [nth for num_blocks in num_blocks_B for nth in range(num_blocks)]
    length_B, global_B = torch.tensor([lengths_B, num_global_B]).to(device, non_blocking=True)
    window_C, nth_C = torch.tensor([window_C, nth_C], dtype=torch.long).to(device, non_blocking=True)
    first_B = length_B.cumsum(0) - length_B
    # One more entry, for the queries that are padding.
    query_index_N = torch.zeros(num_tokens + 1, dtype=torch.long, device=device)

    def arange(stop: int) -> Tensor:
        return torch.arange(stop, device=device)

    def gather(
        window_C: Tensor, start_C: Tensor, stop_B: Tensor, num_queries: int, num_global: int, num_near: int, reach: int,
        first_query: int,
    ) -> _Gather:  # fmt: skip
        """Blocks of ``num_queries`` queries from ``start_C`` on, up to ``stop_B``, with ``num_global`` global keys and
        the keys within reach, at most ``num_near``.
        """
        num_near += -(num_global + num_near) % KEYS_MULTIPLE
        first_C, length_C, stop_C = first_B[window_C], length_B[window_C], stop_B[window_C]
        num_global_C = global_B[window_C] if num_global else torch.zeros_like(first_C)
        query_CQ = start_C[:, None] + arange(num_queries)
        near_start_C = torch.maximum(num_global_C, torch.minimum(start_C - reach, length_C - num_near))
        near_CK = near_start_C[:, None] + arange(num_near)
        global_CK = arange(num_global).expand(len(window_C), -1)
        is_key_CK = torch.cat([global_CK < num_global_C[:, None], near_CK < length_C[:, None]], dim=1)
        is_masked_CQK = ~is_key_CK[:, None, :].repeat(1, num_queries, 1)
        is_masked_CQK[:, :, num_global:] |= (query_CQ[:, :, None] - near_CK[:, None, :]).abs() > reach
        mask_CQK = torch.zeros(is_masked_CQK.shape, dtype=dtype, device=device)
        mask_CQK.masked_fill_(is_masked_CQK, torch.finfo(dtype).min)

        def tokens(offset_CX: Tensor) -> Tensor:
            return first_C[:, None] + torch.minimum(offset_CX, length_C[:, None] - 1)

        token_CQ = torch.where(query_CQ < stop_C[:, None], first_C[:, None] + query_CQ, num_tokens)
        query_index_N.scatter_(0, token_CQ.flatten(), first_query + arange(token_CQ.numel()))
        return _Gather(tokens(query_CQ), tokens(torch.cat([global_CK, near_CK], dim=1)), mask_CQK[:, None])

    num_global, longest = max(num_global_B), max(lengths_B)
    start_C = global_B[window_C] + nth_C * num_queries
    num_near = min(num_queries + 2 * reach, most_local)
    local_blocks = gather(window_C, start_C, length_B, num_queries, num_global, num_near, reach, 0)
    windows, zeros = arange(len(lengths_B)), torch.zeros_like(length_B)
    num_local_queries = local_blocks.query_CQ.numel()
    global_blocks = gather(windows, zeros, global_B, num_global, 0, longest, longest, num_local_queries)
    return BatchedAttention(local_blocks, global_blocks, query_index_N[:-1])
