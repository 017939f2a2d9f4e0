"""A BERT or RoBERTa checkpoint -> a Longformer with the same weights, for inputs several times as long.

The recipe of the Longformer paper (Beltagy et al. 2020, section 5): the learned positions are repeated up to the new
length, and every query, key and value projection gets a twin of equal weights for global attention. On inputs of at
most half an attention window, where every token sees every other, the outputs are those of the source (with all token
types 0); beyond, it is a good start for fine-tuning.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    LongformerConfig,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from qa_ray.errors import ConfigError, ModelError
from qa_ray.io.storage import new_folder
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer

# How each family counts positions: RoBERTa from the padding's id + 1 on, like Longformer; BERT from 0.
FAMILIES = {"bert": False, "roberta": True}
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
    """What was made."""

    output: str
    max_tokens: int
    attention_window: int
    num_parameters: int
    has_head: bool  # whether the source had a question-answering head

    def __str__(self) -> str:
        """For a person to read."""
        why = "it has yet to learn from long inputs" if self.has_head else "its question-answering head is new"
        return (
            f"a Longformer of {self.num_parameters / 1e6:,.1f} M parameters, for {self.max_tokens:,} tokens, with "
            f"attention windows of {self.attention_window}: {self.output}\nfine-tune it before use: {why}"
        )


def lengthen(*, model: str, output: str, max_tokens: int, attention_window: int) -> Lengthened:
    """Makes a Longformer out of the checkpoint ``model`` and saves it with its tokenizer in the folder ``output``.

    Raises:
        ModelError: the checkpoint is of another family, or lacks safetensors or a fast tokenizer.
        ConfigError: an odd attention window.
        OutputError: something stands in the folder already, or it cannot be written.
    """
    if attention_window % 2:
        raise ConfigError(f"attention_window={attention_window}: half of it lies on either side; give an even number")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what is missing or new is told below
    with new_folder(output) as place:
        folder = open_checkpoint(model, needs_head=False).folder
        try:
            source, info = AutoModelForQuestionAnswering.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"model {model!r}: cannot be loaded ({reason}); save it again") from error
        if (family := source.config.model_type) not in FAMILIES:
            known = " and ".join(FAMILIES)
            raise ModelError(f"model {model!r}: its family is {family!r}; only {known} can be lengthened")
        if missing := sorted(name for name in info["missing_keys"] if not name.startswith("qa_outputs.")):
            raise ModelError(f"model {model!r}: the weights lack {', '.join(missing[:3])}; take a whole checkpoint")
        tokenizer = _tokenizer(folder, model, max_tokens)
        longformer = _longformer(source, tokenizer, max_tokens, attention_window)
        longformer.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return Lengthened(
        output=output,
        max_tokens=max_tokens,
        attention_window=attention_window,
        num_parameters=longformer.num_parameters(),
        has_head=not info["missing_keys"],
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
    positions, types = (f"longformer.embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type"))
    learned = weights[positions][unused if FAMILIES[source.config.model_type] else 0 :]
    repeated = learned.repeat(-(-max_tokens // len(learned)), 1)[:max_tokens]
    weights[positions] = longformer.state_dict()[positions].index_copy(
        0, torch.arange(unused, unused + max_tokens), repeated
    )
    weights[types] = weights[types][:1]
    longformer.load_state_dict({name: weights[name.replace("_global", "")] for name in longformer.state_dict()})
    return longformer


def _tokenizer(folder: str, model: str, max_tokens: int) -> PreTrainedTokenizerFast:
    """The source's, with two separators between question and document, and no token types."""
    Tokenizer(folder)  # checks it
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise ModelError(f"model {model!r}: its tokenizer names no classification or separator token; name both in it")
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {sep} $B:0 {sep}",
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )
    names = ("bos", "eos", "cls", "sep", "pad", "unk", "mask")
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in names}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **{name: token for name, token in special.items() if token is not None},
    )
