"""A BERT or RoBERTa checkpoint -> a Longformer with the same weights, for inputs several times as long.

The recipe of the Longformer paper (Beltagy et al. 2020, section 5): the learned position embeddings are repeated up to
the new length, and every query, key and value projection is copied for global attention. On inputs of at most half an
attention window, where every token sees every other, the outputs are those of the source (with all token types 0); on
longer ones it is a good start for fine-tuning.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LongformerConfig,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
)

from qa_ray.errors import ConfigError, ModelError
from qa_ray.io.storage import new_folder
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.families import FAMILIES, find_family
from qa_ray.model.positions import first_position
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.model.weights import load

SHARED_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


@dataclass(frozen=True)
class Lengthened:
    """The Longformer that was written."""

    output: str
    max_tokens: int
    attention_window: int
    num_parameters: int
    has_head: bool  # whether the source had a question-answering head

    def __str__(self) -> str:
        """The report for the terminal."""
        why = "it has not been trained on long inputs" if self.has_head else "its question-answering head is new"
        return (
            f"a Longformer of {self.num_parameters / 1e6:,.1f} M parameters, for {self.max_tokens:,} tokens, with "
            f"attention windows of {self.attention_window}: {self.output}\nfine-tune it before use: {why}"
        )


def lengthen(*, model: str, output: str, max_tokens: int, attention_window: int) -> Lengthened:
    """Converts the checkpoint ``model`` to a Longformer and saves it with its tokenizer in the folder ``output``.

    ``max_tokens`` is its longest window, ``attention_window`` the number of tokens that a local token sees (half on
    either side).

    Raises:
        ModelError: the family cannot be lengthened, or the checkpoint lacks safetensors or a fast tokenizer.
        ConfigError: an odd attention window.
        OutputError: the folder is not empty, or cannot be written.
    """
    if attention_window % 2:
        raise ConfigError(f"attention_window={attention_window}: half of it is on either side; give an even number")
    with new_folder(output) as place:
        checkpoint = open_checkpoint(model, needs_head=False)
        if not find_family(checkpoint.family).can_lengthen:
            supported = " and ".join(name for name, family in FAMILIES.items() if family.can_lengthen)
            raise ModelError(
                f"model {model!r}: its family is {checkpoint.family!r}; only {supported} can be lengthened"
            )
        folder = checkpoint.folder
        source: Any = load(folder, "auto", needs_head=False)
        tokenizer = _tokenizer(folder, model, max_tokens)
        longformer = _longformer(source, tokenizer, max_tokens, attention_window)
        longformer.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return Lengthened(
        output=output,
        max_tokens=max_tokens,
        attention_window=attention_window,
        num_parameters=longformer.num_parameters(),
        has_head=checkpoint.has_head,
    )


def _longformer(source: Any, tokenizer: Any, max_tokens: int, attention_window: int) -> LongformerForQuestionAnswering:
    config = LongformerConfig(
        **{name: getattr(source.config, name) for name in SHARED_SETTINGS},
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
        max_position_embeddings=max_tokens + source.config.pad_token_id + 1,
        type_vocab_size=1,
        attention_window=[attention_window] * source.config.num_hidden_layers,
    )
    longformer = LongformerForQuestionAnswering(config).to(source.dtype)
    prefix, unused = f"{source.base_model_prefix}.", source.config.pad_token_id + 1
    weights: dict[str, Tensor] = {
        name.replace(prefix, "longformer.", 1): weight for name, weight in source.state_dict().items()
    }
    positions, types = (f"longformer.embeddings.{name}_embeddings.weight" for name in ("position", "token_type"))
    learned = weights[positions][first_position(source) :]
    repeated = learned.repeat(-(-max_tokens // len(learned)), 1)[:max_tokens]
    weights[positions] = longformer.state_dict()[positions].index_copy(
        0, torch.arange(unused, unused + max_tokens), repeated
    )
    weights[types] = weights[types][:1]
    longformer.load_state_dict({name: weights[name.replace("_global", "")] for name in longformer.state_dict()})
    return longformer


def _tokenizer(folder: str, model: str, max_tokens: int) -> PreTrainedTokenizerFast:
    """The source's tokenizer with two separators between question and document, and no token types."""
    Tokenizer(folder)  # raises ModelError if it is not a fast one
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise ModelError(f"model {model!r}: its tokenizer has no classification or separator token; set both in it")
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B:0 {sep}",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )
    names = [f"{name}_token" for name in ("bos", "eos", "cls", "sep", "pad", "unk", "mask")]
    special_tokens = {name: getattr(tokenizer, name) for name in names}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **{name: token for name, token in special_tokens.items() if token is not None},
    )
