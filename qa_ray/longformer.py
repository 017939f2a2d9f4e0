"""Longformer question answering, exact: transformers' weights, modules and logits, another way to attend.

transformers pads every batch to a multiple of the attention window and moves the scores through several padded copies
of the band. Here the band is a loop over blocks of queries: a block attends, in one scaled_dot_product_attention
call, to the global tokens and to the tokens within reach of the block. As the global tokens are the first tokens of
the window (CLS and the question), the keys of a block are the prefix [0, G) and a slice, with no token in both, and a
window no longer than a block is dense attention with a mask.

Two more savings of operations were tried (6 layers, 384 wide, two CPU cores, windows of 170 to 4,096 tokens) and left
out. One product for all five projections is between 9 % slower and 5 % faster, and five keep the parameters those of
transformers. Attending from the global tokens to the hidden states themselves, with W_k^T q as queries, so that no
token needs global keys and values, is 3 % slower to 10 % faster in float32 and up to 15 % slower in bfloat16.

Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 3. The details follow
transformers.models.longformer.modeling_longformer.

Shapes: B windows, T tokens, D width, H heads, E width of a head, G most global tokens of a window in the batch,
Q queries of a block, K keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import LongformerForQuestionAnswering, LongformerModel
    from transformers.models.longformer.modeling_longformer import LongformerLayer, LongformerSelfAttention

# A block of Q queries computes Q + 2 w scores a query where 2 w + 1 are needed, so fewer is less work, but the CPU
# kernel is slower with under 192 queries. With w = 256, T = 4096 in float32: 128 took 3 % longer, 512 took 13 %.
BLOCK_TOKENS = 256


class LongformerQA(nn.Module):
    """Start and end logits of right-padded windows whose first tokens attend globally.

    The parameters, their names and the dropouts are those of the transformers model, which is changed when this is
    trained, moved or cast: its save_pretrained saves what was trained here.
    """

    def __init__(self, longformer: LongformerModel, qa_outputs: nn.Linear):
        super().__init__()
        self.longformer = longformer
        self.qa_outputs = qa_outputs
        positions = longformer.embeddings.position_embeddings
        # Positions are counted from padding_idx + 1 (fairseq's make_positions).
        self.max_tokens = positions.num_embeddings - longformer.embeddings.padding_idx - 1

    @classmethod
    def from_transformers(cls, model: LongformerForQuestionAnswering) -> LongformerQA:
        return cls(model.longformer, model.qa_outputs)

    def forward(self, input_ids_BT: Tensor, lengths_B: Tensor, num_global_B: Tensor) -> tuple[Tensor, Tensor]:
        """start_logits_BT and end_logits_BT, float32; those of padding mean nothing.

        Window b has lengths_B[b] tokens, of which the first num_global_B[b] attend to all and are attended by all.
        T need not be a multiple of anything. All on the device of the weights; reads two numbers back from it.
        """
        num_tokens = input_ids_BT.shape[1]
        if num_tokens > self.max_tokens:
            raise ValueError(
                f"a window has {num_tokens} tokens, the model has positions for {self.max_tokens}; shorten the windows"
            )
        x_BTD = self.longformer.embeddings(input_ids_BT)
        layers = cast("list[LongformerLayer]", self.longformer.encoder.layer)
        reaches = {layer.attention.self.one_sided_attn_window_size for layer in layers}
        views = _views(lengths_B, num_global_B, num_tokens, reaches, x_BTD.dtype)
        for layer in layers:
            view = views[layer.attention.self.one_sided_attn_window_size]
            x_BTD = layer.attention.output(_attend(layer.attention.self, x_BTD, view), x_BTD)
            x_BTD = layer.ff_chunk(x_BTD)
        # In float32: rounded to bfloat16, many of a window's logits would be equal.
        logits_BT2 = linear(x_BTD.float(), self.qa_outputs.weight.float(), self.qa_outputs.bias.float())
        start_logits_BT, end_logits_BT = logits_BT2.unbind(-1)
        return start_logits_BT, end_logits_BT


class _Block(NamedTuple):
    """Some neighbouring queries, and the keys that they see: the first num_prefix tokens, then those within reach."""

    queries: slice
    num_prefix: int
    near: slice
    mask: Tensor | None = None  # [B, 1, Q, K]

    def keys(self, x_TE: Tensor) -> Tensor:
        """The rows of x that are keys, [..., T, E] -> [..., K, E]: a view where that can be."""
        near_KE = x_TE[..., self.near, :]
        return torch.cat([x_TE[..., : self.num_prefix, :], near_KE], dim=-2) if self.num_prefix else near_KE


class _View(NamedTuple):
    """Who sees whom, for layers of one reach. Masks are added to the scores; None hides nothing."""

    is_global: Tensor  # [B, G, 1]
    padding_mask: Tensor | None  # [B, 1, 1, T]
    blocks: list[_Block]


def _views(
    lengths_B: Tensor, num_global_B: Tensor, num_tokens: int, reaches: set[int], dtype: torch.dtype
) -> dict[int, _View]:
    """The view for every reach: how far a local query sees on either side, attention_window / 2."""
    position_T = torch.arange(num_tokens, device=lengths_B.device)
    is_real_BT = position_T < lengths_B[:, None]
    is_global_BT = position_T < num_global_B[:, None]
    # The only wait for the device. At least one global row (which nothing need use), so that no tensor is empty.
    min_length, max_global = torch.stack([lengths_B.min(), num_global_B.max().clamp(min=1)]).tolist()
    is_padded = min_length < num_tokens

    def masked(block: _Block, reach: int) -> _Block:
        if not is_padded and num_tokens <= reach + 1:
            return block
        key_K = block.keys(position_T[:, None]).flatten()
        is_near_QK = (position_T[block.queries, None] - key_K).abs() <= reach
        is_seen_BQK = is_global_BT[:, None, key_K] | (is_real_BT[:, None, key_K] & is_near_QK)
        return block._replace(mask=_mask(is_seen_BQK, dtype)[:, None])

    return {
        reach: _View(
            is_global=is_global_BT[:, :max_global, None],
            padding_mask=_mask(is_real_BT, dtype)[:, None, None] if is_padded else None,
            blocks=[masked(block, reach) for block in _blocks(num_tokens, max_global, reach)],
        )
        for reach in reaches
    }


def _blocks(num_tokens: int, num_global: int, reach: int) -> Iterator[_Block]:
    """The global tokens as a block of their own, for the windows that have fewer of them; then the others."""
    starts = [0, *range(num_global, num_tokens, BLOCK_TOKENS), num_tokens]
    for start, stop in pairwise(starts):
        first, last = start - reach, min(stop + reach, num_tokens)
        is_apart = first > num_global  # from the global tokens; else they and the near ones are one slice
        yield _Block(slice(start, stop), num_global if is_apart else 0, slice(first if is_apart else 0, last))


def _mask(is_seen: Tensor, dtype: torch.dtype) -> Tensor:
    # Not -inf: a padding query that sees nothing then gets a mean, not NaN, which the next layer would spread.
    # Not bool: the CPU kernel would convert it at every call.
    return torch.zeros_like(is_seen, dtype=dtype).masked_fill_(~is_seen, torch.finfo(dtype).min)


def _attend(attention: LongformerSelfAttention, x_BTD: Tensor, view: _View) -> Tensor:
    """Self-attention before its output projection, [B, T, D]."""
    dropout = attention.dropout if attention.training else 0.0

    def heads(projection: nn.Linear, x_BTD: Tensor) -> Tensor:
        return projection(x_BTD).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)

    def attended(q_BHQE: Tensor, k_BHKE: Tensor, v_BHKE: Tensor, mask: Tensor | None) -> Tensor:
        out_BHQE = scaled_dot_product_attention(q_BHQE, k_BHKE, v_BHKE, mask, dropout)
        return out_BHQE.transpose(1, 2).flatten(2)

    q_BHTE, k_BHTE, v_BHTE = (heads(p, x_BTD) for p in (attention.query, attention.key, attention.value))
    prefix_BGD, *rest_BQD = (
        attended(q_BHTE[:, :, block.queries], block.keys(k_BHTE), block.keys(v_BHTE), block.mask)
        for block in view.blocks
    )
    global_BGD = attended(
        heads(attention.query_global, x_BTD[:, : prefix_BGD.shape[1]]),
        heads(attention.key_global, x_BTD),
        heads(attention.value_global, x_BTD),
        view.padding_mask,
    )
    return torch.cat([torch.where(view.is_global, global_BGD, prefix_BGD), *rest_BQD], dim=1)
