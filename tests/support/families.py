"""Small random checkpoints of any family that transformers has, with large weights, so that logits differ clearly."""

from pathlib import Path
from typing import Any

import torch
from models import TEXT, byte_level, wordpiece
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}
_SEQ2SEQ: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 130,
}
_T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_XLM: dict[str, Any] = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 130}
_EMBEDDING: dict[str, Any] = SIZES | {"embedding_size": 32}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "albert": _EMBEDDING,
    "bart": _SEQ2SEQ,
    "convbert": _EMBEDDING,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 130},
    "electra": _EMBEDDING,
    "flaubert": _XLM,
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 130},
    "led": _SEQ2SEQ
    | {"attention_window": [16, 16], "max_encoder_position_embeddings": 256, "max_decoder_position_embeddings": 130},
    "longformer": SIZES | {"attention_window": [16, 16], "sep_token_id": 2},
    "luke": SIZES | {"entity_vocab_size": 10},
    "mbart": _SEQ2SEQ,
    "mobilebert": _EMBEDDING | {"true_hidden_size": 16, "intra_bottleneck_size": 16},
    "modernbert": SIZES | {"local_attention": 16},
    "rembert": SIZES | {"input_embedding_size": 32, "output_embedding_size": 32},
    "roformer": _EMBEDDING,
    "squeezebert": _EMBEDDING,
    "t5": _T5 | {"decoder_start_token_id": 0},
    "xlm": _XLM,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "xmod": SIZES | {"default_language": "en_XX"},
}
BYTE_LEVEL = (  # the others have BERT's tokenizer, with token types
    "bart", "bloom", "camembert", "data2vec-text", "gpt2", "ibert", "led", "longformer", "luke", "mbart", "modernbert",
    "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def tokenizer_of(model_type: str) -> PreTrainedTokenizerFast:
    """A tokenizer like those of the family: byte-level without token types, or WordPiece with them."""
    return byte_level(TEXT) if model_type in BYTE_LEVEL else wordpiece(TEXT, types=True)


def random_model(model_type: str, tokenizer: PreTrainedTokenizerFast, **config: Any) -> Any:
    """A model with 130 rows of positions, if it has any, and weights so large that logits differ clearly."""
    torch.manual_seed(0)
    sizes = OWN_SIZES.get(model_type, SIZES) | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(model_type, **sizes | config))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_family(model_type: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **config: Any) -> str:
    """A checkpoint folder of this family."""
    tokenizer = tokenizer or tokenizer_of(model_type)
    random_model(model_type, tokenizer, **config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
