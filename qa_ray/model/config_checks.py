"""What a checkpoint's config.json says that transformers would pass over, or that needs what qa-ray does not run.

A value that changes the logits is honoured by transformers or refused here. The choice of an attention kernel is no
property of the weights: model.runner takes the one that transformers prefers.
"""

from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from qa_ray.errors import ModelError
from qa_ray.model.families import OTHER_FAMILIES, find_family

# Of the code that a model folder may bring (auto_map), what would compute the logits.
CODE_OF_A_MODEL = ("AutoModel", "AutoModelForQuestionAnswering")
FLOATS = ("F64", "F32", "F16", "BF16")  # the types of safetensors that are numbers as they stand


def check_config(config: dict[str, Any], folder: Path, name: str) -> None:
    """Checks ``config``, the content of the config.json in ``folder``; ``name`` is the model's in messages.

    Raises:
        ModelError: the family is unknown or refused; quantized weights, an adapter, code, or positions that the
            installed transformers does not compute.
    """
    model_type = config.get("model_type")
    if model_type not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        raise ModelError(
            f"model {name!r}: its config.json says model_type {model_type!r}, for which transformers has no "
            "question-answering model; use a checkpoint of a family that AutoModelForQuestionAnswering loads"
        )
    if reason := find_family(model_type).why_refused:
        raise ModelError(f"model {name!r}: the family {model_type!r} is not supported: {reason}; {OTHER_FAMILIES}")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ModelError(
            f"model {name!r}: its weights are quantized (quantization_config in config.json, quant_method {method!r}), "
            "which qa-ray does not compute with; take the checkpoint that it was quantized from, and for speed "
            "runner.dtype=bfloat16"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model {name!r}: the folder has an adapter (adapter_config.json), which would be left out; merge it into "
            "the weights with peft's merge_and_unload() and save_pretrained(folder)"
        )
    code = config.get("auto_map")
    if code := [code[key] for key in CODE_OF_A_MODEL if key in code] if isinstance(code, dict) else []:
        raise ModelError(
            f"model {name!r}: its config.json names code that computes the model (auto_map: {code[0]}), which qa-ray "
            f"does not run; if transformers' own {model_type!r} gives the same, remove auto_map"
        )
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute" and model_type != "jina_embeddings_v3":  # which has rotary ones in its code
        raise ModelError(
            f"model {name!r}: its config.json says position_embedding_type {positions!r}, which the installed "
            f"transformers does not compute for {model_type!r}: it would answer with other positions; take a "
            "checkpoint with absolute ones"
        )


def check_weight_types(tensors: dict[str, str | None], file: str, name: str) -> None:
    """Checks that the weights of a safetensors ``file`` are numbers as they stand; ``tensors`` are name -> type.

    Raises:
        ModelError: they are quantized.
    """
    for tensor, dtype in tensors.items():
        if tensor.endswith((".weight", ".bias")) and dtype not in FLOATS:
            raise ModelError(
                f"model {name!r}: {tensor} in {file!r} has the type {dtype}, quantized or no number; take a checkpoint "
                f"whose weights are of one of the types {', '.join(FLOATS)}"
            )
