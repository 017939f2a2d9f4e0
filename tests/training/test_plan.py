"""What a fine-tuning job checks before it starts: whatever would fail later, and is known by then, is refused here."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SIZES, save_model
from running import raises_error
from safetensors.torch import load_file, save_file
from stories import VOCABULARY, stories, write_tables
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    MPNetConfig,
    MPNetForQuestionAnswering,
)

from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, ModelError
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.training.plan import FinetunePlan, make_plan
from qa_ray.training.trainer import load_trainable

WINDOWS = {"max_tokens": 64, "overlap_tokens": 8, "max_question_tokens": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model("bert", tmp_path_factory.mktemp("model"), text=VOCABULARY, settings=WINDOWS)


def plan(folder: Path, model: str, **sections: Any) -> FinetunePlan:
    if not (folder / "documents").exists():
        write_tables(folder, *stories())
    tables = {name: str(folder / name) for name in ("documents", "questions")}
    values = {**tables, "output": str(folder / "out"), "model": model, "windows": WINDOWS, **sections}
    return make_plan(check_config(FinetuneConfig, values, "test"))


def save_pretrained(folder: Path, tokenizer_of: str, model_class: Any, **config: Any) -> str:
    """A small BERT of this class, without a question-answering head."""
    vocabulary = len(Tokenizer(tokenizer_of).vocabulary)
    torch.manual_seed(0)
    model = model_class(BertConfig(vocab_size=vocabulary, max_position_embeddings=130, **SIZES, **config))
    model.save_pretrained(folder)
    for path in Path(tokenizer_of).glob("tokenizer*"):
        shutil.copy(path, folder)
    return str(folder)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [(BertForMaskedLM, {}), (BertModel, {}), (BertForSequenceClassification, {"num_labels": 5})],
)
def test_a_new_head_has_two_outputs_whatever_the_model_was_trained_for(
    tmp_path: Path, model: str, model_class: Any, config: dict[str, Any]
):
    folder = save_pretrained(tmp_path / "base", model, model_class, **config)
    assert plan(tmp_path, folder, validation={"held_out": 0.5}).settings.max_tokens == 64
    assert not open_checkpoint(folder, needs_head=False).has_head
    trainable: Any = load_trainable(folder)
    assert trainable.qa_outputs.weight.shape == (2, 32)


def test_scores_of_a_model_without_a_head_cannot_be_calibrated(tmp_path: Path, model: str):
    folder = save_pretrained(tmp_path / "base", model, BertForMaskedLM)
    with raises_error(ConfigError, "training.epochs=0: ", " has no question-answering head whose scores could be "):
        plan(tmp_path, folder, training={"epochs": 0})


def test_weights_that_are_missing_besides_the_head_are_an_error_of_the_plan(tmp_path: Path, model: str):
    folder = Path(save_pretrained(tmp_path / "base", model, BertForMaskedLM))
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with raises_error(ModelError, "the weights lack bert.encoder.layer.1."):
        plan(tmp_path, str(folder), validation={"held_out": 0.5})


def test_gradient_checkpointing_that_a_family_does_not_have_is_an_error_of_the_plan(tmp_path: Path, model: str):
    folder = tmp_path / "mpnet"
    config = MPNetConfig(vocab_size=len(Tokenizer(model).vocabulary), max_position_embeddings=130, **SIZES)
    MPNetForQuestionAnswering(config).save_pretrained(folder)
    for path in Path(model).glob("tokenizer*"):
        shutil.copy(path, folder)
    with raises_error(ModelError, "training.gradient_checkpointing=true: ", "'mpnet'; set it to false"):
        plan(tmp_path, str(folder), validation={"held_out": 0.5}, training={"gradient_checkpointing": True})


@pytest.mark.parametrize(
    ("held_out", "words"), [(1e-9, ("none is held out", "raise it")), (0.9999, ("every one is held", "lower it"))]
)
def test_a_share_that_leaves_training_or_validation_without_documents_is_an_error_of_the_plan(
    tmp_path: Path, model: str, held_out: float, words: tuple[str, str]
):
    with raises_error(ConfigError, f"validation.held_out={held_out:g}: of 6 documents with questions, ", *words):
        plan(tmp_path, model, validation={"held_out": held_out})


def test_a_single_document_with_questions_cannot_be_divided(tmp_path: Path, model: str):
    documents, questions = stories()
    write_tables(tmp_path, documents, questions[:3])
    with raises_error(ConfigError, "of 1 document with questions, ", "give validation.documents"):
        plan(tmp_path, model, validation={"held_out": 0.5})


def test_all_documents_serve_for_a_fit_without_training(tmp_path: Path, model: str):
    assert plan(tmp_path, model, training={"epochs": 0}).validation_tables is None
