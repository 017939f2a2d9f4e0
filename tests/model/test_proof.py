"""A model is proved when it is loaded: offsets, layout, logits, padding, positions, vocabulary, weights and config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tokenizers
import torch
from families import save_family, tokenizer_of
from models import TEXT, byte_level, wordpiece
from running import raises_error
from safetensors.torch import load_file, save_file
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForMaskedLM

from qa_ray import Reader
from qa_ray.errors import ModelError
from qa_ray.model import proof
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.offsets import find_wrong_offset
from qa_ray.model.probes import TEXTS
from qa_ray.model.proof import Proof, prove, trust
from qa_ray.model.tokenizer import Tokenizer

WINDOWS: dict[str, Any] = {"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 24}
DOCUMENTS = [TEXT[:start] for start in range(20, 200, 15)]
PADDING_REACHES_TOKENS = ["convbert", "fnet", "funnel", "mobilebert", "nystromformer"]
EXACT = [
    "albert", "bart", "bert", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "flaubert", "ibert", "led", "longformer", "luke", "mbart", "megatron-bert", "modernbert", "mpnet", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    *PADDING_REACHES_TOKENS,
]  # fmt: skip


def proved(folder: str, *, needs_head: bool = True) -> Proof:
    checkpoint = open_checkpoint(folder, needs_head=needs_head)
    return prove(checkpoint, Tokenizer(checkpoint.folder))


def change_config(folder: str, **entries: Any) -> str:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def change_weights(folder: str, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    path = Path(folder) / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return save_family("bert", tmp_path / "bert")


@pytest.mark.parametrize("model_type", EXACT)
def test_a_family_is_proved(model_type: str, tmp_path: Path):
    assert proved(save_family(model_type, tmp_path / "model")).max_tokens >= 128


@pytest.mark.parametrize("model_type", PADDING_REACHES_TOKENS)
def test_answers_do_not_depend_on_batches_where_padding_reaches_the_tokens(model_type: str, tmp_path: Path):
    folder = save_family(model_type, tmp_path / "model")
    alone, together = (
        Reader(folder, dtype="float32", batch_tokens=batch_tokens, **WINDOWS).answer("Who?", DOCUMENTS, top_k=9)
        for batch_tokens in (1, 8192)
    )
    for one, other in zip(alone, together, strict=True):
        assert [(span["start"], span["end"]) for span in one] == [(span["start"], span["end"]) for span in other]
        assert [span["score"] for span in one] == pytest.approx([span["score"] for span in other], rel=1e-4)


def test_a_family_whose_padding_reaches_the_tokens_unannounced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(proof.find_family.__globals__["FAMILIES"], "convbert")
    with raises_error(
        ModelError, "the family 'convbert' is not supported: its logits of a window", "another family: BERT"
    ):
        proved(change_config(save_family("convbert", tmp_path / "model"), about="another fingerprint"))


@pytest.mark.parametrize("model_type", ["xlm", "flaubert"])
def test_token_types_are_passed_where_the_tokenizer_gives_them(model_type: str, tmp_path: Path):
    folder = save_family(model_type, tmp_path / "model")
    pair = AutoTokenizer.from_pretrained(folder)("Who built it?", TEXT[:99], return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForQuestionAnswering.from_pretrained(folder).eval()(**pair)
    reader = Reader(folder, dtype="float32", max_tokens=128, overlap_tokens=8, max_question_tokens=24)
    ids, num_prefix_tokens = pair["input_ids"][0].numpy(), len(reader.tokenizer.question("Who built it?")) + 1
    length_B, num_prefix_tokens_B = (torch.tensor([n]).numpy() for n in (len(ids), num_prefix_tokens))
    start_logits, _ = reader.model(ids, length_B, num_prefix_tokens_B)
    assert "token_type_ids" in pair
    torch.testing.assert_close(start_logits, expected.start_logits[0], rtol=1e-4, atol=1e-4)


def test_a_modernbert_answers_with_the_logits_of_transformers(tmp_path: Path):
    folder = save_family("modernbert", tmp_path / "model")
    own, reference = (
        Reader(folder, dtype="float32", forward=forward, **WINDOWS).answer("Who built it?", TEXT, top_k=9)
        for forward in ("auto", "transformers")
    )
    assert own == reference


@pytest.mark.parametrize(
    ("model_type", "messages"),
    [
        ("big_bird", ["the family 'big_bird' is not supported: its sparse attention"]),
        ("splinter", ["the family 'splinter' is not supported: its head is not a layer of two logits"]),
        ("t5", ["the family 't5' is not supported"]),
        ("canine", ["the family 'canine' is not supported"]),
    ],
)
def test_a_family_that_cannot_be_exact_is_refused_by_name(model_type: str, messages: list[str], tmp_path: Path):
    with raises_error(ModelError, *messages, "take a checkpoint of another family: BERT, RoBERTa"):
        proved(save_family(model_type, tmp_path / "model"))


@pytest.mark.parametrize(
    ("template", "places"),
    [
        ("$A $B:1", "before the question, between question and document, after the document"),
        ("$A [SEP] $B:1 [SEP]:1 [CLS]:2", "before the question"),  # XLNet's
        ("[CLS] $A [SEP] $B:1", "after the document"),
    ],
)
def test_a_layout_without_special_tokens_is_refused_with_the_places(template: str, places: str, tmp_path: Path):
    tokenizer = wordpiece(TEXT, types=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with raises_error(ModelError, f"its tokenizer puts no special token {places}, and the family 'gpt2'"):
        proved(save_family("gpt2", tmp_path / "model", tokenizer))


def test_token_types_that_are_not_qa_rays_are_refused(tmp_path: Path):
    tokenizer = wordpiece(TEXT, types=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair="[CLS]:2 $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with raises_error(ModelError, "its tokenizer gives token types that qa-ray does not have", "not [2, 0, 0]"):
        proved(save_family("funnel", tmp_path / "model", tokenizer))


def byte_level_behind_whitespace() -> Any:
    """RobBERT-2023's steps: white space is taken away, a space is put back before each word, and then trimmed."""
    tokenizer = byte_level(TEXT)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Punctuation()]
    )
    return tokenizer


