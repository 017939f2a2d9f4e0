"""The model families that differ from transformers' defaults, one entry each: the seam for adding a family.

A family that is not in the table runs in transformers' own forward pass on padded batches, and cannot be lengthened.
Whatever a checkpoint's family is, model.proof compares it with transformers before it answers. The entries hold no
tensors and the forward passes are imported on first use, so that checking a checkpoint does not load them.
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

    head: str = "qa_outputs"  # the name of the layer that gives two logits for each token
    pads: bool = True  # False: padding would reach the real tokens, so only windows of one length run together
    make_backend: Callable[[Any, int], nn.Module] | None = None  # None: transformers' own forward pass
    layers_not_prepacked: frozenset[str] = frozenset()
    can_lengthen: bool = False  # whether model.lengthen converts it to Longformer
    why_refused: str | None = None  # what keeps its answers from being exact, where a short window does not show it


def _make_longformer(model: Any, document_type_id: int) -> nn.Module:  # Longformer has no token types
    from qa_ray.model.longformer.model import LongformerQA

    return LongformerQA.from_transformers(model)


_SPARSE_ATTENTION = "its sparse attention turns into a full one, for good, with the first short window"
_OTHER_HEAD = "its head is not a layer of two logits for each token"

# By transformers' model_type.
FAMILIES: dict[str, Family] = {
    "bert": Family(can_lengthen=True),
    "roberta": Family(can_lengthen=True),
    "longformer": Family(
        make_backend=_make_longformer,
        layers_not_prepacked=frozenset({"key_global", "value_global"}),
    ),
    "modernbert": Family(head="classifier"),
    "convbert": Family(pads=False),  # its convolutions run over the padding
    "fnet": Family(pads=False),  # its Fourier transform mixes all tokens
    "funnel": Family(pads=False),  # it pools neighbors
    "mobilebert": Family(pads=False),  # it embeds neighbors
    "nystromformer": Family(pads=False),  # a convolution, too
    "yoso": Family(pads=False),
    "big_bird": Family(why_refused=_SPARSE_ATTENTION),
    "bigbird_pegasus": Family(why_refused=_SPARSE_ATTENTION),
    "lxmert": Family(why_refused=_OTHER_HEAD),
    "mra": Family(why_refused="without a CUDA kernel of its own its attention gives zeros"),
    "reformer": Family(why_refused="its attention hashes at random"),
    "splinter": Family(why_refused=_OTHER_HEAD),
}
OTHER_FAMILIES = "take a checkpoint of another family: BERT, RoBERTa, XLM-RoBERTa, DeBERTa, ModernBERT or Longformer"


def find_family(model_type: str | None) -> Family:
    """The entry of FAMILIES, or the defaults."""
    return FAMILIES.get(model_type or "", Family())
