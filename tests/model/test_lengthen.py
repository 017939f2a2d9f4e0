"""BERT and RoBERTa converted to Longformer: the same logits where every token sees every other, and longer inputs."""

import shutil
from pathlib import Path

import pytest
import torch
from models import TEXT
from running import raises_error
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray import Reader
from qa_ray.cli.main import main
from qa_ray.errors import ConfigError, ModelError, OutputError
from qa_ray.model.lengthen import Lengthened, lengthen

MAX_TOKENS, ATTENTION_WINDOW = 300, 64


def lengthened(model: str, output: Path) -> Lengthened:
    return lengthen(model=model, output=str(output), max_tokens=MAX_TOKENS, attention_window=ATTENTION_WINDOW)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("num_tokens", [9, 20, ATTENTION_WINDOW // 2])
def test_within_half_an_attention_window_logits_equal_those_of_the_source(
    tmp_path: Path, models: dict[str, str], family: str, num_tokens: int
):
    assert lengthened(models[family], tmp_path / "long").has_head
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "long")
    encoded = tokenizer("Who built it?", TEXT, truncation="only_second", max_length=num_tokens, return_tensors="pt")
    assert encoded.keys() == {"input_ids", "attention_mask"}
    assert encoded["input_ids"].shape == (1, num_tokens)
    is_question = torch.arange(num_tokens)[None] < encoded.sequence_ids().index(1) - 1
    source, longformer = (
        AutoModelForQuestionAnswering.from_pretrained(folder).eval() for folder in (models[family], tmp_path / "long")
    )
    with torch.inference_mode():
        expected = source(encoded["input_ids"])
        found = longformer(encoded["input_ids"], global_attention_mask=is_question.long())
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5 * float(expected[name].abs().max()))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_positions_repeat_up_to_the_new_length(tmp_path: Path, models: dict[str, str], family: str):
    lengthened(models[family], tmp_path / "long")
    source, longformer = (AutoModel.from_pretrained(folder) for folder in (models[family], tmp_path / "long"))
    learned = source.embeddings.position_embeddings.weight[2 if family == "roberta" else 0 :]
    unused = longformer.config.pad_token_id + 1
    weight = longformer.embeddings.position_embeddings.weight[unused:]
    assert len(weight) == MAX_TOKENS
    for position in (0, 1, len(learned) - 1, len(learned), 2 * len(learned), MAX_TOKENS - 1):
        torch.testing.assert_close(weight[position], learned[position % len(learned)])


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_reader_accepts_windows_of_the_new_length(tmp_path: Path, models: dict[str, str], family: str):
    lengthened(models[family], tmp_path / "long")
    reader = Reader(
        str(tmp_path / "long"), dtype="float32", max_tokens=MAX_TOKENS, overlap_tokens=60, max_question_tokens=16
    )
    document = TEXT * 20
    found = reader.answer("Who built it?", document)
    assert document[found["start"] : found["end"]] == found["answer"]
    assert len(reader.layout.middle) == 2


def test_a_source_without_a_head_gets_a_new_one_and_the_report_says_so(tmp_path: Path, models: dict[str, str]):
    AutoModel.from_pretrained(models["bert"]).save_pretrained(tmp_path / "headless")
    AutoTokenizer.from_pretrained(models["bert"]).save_pretrained(tmp_path / "headless")
    made = lengthened(str(tmp_path / "headless"), tmp_path / "long")
    assert not made.has_head
    assert "fine-tune it before use: its question-answering head is new" in str(made)
    assert Reader(str(tmp_path / "long"), dtype="float32", max_tokens=100, overlap_tokens=10).answer("Who?", TEXT)


def test_errors_are_reported_and_leave_no_output(tmp_path: Path, models: dict[str, str]):
    with raises_error(ModelError, "its family is 'distilbert'; only bert and roberta can be lengthened"):
        lengthened(models["distilbert"], tmp_path / "long")
    with raises_error(ConfigError, "attention_window=33: half of it is on either side; give an even number"):
        lengthen(model=models["bert"], output=str(tmp_path / "long"), max_tokens=100, attention_window=33)
    with raises_error(ModelError, "no such folder"):
        lengthened(str(tmp_path / "nothing"), tmp_path / "long")
    broken = shutil.copytree(models["bert"], tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    with raises_error(ModelError, f"model '{broken}': no tokenizer can be loaded ("):
        lengthened(str(broken), tmp_path / "long")
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    with raises_error(ModelError, f"model '{broken}': cannot be loaded for question answering ("):
        lengthened(str(broken), tmp_path / "long")
    assert not (tmp_path / "long").exists()
    lengthened(models["bert"], tmp_path / "long")
    before = (tmp_path / "long" / "config.json").read_bytes()
    with raises_error(OutputError, "is not empty; give a new folder with output=… or remove it"):
        lengthened(models["roberta"], tmp_path / "long")
    assert (tmp_path / "long" / "config.json").read_bytes() == before


def test_weights_that_would_be_left_out_are_refused(tmp_path: Path, models: dict[str, str]):
    model = shutil.copytree(models["bert"], tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.distance_embedding.weight"] = torch.ones(259, 8)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with raises_error(
        ModelError, "BertForQuestionAnswering does not use: bert.encoder.layer.0.attention.self.distance_"
    ):
        lengthened(str(model), tmp_path / "long")


def test_the_command_reads_the_config_in_the_repository(
    tmp_path: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    output = str(tmp_path / "long")
    words = [f"model={models['bert']}", f"output={output}", "max_tokens=200", "attention_window=16"]
    assert main(["lengthen", "configs/lengthen.yaml", *words]) == 0
    assert "for 200 tokens, with attention windows of 16" in " ".join(capsys.readouterr().out.split())
