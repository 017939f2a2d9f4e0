"""Longformer question answering, exact: transformers' weights, modules and logits, another way to attend.

transformers pads every batch to a multiple of the attention window and moves the scores through several padded copies
of the band. Here the windows of a batch lie end to end, without padding: what works token by token (projections,
feed-forward, norms) sees one long row, and attention works on blocks of queries. A block attends to the global
tokens of its window and to the tokens within reach of the block. As the global tokens are the first tokens of the
window (CLS and the question), the keys of a block are that prefix and a slice, with no token in both. A CPU takes block
by block, whose scores then stay in its cache; a GPU takes all blocks of a batch in one call of the fused kernel.

Two more savings of operations were tried (6 layers, 384 wide, two CPU cores, windows of 170 to 4,096 tokens) and left
out. One product for all five projections is between 9 % slower and 5 % faster, and five keep the parameters those of
transformers. Attending from the global tokens to the hidden states themselves, with W_k^T q as queries, so that no
token needs global keys and values, is 3 % slower to 10 % faster in float32 and up to 15 % slower in bfloat16.

Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 3. The details follow
transformers.models.longformer.modeling_longformer.

Shapes: B windows, N tokens of all windows, D width, H heads, E width of a head, C blocks, Q queries of a block, K keys
of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import LongformerForQuestionAnswering, LongformerModel
    from transformers.models.longformer.modeling_longformer import LongformerLayer, LongformerSelfAttention

# A block of Q queries computes Q + 2 w scores a query where 2 w + 1 are needed, so fewer is less work. With w = 256 on
# two CPU cores, 128 queries at a time took 3 to 19 % less than 256.
BLOCK_TOKENS = 128
# In the fused kernel's call every block has its own copy of its keys, so larger blocks are less to copy.
FUSED_BLOCK_TOKENS = 256
FUSED_KEYS_MULTIPLE = 16  # it would copy the mask if a row of it began elsewhere
# A CPU takes so many tokens at a time: what is in between is four times as wide, and stays in the cache.
FEED_FORWARD_TOKENS = 1024
# Blocks of few different shapes: the bfloat16 kernels are compiled for each, which takes time and memory.
FILL_MULTIPLE = 32


class LongformerQA(nn.Module):
    """Start and end logits of windows whose first tokens attend globally.

    The parameters, their names and the dropouts are those of the transformers model, which is changed when this is
    trained, moved or cast: its save_pretrained saves what was trained here.
    """

    always_fused = False  # True: a CPU attends as a GPU does

    def __init__(self, longformer: LongformerModel, qa_outputs: nn.Linear):
        super().__init__()
        self.gradient_checkpointing = False  # True: in training, what is between the layers is kept, the rest made anew
        self.longformer = longformer
        self.qa_outputs = qa_outputs
        positions = longformer.embeddings.position_embeddings
        # Positions are counted from padding_idx + 1 (fairseq's make_positions).
        self.max_tokens = positions.num_embeddings - longformer.embeddings.padding_idx - 1

    @classmethod
    def from_transformers(cls, model: LongformerForQuestionAnswering) -> LongformerQA:
        return cls(model.longformer, model.qa_outputs)

    def forward(
        self, input_ids_N: Tensor, lengths_B: Sequence[int], num_global_B: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """start_logits_N and end_logits_N, float32, of windows that lie end to end.

        Window b has lengths_B[b] tokens, of which the first num_global_B[b] attend to all and are attended by all.
        Tokens behind the last window are padding; their logits mean nothing.
        """
        if max(lengths_B) > self.max_tokens:
            raise ValueError(
                f"a window has {max(lengths_B)} tokens, the model has positions for {self.max_tokens}; "
                "shorten the windows"
            )
        embeddings = self.longformer.embeddings
        num_padding = len(input_ids_N) - sum(lengths_B)
        position_N = torch.cat([torch.arange(length) for length in (*lengths_B, num_padding)]) + embeddings.padding_idx
        position_N = (position_N + 1).to(input_ids_N.device)
        x_ND = embeddings(input_ids_N[None], position_ids=position_N[None])[0]
        layers = cast("list[LongformerLayer]", self.longformer.encoder.layer)
        reaches = {layer.attention.self.one_sided_attn_window_size for layer in layers}
        # Their own mode: this module is new, and in training, also round a model that was set to eval.
        drops = any(layer.attention.self.training and layer.attention.self.dropout for layer in layers)
        given = lengths_B, num_global_B, _dtype(x_ND), x_ND.device
        by_reach = (
            _blocks
            if x_ND.is_cpu and not (drops or self.always_fused)
            else partial(_fused_blocks, num_tokens=len(x_ND))
        )
        blocks = {reach: by_reach(reach, *given) for reach in reaches}
        for layer in layers:
            own_blocks = blocks[layer.attention.self.one_sided_attn_window_size]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_ND = cast("Tensor", checkpoint(_layer, layer, x_ND, own_blocks, use_reentrant=False))
            else:
                x_ND = _layer(layer, x_ND, own_blocks)
        # In float32: rounded to bfloat16, many of a window's logits would be equal.
        logits_N2 = linear(x_ND.float(), self.qa_outputs.weight.float(), self.qa_outputs.bias.float())
        start_logits_N, end_logits_N = logits_N2.unbind(-1)
        return start_logits_N, end_logits_N


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


class _Blocks(NamedTuple):
    """Who sees whom in the windows of a batch, for layers of one reach."""

    windows: list[slice]  # the tokens of each
    of_locals: list[list[_Block]]
    of_globals: list[_Block]  # one a window; their queries are counted among all global tokens


def _dtype(x: Tensor) -> torch.dtype:
    """What products of x are computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _blocks(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> _Blocks:
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
        # Not bool: the CPU kernel would convert it at every call.
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

    blocks = _Blocks([], [], [])
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


class _FusedBlocks(NamedTuple):
    """Who sees whom in the windows of a batch, for one call of the fused kernel for all local and one for all global
    tokens of a layer.
    """

    of_locals: _Gather
    of_globals: _Gather
    place_N: Tensor  # of each token among the queries of both


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index], with a gradient that need not sort."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


