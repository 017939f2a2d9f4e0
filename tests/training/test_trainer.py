"""Optimizer steps: for every model family, however the batches are divided, and resumed from a saved state."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import SIZES, TEST_FAMILIES, save_model
from transformers import MPNetConfig, MPNetForQuestionAnswering

from qa_ray.errors import ModelError
from qa_ray.inference.reader import Reader
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.model.weights import load
from qa_ray.training.sampling import Batch, LabeledDocument, LabeledQuestion, epoch_examples, make_batch
from qa_ray.training.trainer import OptimizerSettings, Trainer, check_averageable, learning_rate

SETTINGS = OptimizerSettings(
    learning_rate=3e-3, warmup=0.0, weight_decay=0.01, max_gradient_norm=1.0, dropout=None, attention_dropout=0.0,
    gradient_checkpointing=False, dtype="float32", seed=0,
)  # fmt: skip
TEXT = "In 1871 Ada Vane built the lighthouse at Cape Ørsted; it cost 4,200 crowns. " * 3


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {family: save_model(family, tmp_path_factory.mktemp(family)) for family in TEST_FAMILIES}


def batches(folder: str, *sizes: int) -> list[Batch]:
    """The same twelve examples, in batches of these sizes."""
    tokenizer = Tokenizer(folder)
    layout, tokens = tokenizer.layout(), tokenizer(TEXT)
    questions = [
        LabeledQuestion(tokenizer(text).ids_T, np.array([(start, start + 2)], dtype=np.int64))
        for text, start in [("Who built it?", 3), ("Where?", 8), ("How much was it?", 12)] * 2
    ]
    documents = [LabeledDocument(tokens.ids_T, questions)]
    examples = epoch_examples(
        documents, layout, max_tokens=[40], overlap_tokens=5, positives=1, negatives=1, seed=1, epoch=0
    )
    assert len(examples) == 12
    bounds = np.cumsum([0, *sizes])
    return [make_batch(documents, layout, examples[a:b]) for a, b in pairwise(bounds)]


def make_trainer(folder: str, averaged_with: Sequence[str] = (), **changes) -> Trainer:
    settings = OptimizerSettings(**{**SETTINGS.__dict__, **changes})
    type_id = Tokenizer(folder).layout().document_type_id
    return Trainer(folder, settings, document_type_id=type_id, device="cpu", averaged_with=averaged_with)


def weights(model: Any) -> torch.Tensor:
    model = model.pretrained if isinstance(model, Trainer) else model
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_every_model_family_overfits_twelve_examples(checkpoints: dict[str, str], family: str):
    trainer = make_trainer(checkpoints[family], dropout=0.0, attention_dropout=0.0)
    one_batch = batches(checkpoints[family], 12)
    losses = [trainer.step(one_batch, 12, 0.0, (step, 0))[0] / 12 for step in range(60)]
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_a_step_does_not_depend_on_its_division_into_batches(checkpoints: dict[str, str], family: str):
    folder = checkpoints[family]
    trainers = [make_trainer(folder, dropout=0.0, attention_dropout=0.0, learning_rate=1e-4) for _ in range(2)]
    losses = [
        each.step(batches(folder, *sizes), 12, 0.0, (0, 0))[0]
        for each, sizes in zip(trainers, [(12,), (3, 4, 5)], strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Adam divides by the gradient's size, so a gradient near 0 may move a weight by 1e-4 in either direction.
    assert torch.quantile((weights(trainers[0]) - weights(trainers[1])).abs(), 0.99) < 1e-6


class Recorded(torch.nn.Module):
    """A model that keeps the logits it returned."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model, self.logits = model, []

    def forward(self, *inputs: Any) -> Any:
        logits = self.model(*inputs)
        self.logits += [logits_N.detach() for logits_N in logits]
        return logits


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_logits_are_float32_and_not_rounded_when_training_computes_in_bfloat16(
    checkpoints: dict[str, str], family: str
):
    trainer = make_trainer(checkpoints[family], dtype="bfloat16")
    recorded = trainer.model = Recorded(trainer.model)
    trainer.step(batches(checkpoints[family], 12), 12, 0.0, (0, 0))
    assert len(recorded.logits) == 2
    for logits_N in recorded.logits:
        assert logits_N.dtype == torch.float32
        assert not torch.equal(logits_N, logits_N.bfloat16().float()), "logits are rounded, which makes ties"


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_gradient_checkpointing_does_not_change_the_losses(checkpoints: dict[str, str], family: str):
    trainers = [make_trainer(checkpoints[family], gradient_checkpointing=value) for value in (False, True)]
    one_batch = batches(checkpoints[family], 12)
    losses = [[each.step(one_batch, 12, 0.0, (step, 0))[0] for step in range(3)] for each in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_gradient_checkpointing_for_a_family_that_has_none_is_an_error_with_a_remedy(tmp_path: Path):
    MPNetForQuestionAnswering(MPNetConfig(vocab_size=20, **SIZES)).save_pretrained(tmp_path)
    settings = replace(SETTINGS, gradient_checkpointing=True)
    with pytest.raises(ModelError, match=r"training\.gradient_checkpointing=true: .* 'mpnet'; set it to false"):
        Trainer(str(tmp_path), settings, document_type_id=0, device="cpu")


def test_training_resumed_from_a_saved_state_gives_the_weights_of_an_uninterrupted_run(
    checkpoints: dict[str, str], tmp_path: Path
):
    folder = checkpoints["longformer"]
    two_batches = batches(folder, 6, 6)
    uninterrupted, interrupted = make_trainer(folder), make_trainer(folder)
    for step in range(6):
        uninterrupted.step(two_batches, 12, step / 6, (step, 0))
    for step in range(3):
        interrupted.step(two_batches, 12, step / 6, (step, 0))
    interrupted.save(tmp_path / "state")
    resumed = make_trainer(folder, seed=0)
    resumed.load(tmp_path / "state")
    for step in range(3, 6):
        resumed.step(two_batches, 12, step / 6, (step, 0))
    assert torch.equal(weights(uninterrupted), weights(resumed))


def test_dropout_is_a_function_of_seed_and_step(checkpoints: dict[str, str]):
    folder = checkpoints["bert"]
    one_batch = batches(folder, 12)

    def first_loss(seed: int, step: int) -> float:
        return make_trainer(folder, dropout=0.3, seed=seed).step(one_batch, 12, 0.0, (step, 0))[0]

    assert first_loss(0, 0) == first_loss(0, 0)
    assert len({first_loss(0, 0), first_loss(0, 1), first_loss(1, 0)}) == 3


def test_a_gradient_that_is_not_finite_is_an_error_and_leaves_the_weights_unchanged(checkpoints: dict[str, str]):
    trainer = make_trainer(checkpoints["bert"])
    before = weights(trainer)
    with torch.no_grad():
        trainer.pretrained.qa_outputs.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        trainer.step(batches(checkpoints["bert"], 12), 12, 0.0, (0, 0))
    assert torch.equal(weights(trainer)[:-2], before[:-2])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_a_saved_model_loads_in_transformers_and_in_the_reader(
    checkpoints: dict[str, str], family: str, dtype: str, tmp_path: Path
):
    trainer = make_trainer(checkpoints[family])
    trainer.step(batches(checkpoints[family], 12), 12, 0.0, (0, 0))
    trainer.save_pretrained(tmp_path, dtype)
    Tokenizer(checkpoints[family]).save(str(tmp_path))
    loaded = load(str(tmp_path), torch.float32)
    for (name, tensor), value in zip(
        trainer.pretrained.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(tensor.to(getattr(torch, dtype)).float(), value.float(), msg=name)
    assert {p.dtype for p in load(str(tmp_path), getattr(torch, dtype)).parameters()} == {getattr(torch, dtype)}
    assert Reader(str(tmp_path), dtype="float32", max_tokens=64, overlap_tokens=8, max_question_tokens=20).answer(
        "Who?", TEXT
    )
    assert dropouts(tmp_path) == dropouts(Path(checkpoints[family]))
    # Saving does not change the type of the weights in training.
    assert {p.dtype for p in trainer.pretrained.parameters()} == {torch.float32}


def dropouts(folder: Path) -> dict[str, float]:
    config = json.loads((folder / "config.json").read_text())
    values = {name: value for name, value in config.items() if "dropout" in name}
    assert any(values.values())  # unlike the optimizer settings of these tests
    return values


def test_the_mean_of_the_trained_weights_and_other_models_is_saved(checkpoints: dict[str, str], tmp_path: Path):
    folder, other = checkpoints["distilbert"], tmp_path / "other"
    trainer = make_trainer(folder, averaged_with=[folder])
    first = weights(trainer)
    trainer.step(batches(folder, 12), 12, 0.0, (0, 0))
    trainer.save_pretrained(other, "float32")
    second = weights(load(str(other), torch.float32))
    torch.testing.assert_close(second, (first + weights(trainer)) / 2)
    trainer = make_trainer(folder, averaged_with=[folder, str(other)])
    trainer.step(batches(folder, 12), 12, 0.0, (1, 0))
    trained = weights(trainer)
    trainer.save_pretrained(tmp_path / "mean", "float32")
    mean = weights(load(str(tmp_path / "mean"), torch.float32))
    torch.testing.assert_close(mean, (first + second + trained) / 3)
    assert not torch.allclose(mean, trained)
    assert torch.equal(weights(trainer), trained), "training continues from its own weights, not from the mean"


def test_only_models_of_one_shape_and_vocabulary_can_be_averaged(checkpoints: dict[str, str], tmp_path: Path):
    model = open_checkpoint(checkpoints["distilbert"])
    other = tmp_path / "other"
    check_averageable(model, open_checkpoint(save_model("distilbert", other, seed=1)))
    with pytest.raises(
        ModelError, match=r"/bert.* cannot be averaged with the model '.*/distilbert.* \(bert.* differs\); give"
    ):
        check_averageable(model, open_checkpoint(checkpoints["bert"]))
    vocabulary = other / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"lighthouse"', '"lightship"'))
    with pytest.raises(ModelError, match=r"\(the vocabulary differs\)"):
        check_averageable(model, open_checkpoint(str(other)))


def test_a_missing_head_is_initialized_from_the_seed(checkpoints: dict[str, str], tmp_path: Path):
    base: Any = load(checkpoints["bert"], torch.float32).base_model
    base.save_pretrained(tmp_path)
    Tokenizer(checkpoints["bert"]).save(str(tmp_path))
    heads = [make_trainer(str(tmp_path), seed=seed).pretrained.qa_outputs.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    assert [learning_rate(progress, 1.0, 0.2) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )
    assert learning_rate(0.0, 1.0, 0.0) == 1.0
