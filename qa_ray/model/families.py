"""The model families that differ from transformers' defaults, one entry each: the seam for adding a family.

A family that is not in the table has position ids from 0, runs in transformers' own forward pass, and cannot be
lengthened. The entries hold no tensors and the forward passes are imported on first use, so that checking a checkpoint
does not load them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """What a family's ``config.json`` does not say.

    ``make_backend`` takes the transformers model and the document's token type id, and returns a module with

        forward(input_ids_N, lengths_B, num_prefix_tokens_B) -> (start_logits_N, end_logits_N)    both float32

    over packed windows: B windows of ``lengths_B`` tokens, concatenated without padding. Of each, the first
    ``num_prefix_tokens_B`` tokens are the first special token and the question. Further tokens may follow the last
    window; their logits are ignored. ``layers_not_prepacked`` names linear layers whose float32 weights that module
    reads itself (model.cpu_linear).
    """

    positions_after_padding: bool = False  # position ids start at pad_token_id + 1 (make_positions of fairseq)
    make_backend: Callable[[Any, int], nn.Module] | None = None  # None: transformers' own forward pass
    layers_not_prepacked: frozenset[str] = frozenset()
    can_lengthen: bool = False  # whether model.lengthen converts it to Longformer

    def first_position(self, pad_token_id: int | None) -> int:
        """The position id of a window's first token."""
        return (pad_token_id or 0) + 1 if self.positions_after_padding else 0


def _make_longformer(model: Any, document_type_id: int) -> nn.Module:  # Longformer has no token types
    from qa_ray.model.longformer.model import LongformerQA

    return LongformerQA.from_transformers(model)


# By transformers' model_type.
FAMILIES: dict[str, Family] = {
    "bert": Family(can_lengthen=True),
    "roberta": Family(positions_after_padding=True, can_lengthen=True),
    "longformer": Family(
        positions_after_padding=True,
        make_backend=_make_longformer,
        layers_not_prepacked=frozenset({"key_global", "value_global"}),
    ),
    "camembert": Family(positions_after_padding=True),
    "data2vec-text": Family(positions_after_padding=True),
    "mpnet": Family(positions_after_padding=True),
    "roberta-prelayernorm": Family(positions_after_padding=True),
    "xlm-roberta": Family(positions_after_padding=True),
    "xlm-roberta-xl": Family(positions_after_padding=True),
}


def find_family(model_type: str | None) -> Family:
    """The entry of FAMILIES, or the defaults."""
    return FAMILIES.get(model_type or "", Family())
