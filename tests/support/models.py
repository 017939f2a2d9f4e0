"""Small random checkpoints of several families, with large weights, so that logits differ clearly."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    LongformerConfig,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

TEST_FAMILIES = ("longformer", "roberta", "bert", "distilbert")
TEXT = (
    "The quick brown fox jumps over the lazy dog. Who signed the agreement on 12 March 1997, and where was it kept? "
    "In 1871 Ada Vane built the lighthouse at Cape Ørsted; it cost 4,200 crowns. 北京大学在哪里？它在海淀区。 "
)
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def save_model(
    family: str,
    folder: Path,
    *,
    positions: int = 130,
    seed: int = 0,
    settings: dict | None = None,
    text: str = TEXT,
    std: float = 0.3,
) -> str:
    """A checkpoint folder of this family with random weights and the vocabulary of ``text``.

    ``positions`` are the config's max_position_embeddings.
    """
    torch.manual_seed(seed)
    has_types = family in ("bert", "electra")
    tokenizer = byte_level(text) if family in ("longformer", "roberta") else wordpiece(text, types=has_types)
    common = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "longformer":
        config = LongformerConfig(**common, **SIZES, attention_window=[16, 8], type_vocab_size=1, sep_token_id=2)
        model = LongformerForQuestionAnswering(config)
    elif family == "roberta":
        model = RobertaForQuestionAnswering(RobertaConfig(**common, **SIZES, type_vocab_size=1))
    elif family == "bert":
        model = BertForQuestionAnswering(BertConfig(**common, **SIZES))
    elif family == "electra":
        model = ElectraForQuestionAnswering(ElectraConfig(**common, **SIZES, embedding_size=32))
    else:
        config = DistilBertConfig(**common, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
        model = DistilBertForQuestionAnswering(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if settings:
        (folder / "qa_ray.json").write_text(json.dumps(settings))
    return str(folder)


def wordpiece(text: str, *, types: bool) -> PreTrainedTokenizerFast:
    """A small BERT tokenizer: lower case, accents stripped, CJK by character."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = {word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    # Not trained: tokenizers' trainer breaks ties by the order of a hash map, so each run has another vocabulary.
    letters = {*"".join(words)}
    beginnings = letters | {word[:stop] for word in words for stop in range(2, len(word) + 1)}
    rests = letters | {word[start:] for word in words for start in range(1, len(word))}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *sorted(beginnings), *(f"##{rest}" for rest in sorted(rests))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=names,
    )  # fmt: skip


def byte_level(text: str) -> PreTrainedTokenizerFast:
    """A small RoBERTa tokenizer: byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text] * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
