"""Longformer question answering, exact: the weights, modules and logits of transformers with faster attention.

transformers pads every batch to a multiple of the attention window and moves the scores through several padded copies
of the band. Here the windows of a batch are packed (concatenated without padding): token-wise operations (projections,
feed-forward, norms) run on one long row, and attention runs on blocks of queries. A block attends to the global tokens
of its window and to the tokens within reach of the block. As the global tokens are the first tokens of the window (CLS
and the question), the keys of a block are that prefix and a slice, with no token in both. A CPU computes one block at a
time, whose scores then stay in its cache (attention_cpu); a GPU computes all blocks of a batch at once (attention_gpu).

One product for all five projections was tried (6 layers, width 384, two CPU cores, windows of 170 to 4,096 tokens) and
rejected: it is between 9 % slower and 5 % faster, and five products keep the parameters of transformers.

Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 3. The details follow
transformers.models.longformer.modeling_longformer.

Shapes: B windows, N tokens of all windows (packed), G global tokens, D width, H heads, E width of a head, C blocks, Q
queries of a block, K keys of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from qa_ray.model.longformer.attention_cpu import BlockwiseAttention, blockwise_attention
from qa_ray.model.longformer.attention_gpu import BatchedAttention, batched_attention

if TYPE_CHECKING:
    from transformers import LongformerForQuestionAnswering, LongformerModel
    from transformers.models.longformer.modeling_longformer import LongformerLayer

# A CPU computes this many tokens at a time: the intermediate is four times as wide, and stays in the cache.
FEED_FORWARD_TOKENS = 1024


class LongformerQA(nn.Module):
    """Start and end logits of packed windows whose first tokens attend globally.

    The parameters, their names and the dropouts are those of the transformers model. They are shared: training, moving
    or casting this module changes that model, so its save_pretrained saves what was trained here.
    """

    always_batched = False  # True: batched attention on a CPU, too

    def __init__(self, longformer: LongformerModel, qa_outputs: nn.Linear):
        super().__init__()
        self.gradient_checkpointing = False  # True: training keeps only the layers' inputs and recomputes the rest
        self.longformer = longformer
        self.qa_outputs = qa_outputs
        positions = longformer.embeddings.position_embeddings
        # Position ids start at padding_idx + 1 (make_positions of fairseq).
        self.max_tokens = positions.num_embeddings - longformer.embeddings.padding_idx - 1

    @classmethod
    def from_transformers(cls, model: LongformerForQuestionAnswering) -> LongformerQA:
        return cls(model.longformer, model.qa_outputs)

    def forward(
        self, input_ids_N: Tensor, lengths_B: Sequence[int], num_global_B: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """start_logits_N and end_logits_N, float32, of packed windows.

        Window b has lengths_B[b] tokens, of which the first num_global_B[b] attend to all tokens of the window and are
        attended to by all. Tokens after the last window are padding; their logits are meaningless.

        Raises:
            ValueError: a window is longer than the model's positions.
        """
        if max(lengths_B) > self.max_tokens:
            raise ValueError(
                f"a window has {max(lengths_B)} tokens, the model has positions for {self.max_tokens}; "
                "shorten the windows"
            )
        embeddings = self.longformer.embeddings
        num_padding = len(input_ids_N) - sum(lengths_B)
        position_N = torch.cat([torch.arange(length) for length in (*lengths_B, num_padding)]) + embeddings.padding_idx
        position_N = (position_N + 1).to(input_ids_N.device, non_blocking=True)
        x_ND = embeddings(input_ids_N[None], position_ids=position_N[None])[0]
        layers = cast("list[LongformerLayer]", self.longformer.encoder.layer)
        reaches = {layer.attention.self.one_sided_attn_window_size for layer in layers}
        # The layers' mode: this module is created in training mode, even around a model in eval mode.
        has_dropout = any(layer.attention.self.training and layer.attention.self.dropout for layer in layers)
        is_blockwise = x_ND.is_cpu and not has_dropout and not self.always_batched
        make_blocks = blockwise_attention if is_blockwise else batched_attention
        blocks = {reach: make_blocks(reach, lengths_B, num_global_B, _dtype(x_ND), x_ND.device) for reach in reaches}
        for layer in layers:
            layer_blocks = blocks[layer.attention.self.one_sided_attn_window_size]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_ND = cast("Tensor", checkpoint(_layer, layer, x_ND, layer_blocks, use_reentrant=False))
            else:
                x_ND = _layer(layer, x_ND, layer_blocks)
        # In float32: rounded to bfloat16, many of a window's logits would be equal.
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_N2 = linear(x_ND.float(), self.qa_outputs.weight.float(), self.qa_outputs.bias.float())
        start_logits_N, end_logits_N = logits_N2.unbind(-1)
        return start_logits_N, end_logits_N


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of x are computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _layer(layer: LongformerLayer, x_ND: Tensor, blocks: BlockwiseAttention | BatchedAttention) -> Tensor:
    attended_ND = blocks.attend(layer.attention.self, x_ND.to(_dtype(x_ND)))  # cast once for all projections
    x_ND = layer.attention.output(attended_ND, x_ND)
    if not x_ND.is_cpu:
        return layer.ff_chunk(x_ND)
    return torch.cat([layer.ff_chunk(chunk_ND) for chunk_ND in x_ND.split(FEED_FORWARD_TOKENS)])
