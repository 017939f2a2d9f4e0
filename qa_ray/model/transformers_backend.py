"""transformers' question answering behind qa-ray's interface: packed windows in, packed logits out.

For the model, the windows of a batch are padded to the longest one; the padding is removed from its logits. Where
padding would reach the real tokens (Family.pads), windows of one length run together instead, without any. It is the
forward pass of every family that has none of its own in model.families.

Shapes: B windows, N tokens of all windows (packed), L tokens of the longest window with its padding.
"""

import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from qa_ray.model.families import find_family
from qa_ray.model.positions import max_positions

# Lengths are rounded up to a multiple of this: CPU kernels cache something for every shape they see.
ROUND_WINDOW = 16


class TransformersBackend(nn.Module):
    """Start and end logits of packed windows, by any encoder that AutoModelForQuestionAnswering loads.

    ``document_type_id`` is the token type of a window's document; None if the tokenizer gives no token types.
    """

    def __init__(self, model: nn.Module, document_type_id: int | None = None):
        super().__init__()
        self.model: Any = model
        self.document_type_id = document_type_id
        config = self.model.config
        self._pad_id: int = config.pad_token_id or 0
        self._pads = find_family(config.model_type).pads
        self._has_token_types = document_type_id is not None and takes_token_types(model)
        # Longformer makes its mask from the separators if none is given, and LED makes none.
        self._has_global_attention = config.model_type == "longformer"
        self.max_tokens = max_positions(model)

    def forward(
        self, input_ids_N: Tensor, lengths_B: Sequence[int], num_prefix_tokens_B: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """start_logits_N and end_logits_N, float32.

        Window b has lengths_B[b] tokens. Its first num_prefix_tokens_B[b] tokens are the first special token and the
        question, which attend globally in families with global attention.
        """
        if self._pads:
            return self._run(input_ids_N, lengths_B, num_prefix_tokens_B)
        logits, first, b = [], 0, 0
        for length, group in groupby(lengths_B):
            num_windows = len(list(group))
            ids_N = input_ids_N[first : first + num_windows * length]
            logits.append(self._run(ids_N, [length] * num_windows, num_prefix_tokens_B[b : b + num_windows]))
            first, b = first + num_windows * length, b + num_windows
        start_logits, end_logits = zip(*logits, strict=True)
        return torch.cat(start_logits), torch.cat(end_logits)

    def _run(
        self, input_ids_N: Tensor, lengths_B: Sequence[int], num_prefix_tokens_B: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        device = input_ids_N.device
        lengths_B1, num_prefix_tokens_B1 = (
            torch.tensor(counts_B, device=device)[:, None] for counts_B in (lengths_B, num_prefix_tokens_B)
        )
        position_L = torch.arange(self.padded_length(lengths_B), device=device)
        real_BL = position_L < lengths_B1
        ids_BL = torch.full(real_BL.shape, self._pad_id, device=device)
        ids_BL[real_BL] = input_ids_N
        inputs = {"input_ids": ids_BL, "attention_mask": real_BL.long()}
        if self._has_global_attention:
            inputs["global_attention_mask"] = (position_L < num_prefix_tokens_B1).long()
        if self._has_token_types:
            # The first separator still belongs to the question's segment.
            inputs["token_type_ids"] = ((position_L > num_prefix_tokens_B1) & real_BL) * (self.document_type_id or 0)
        output = self.model(**inputs)
        return output.start_logits[real_BL].float(), output.end_logits[real_BL].float()

    def num_computed(self, lengths_B: Sequence[int]) -> int:
        """The tokens that a batch computes, padding included."""
        return len(lengths_B) * self.padded_length(lengths_B) if self._pads else sum(lengths_B)

    def padded_length(self, lengths_B: Sequence[int]) -> int:
        """The tokens of each window of a batch, padding included; not more than there are positions."""
        longest = max(lengths_B)
        if not self._pads:
            return longest
        return max(longest, min(-(-longest // ROUND_WINDOW) * ROUND_WINDOW, self.max_tokens))


def takes_token_types(model: Any) -> bool:
    """Whether the transformers model has embeddings for the token types of a question and a document."""
    return "token_type_ids" in inspect.signature(model.forward).parameters and (
        getattr(model.config, "type_vocab_size", 2) > 1  # XLM has no such entry, and uses its words' embeddings
    )