def test_words_of_a_byte_level_tokenizer_behind_whitespace_keep_their_first_letter(tmp_path: Path):
    folder = save_family("roberta", tmp_path / "model", byte_level_behind_whitespace())
    tokens = Tokenizer(folder)(TEXT)
    pieces = [TEXT[start:stop] for start, stop in zip(tokens.start_char_T, tokens.stop_char_T, strict=True)]
    assert "".join(pieces).replace(" ", "")[:80] == TEXT.replace(" ", "")[:80]
    assert proved(folder).max_tokens == 128


def test_a_tokenizer_whose_offsets_cannot_be_repaired_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qa_ray.model.tokenizer.without_trimming", lambda backend: backend)
    folder = save_family("roberta", tmp_path / "model", byte_level_behind_whitespace())
    with raises_error(ModelError, "its tokenizer, ", "would be cut at wrong characters; use the tokenizer that"):
        Tokenizer(folder)


class Encoding(NamedTuple):
    tokens: list[str]
    ids: list[int]
    offsets: list[tuple[int, int]]


class Words:
    """A tokenizer of words, in lower case, whose offsets are shifted by ``shift`` characters."""

    model, decoder = object(), None

    def __init__(self, shift: int):
        self.shift = shift

    def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
        starts = [i for i, char in enumerate(text) if not char.isspace() and (i == 0 or text[i - 1].isspace())]
        words = [text[start:].split()[0] for start in starts]
        offsets = [
            (min(start + self.shift, len(text)), min(start + self.shift + len(word), len(text)))
            for start, word in zip(starts, words, strict=True)
        ]
        return Encoding([word.lower() for word in words], [0] * len(words), offsets)


@pytest.mark.parametrize("shift", [1, 2])
def test_shifted_offsets_are_found(shift: int):
    shifted: Any = Words(shift)
    assert find_wrong_offset(shifted)
    unshifted: Any = Words(0)
    assert find_wrong_offset(unshifted) is None


def test_offsets_of_a_tokenizer_that_drops_unknown_characters_are_found():
    backend = tokenizers.Tokenizer(
        models.BPE()
    )  # without an unknown token: what follows takes the place of what it drops
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(["abcdefghij klm"], trainers.BpeTrainer(show_progress=False))
    assert find_wrong_offset(backend)


UNIGRAM = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
ALBERT = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
REWRITES = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Lowercase(), *(normalizers.Replace(*pair) for pair in (("ß", "ss"), ("ø", "oe")))]
)


@pytest.mark.parametrize("normalizer", [UNIGRAM, ALBERT, REWRITES, normalizers.NFD(), None])
def test_offsets_behind_a_normalizer_of_its_own_are_sound(normalizer: Any):
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", vocab_size=600, show_progress=False)
    backend.train_from_iterator(list(TEXTS), trainer)
    assert find_wrong_offset(backend) is None


@pytest.mark.parametrize("model_type", ["bert", "roberta", "longformer"])
def test_sound_offsets_are_left_as_they_are(model_type: str):
    assert find_wrong_offset(tokenizer_of(model_type).backend_tokenizer) is None


def test_a_tokenizer_larger_than_the_model_is_refused(bert: str):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    num_tokens = len(tokenizer)
    tokenizer.add_tokens(["Ysbyty", "Gorsaf"])
    tokenizer.save_pretrained(bert)
    with raises_error(
        ModelError, f"the tokenizer has {num_tokens + 2} tokens, the model {num_tokens}: from 'Ysbyty' on", "put the"
    ):
        proved(bert)


def test_special_tokens_that_no_text_can_have_may_lack_embeddings(bert: str):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<entity>"]})
    tokenizer.save_pretrained(bert)
    assert proved(bert).max_tokens == 130


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.attention.self.distance_embedding.weight",
        "bert.encoder.layer.0.attention.self.lora_A.weight",
        "bert.adapter.weight",
        "dense.weight",  # a layer before the head
        "qa_outputs.start_logits.dense.weight",
    ],
)
def test_weights_that_the_model_does_not_use_are_refused(name: str, bert: str):
    change_weights(bert, lambda weights: weights.update({name: torch.ones(2, 2)}))
    with raises_error(ModelError, f"BertForQuestionAnswering does not use: {name}; ", "with other answers; take a"):
        proved(bert)