def _fused_blocks(
    reach: int,
    lengths_B: Sequence[int],
    num_global_B: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    num_tokens: int,
) -> _FusedBlocks:
    """What _blocks finds, as tensors on the device, which is not waited for."""
    most_local = max(1, *(length - num for length, num in zip(lengths_B, num_global_B, strict=True)))
    num_queries = -(-most_local // -(-most_local // FUSED_BLOCK_TOKENS))  # blocks of about equal size
    blocks_B = [-(-(length - num) // num_queries) for length, num in zip(lengths_B, num_global_B, strict=True)]
    window_C = [window for window, number in enumerate(blocks_B) for _ in range(number)]
    nth_C = [nth for number in blocks_B for nth in range(number)]
    length_B, global_B = torch.tensor([lengths_B, num_global_B]).to(device)
    window_C, nth_C = torch.tensor([window_C, nth_C], dtype=torch.long).to(device)
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
        num_near += -(num_global + num_near) % FUSED_KEYS_MULTIPLE
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
    return _FusedBlocks(of_locals, of_globals, place_N[:-1])


def _layer(layer: LongformerLayer, x_ND: Tensor, blocks: _Blocks | _FusedBlocks) -> Tensor:
    x_ND = layer.attention.output(_attend(layer.attention.self, x_ND, blocks), x_ND)
    if not x_ND.is_cpu:
        return layer.ff_chunk(x_ND)
    return torch.cat([layer.ff_chunk(some) for some in x_ND.split(FEED_FORWARD_TOKENS)])


def _attend(attention: LongformerSelfAttention, x_ND: Tensor, blocks: _Blocks | _FusedBlocks) -> Tensor:
    """Self-attention before its output projection, [N, D]."""
    x_ND = x_ND.to(_dtype(x_ND))  # once for all projections
    if isinstance(blocks, _Blocks):
        return _attend_by_hand(attention, x_ND, blocks)
    return _attend_fused(attention, x_ND, blocks)


def _attend_by_hand(attention: LongformerSelfAttention, x_ND: Tensor, blocks: _Blocks) -> Tensor:
    def heads(projection: nn.Linear, x_ND: Tensor) -> Tensor:
        x_HNE = projection(x_ND).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
        return pad(x_HNE, (0, 0, 0, FILL_MULTIPLE)).contiguous()  # the last block is filled up, too

    global_x_GD = torch.cat([x_ND[b.start : b.start + b.num_queries] for b in blocks.of_globals])
    return _ByHand.apply(
        len(x_ND),
        blocks,
        *(heads(projection, x_ND) for projection in (attention.query, attention.key, attention.value)),
        heads(attention.query_global, pad(global_x_GD, (0, 0, 0, -len(global_x_GD) % FILL_MULTIPLE))),
        heads(attention.key_global, x_ND),
        heads(attention.value_global, x_ND),
    )


def _attend_fused(attention: LongformerSelfAttention, x_ND: Tensor, blocks: _FusedBlocks) -> Tensor:
    def heads(projection: nn.Linear, x_XD: Tensor) -> Tensor:
        return projection(x_XD).unflatten(-1, (-1, attention.head_dim))

    dropout = attention.dropout if attention.training else 0.0
    of_locals, of_globals = blocks.of_locals, blocks.of_globals
    q_CQHE = _rows(heads(attention.query, x_ND), of_locals.query_CQ)
    global_q_BQHE = heads(attention.query_global, _rows(x_ND, of_globals.query_CQ))
    out_MHE = torch.cat(
        [
            of_locals.attended(q_CQHE, heads(attention.key, x_ND), heads(attention.value, x_ND), dropout),
            of_globals.attended(
                global_q_BQHE, heads(attention.key_global, x_ND), heads(attention.value_global, x_ND), dropout
            ),
        ]
    )
    return out_MHE.index_select(0, blocks.place_N).flatten(1)


class _ByHand(torch.autograd.Function):
    """Softmax(q kᵀ / √E + mask) v of all blocks, [N, D], by products one by one, with its gradient.

    On a CPU that is faster than the fused kernel: by 1.2 to 1.7 times in float32, 1.5 to 2.1 in bfloat16 (128 queries
    with 654 keys and 170 with 170, 12 heads of 32 or 64, two cores of an AMD EPYC). Learning in bfloat16 is
    1.1 to 1.4 times faster with windows of 384 tokens and 1.5 times with 4,096: autograd would make a gradient as large
    as all tokens for every block's slice of them.
    """

    @staticmethod
    def forward(ctx: Any, num_tokens: int, blocks: _Blocks, *qkv: Tensor) -> Tensor:
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
            for window, of_locals, of_globals in zip(*ctx.blocks[:3], strict=True):
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
