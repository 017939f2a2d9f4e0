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
    position_padding_id: int | None = None  # takes the place of the config's pad_token_id for positions
    make_backend: Callable[[Any, int], nn.Module] | None = None  # None: transformers' own forward pass
    layers_not_prepacked: frozenset[str] = frozenset()
    can_lengthen: bool = False  # whether model.lengthen converts it to Longformer

    def first_position(self, pad_token_id: int | None) -> int:
        """The position id of a window's first token."""
        if not self.positions_after_padding:
            return 0
        return (self.position_padding_id if self.position_padding_id is not None else pad_token_id or 0) + 1


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
    "ibert": Family(positions_after_padding=True),
    "lilt": Family(positions_after_padding=True),  # from the text alone, without the layout
    "luke": Family(positions_after_padding=True),  # from the tokens alone, without entities
    "markuplm": Family(positions_after_padding=True),  # from the text alone, without XPaths
    "mpnet": Family(positions_after_padding=True, position_padding_id=1),  # whatever its pad_token_id
    "roberta-prelayernorm": Family(positions_after_padding=True),
    "xlm-roberta": Family(positions_after_padding=True),
    "xlm-roberta-xl": Family(positions_after_padding=True),
    "xmod": Family(positions_after_padding=True),  # its config.json must name a default_language
}


def find_family(model_type: str | None) -> Family:
    """The entry of FAMILIES, or the defaults."""
    return FAMILIES.get(model_type or "", Family())