def test_weights_of_other_heads_and_constants_are_passed_over(bert: str):
    others = {
        "bert.embeddings.position_ids": torch.arange(130)[None],
        "bert.pooler.dense.weight": torch.ones(32, 32),
        "bert.pooler.dense.bias": torch.ones(32),
        "cls.predictions.bias": torch.ones(5),
        "cls.seq_relationship.weight": torch.ones(2, 32),
    }
    assert proved(change_weights(bert, lambda weights: weights.update(others))).max_tokens == 130


def test_missing_weights_are_refused(bert: str):
    name = "bert.encoder.layer.1.output.dense.weight"
    change_weights(bert, lambda weights: weights.pop(name))
    with raises_error(ModelError, f"the weights lack {name}, which would be random"):
        proved(bert)


def test_a_pretrained_model_without_a_head_is_proved_for_training(bert: str):
    BertForMaskedLM.from_pretrained(bert).save_pretrained(bert)
    change_config(bert, num_labels=3, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    assert proved(bert, needs_head=False).max_tokens == 130
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    change_weights(bert, lambda weights: weights.update({name: torch.ones(2, 2)}))
    with raises_error(ModelError, f"does not use: {name}; "):
        proved(bert, needs_head=False)


def test_a_head_of_three_logits_is_refused(bert: str):
    labels = {"0": "a", "1": "b", "2": "c"}
    change_config(bert, id2label=labels, label2id={label: int(i) for i, label in labels.items()})
    change_weights(
        bert,
        lambda weights: weights.update({"qa_outputs.weight": torch.ones(3, 32), "qa_outputs.bias": torch.ones(3)}),
    )
    with raises_error(ModelError, "the family 'bert' is not supported: it fails on a window", "ValueError"):
        proved(bert)


@pytest.mark.parametrize(
    ("entries", "messages"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, ["its weights are quantized", "quant_method 'gptq'"]),
        ({"quantization_config": {"load_in_8bit": True}}, ["its weights are quantized", "it was quantized from"]),
        ({"auto_map": {"AutoModel": "modeling_x.X"}}, ["names code that computes the model (auto_map: modeling_x.X)"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type 'relative_key'", "absolute ones"]),
        ({"hidden_act": "no_such_function"}, ["cannot be loaded for question answering"]),
    ],
)
def test_config_entries_that_change_the_model_are_refused(entries: dict, messages: list[str], bert: str):
    with raises_error(ModelError, *messages):
        proved(change_config(bert, **entries))


@pytest.mark.parametrize(
    "entries",
    [
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_3"},
        {"_attn_implementation_internal": "flash_attention_2"},
        {"attn_implementation": "eager"},
        {"torch_dtype": "float16"},
        {"return_dict": False},
        {"output_attentions": True, "output_hidden_states": True},
        {"quantization_config": None},
        {"gradient_checkpointing": True, "position_embedding_type": "absolute"},
    ],
)
def test_config_entries_that_are_no_property_of_the_weights_change_nothing(entries: dict, bert: str):
    expected = Reader(bert, dtype="float32", **WINDOWS).answer("Who?", TEXT, top_k=5)
    change_config(bert, **entries)
    answers = Reader(bert, dtype="float32", **WINDOWS).answer("Who?", TEXT, top_k=5)
    assert [span["end"] for span in answers] == [span["end"] for span in expected]
    assert [span["score"] for span in answers] == pytest.approx([span["score"] for span in expected], rel=1e-4)


def test_quantized_weights_and_adapters_are_refused(bert: str, tmp_path: Path):
    (tmp_path / "bert" / "adapter_config.json").write_text("{}")
    with raises_error(ModelError, "has an adapter (adapter_config.json)", "merge_and_unload()"):
        open_checkpoint(bert)
    (tmp_path / "bert" / "adapter_config.json").unlink()
    name = "bert.encoder.layer.0.output.dense.weight"
    change_weights(bert, lambda weights: weights.update({name: torch.ones(32, 64, dtype=torch.int8)}))
    with raises_error(ModelError, f"{name} in ", "has the type I8, quantized or no number"):
        open_checkpoint(bert)


def test_a_model_is_proved_once_in_a_process_and_a_proof_of_another_one_is_trusted(
    bert: str, monkeypatch: pytest.MonkeyPatch
):
    loads = []
    monkeypatch.setattr(
        proof, "load", lambda *_, **__: loads.append(1) or AutoModelForQuestionAnswering.from_pretrained(bert)
    )
    change_config(bert, about="a fingerprint of its own")
    assert proved(bert) is proved(bert)
    assert len(loads) == 1
    change_config(bert, about="another fingerprint")
    trusted = Proof(open_checkpoint(bert).fingerprint, max_tokens=77)
    trust(trusted)
    assert proved(bert) is trusted
    assert len(loads) == 1
