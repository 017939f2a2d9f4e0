"""A checkpoint folder -> its transformers model, with every weight in its place, or an error that names it."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa_ray.errors import ModelError
from qa_ray.model.families import find_family
from qa_ray.model.quiet import quiet_transformers

# Parts that a model for question answering leaves aside: heads of other tasks behind the encoder, by the first names of
# their weights. The answers do not depend on them.
HEADS_OF_PRETRAINING = (
    "cls", "decoder", "discriminator_predictions", "entity_predictions", "final_logits_bias", "generator_lm_head",
    "generator_predictions", "lm_head", "lm_loss", "lm_predictions", "mask_predictions", "mlm_head", "nsp_head",
    "pooler", "pred_layer", "predictions", "sop_classifier", "vocab_layer_norm", "vocab_projector", "vocab_transform",
)  # fmt: skip
# Constants that a model computes itself, which older versions of transformers saved.
CONSTANTS = (".position_ids", ".token_type_ids", ".inv_freq", ".masked_bias", ".attn.bias")


def load(folder: str, dtype: torch.dtype | str, *, needs_head: bool = True, **config: Any) -> nn.Module:
    """The checkpoint in ``folder``; without ``needs_head`` its question-answering head may be new, and random.

    ``config`` overrides values of the checkpoint's own; the dtype "auto" is the checkpoint's.

    Raises:
        ModelError: it cannot be loaded, weights are missing, or the folder has weights that the model does not use.
    """
    try:
        model, info = _load(folder, dtype, **config)
    except Exception as error:  # transformers raises many classes: ImportError, AttributeError, TypeError, OSError, …
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"model {folder!r}: cannot be loaded for question answering ({reason}); "
            "it must be a folder that AutoModelForQuestionAnswering loads, with safetensors weights"
        ) from error
    unused = sorted(name for name in info["unexpected_keys"] if not _is_harmless(name, model, needs_head=needs_head))
    missing = sorted(name for name in info["missing_keys"] if needs_head or _in_encoder(name, model))
    lacks = f"the weights lack {', '.join(missing[:3])}, which would be random"
    has = f"the folder has weights that transformers' {type(model).__name__} does not use: {', '.join(unused[:3])}"
    if missing:
        raise ModelError(
            f"model {folder!r}: {f'{lacks}, and {has}' if unused else lacks}; "
            "use a checkpoint that was fine-tuned for question answering"
        )
    if unused:
        raise ModelError(
            f"model {folder!r}: {has}; without them it would be another model, with other answers; take a checkpoint "
            "of that class alone, or a version of transformers that uses them"
        )
    return model


@quiet_transformers()
def _load(folder: str, dtype: torch.dtype | str, **config: Any) -> tuple[Any, dict[str, Any]]:
    """The model and what transformers says about its loading."""
    settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, **config)
    settings._attn_implementation = None  # the kernel is no property of the weights; a given one may be missing
    settings.return_dict, settings.output_attentions, settings.output_hidden_states = True, False, False
    return AutoModelForQuestionAnswering.from_pretrained(
        folder,
        config=settings,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )


def keep_head_in_float32(model: Any) -> None:
    """Makes the question-answering head compute in float32, whatever the rest of the model or autocast computes in.

    Rounded to bfloat16, many of a window's logits would be equal.
    """
    head = model.get_submodule(find_family(model.config.model_type).head).float()
    forward = head.forward

    def forward_in_float32(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float())

    head.forward = forward_in_float32


def _is_harmless(name: str, model: Any, *, needs_head: bool) -> bool:
    """Whether the answers do not depend on a weight that the model does not use."""
    if f".{name}".endswith(CONSTANTS):
        return True
    part = name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
    if part == "pooler":
        return True
    if _in_encoder(name, model):
        return False
    return part in HEADS_OF_PRETRAINING or not needs_head  # a new head is trained, whatever head there was


def _in_encoder(name: str, model: Any) -> bool:
    """Whether a weight's name, with or without the prefix of the model, is one of the encoder's."""
    parts = [part for part, _ in model.base_model.named_children()]
    heads = [part for part, _ in model.named_children() if part != model.base_model_prefix]
    prefix, _, rest = name.partition(".")
    if prefix == model.base_model_prefix and rest:
        return True
    return prefix in parts and prefix not in heads
