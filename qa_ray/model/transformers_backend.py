"""transformers' question answering behind qa-ray's interface: packed windows in, packed logits out.

For the model, the windows of a batch are padded to the longest one; the padding is removed from its logits. It is the
forward pass of every family that has none of its own in model.families.

Shapes: B windows, N tokens of all windows (packed), L tokens of the longest window with its padding.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qa_ray.model.families import find_family

# Lengths are rounded up to a multiple of this: CPU kernels cache something for every shape they see.
ROUND_WINDOW = 16


class TransformersBackend(nn.Module):
    """Start and end logits of packed windows, by any encoder that AutoModelForQuestionAnswering loads.

    ``document_type_id`` is the token type of a window's document.
    """

    def __init__(self, model: nn.Module, document_type_id: int = 0):
        super().__init__()
        self.model: Any = model
        self.document_type_id = document_type_id
        config = self.model.config
        self._pad_id: int = config.pad_token_id or 0
        # Lower bound on the positions, also of families that are not in the table but count from the padding's id + 1.
        first_position = max(find_family(config.model_type).first_position(self._pad_id), self._pad_id + 1)
        self.max_tokens: int = config.max_position_embeddings - first_position
        parameters = inspect.signature(self.model.forward).parameters
        self._has_token_types = "token_type_ids" in parameters and getattr(config, "type_vocab_size", 0) > 1
        self._has_global_attention = "global_attention_mask" in parameters

    def forward(
        self, input_ids_N: Tensor, lengths_B: Sequence[int], num_prefix_tokens_B: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """start_logits_N and end_logits_N, float32.

        Window b has lengths_B[b] tokens. Its first num_prefix_tokens_B[b] tokens are the first special token and the
        question, which attend globally in families with global attention.
        """
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
            inputs["token_type_ids"] = ((position_L > num_prefix_tokens_B1) & real_BL) * self.document_type_id
        output = self.model(**inputs)
        return output.start_logits[real_BL].float(), output.end_logits[real_BL].float()

    def padded_length(self, lengths_B: Sequence[int]) -> int:
        """The tokens of each window of a batch, padding included; not more than there are positions."""
        longest = max(lengths_B)
        return max(longest, min(-(-longest // ROUND_WINDOW) * ROUND_WINDOW, self.max_tokens))
