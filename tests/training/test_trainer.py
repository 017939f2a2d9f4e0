"""Learning one step after the other: every family, however the work is divided, and on from a saved state."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import FAMILIES, save_model

from qa_ray.errors import ModelError
from qa_ray.inference.reader import Reader
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.runner import load
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.training.sampling import Batch, LabeledDocument, LabeledQuestion, epoch_examples, make_batch
from qa_ray.training.trainer import OptimizerSettings, Trainer, check_alike, rate

SETTINGS = OptimizerSettings(
    learning_rate=3e-3, warmup=0.0, weight_decay=0.01, max_gradient_norm=1.0, dropout=None, attention_dropout=0.0,
    gradient_checkpointing=False, dtype="float32", seed=0,
)  # fmt: skip
TEXT = "In 1871 Ada Vane built the lighthouse at Cape Ørsted; it cost 4,200 crowns. " * 3


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {family: save_model(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def batches(folder: str, *sizes: int) -> list[Batch]:
    """The same twelve examples, in batches of these sizes."""
    tokenizer = Tokenizer(folder)
    layout, tokens = tokenizer.layout(), tokenizer(TEXT)
    asked = [
        LabeledQuestion(tokenizer(text).ids_T, np.array([(start, start + 2)], dtype=np.int64))
        for text, start in [("Who built it?", 3), ("Where?", 8), ("How much was it?", 12)] * 2
    ]
    documents = [LabeledDocument(tokens.ids_T, asked)]
    examples = epoch_examples(
        documents, layout, max_tokens=[40], overlap_tokens=5, positives=1, negatives=1, seed=1, epoch=0
    )
    assert len(examples) == 12
    bounds = np.cumsum([0, *sizes])
    return [make_batch(documents, layout, examples[a:b]) for a, b in pairwise(bounds)]


def trainer(folder: str, averaged_with: Sequence[str] = (), **changes) -> Trainer:
    settings = OptimizerSettings(**{**SETTINGS.__dict__, **changes})
    type_id = Tokenizer(folder).layout().document_type_id
    return Trainer(folder, settings, document_type_id=type_id, device="cpu", averaged_with=averaged_with)


def weights(model: Any) -> torch.Tensor:
    model = model.pretrained if isinstance(model, Trainer) else model
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns(checkpoints: dict[str, str], family: str):
    learner = trainer(checkpoints[family], dropout=0.0, attention_dropout=0.0)
    whole = batches(checkpoints[family], 12)
    losses = [learner.step(whole, 12, 0.0, (step, 0))[0] / 12 for step in range(60)]
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_same_in_one_batch_or_in_many(checkpoints: dict[str, str], family: str):
    folder = checkpoints[family]
    learners = [trainer(folder, dropout=0.0, attention_dropout=0.0, learning_rate=1e-4) for _ in range(2)]
    losses = [
        learner.step(batches(folder, *sizes), 12, 0.0, (0, 0))[0]
        for learner, sizes in zip(learners, [(12,), (3, 4, 5)], strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Adam divides by the gradient's size, so what is all but 0 may go either way, by one step of 1e-4.
    assert torch.quantile((weights(learners[0]) - weights(learners[1])).abs(), 0.99) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_memory_changes_nothing(checkpoints: dict[str, str], family: str):
    learners = [trainer(checkpoints[family], gradient_checkpointing=save) for save in (False, True)]
    whole = batches(checkpoints[family], 12)
    losses = [[learner.step(whole, 12, 0.0, (step, 0))[0] for step in range(3)] for learner in learners]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_it_goes_on_from_a_saved_state_as_if_it_had_never_stopped(checkpoints: dict[str, str], tmp_path: Path):
    folder = checkpoints["longformer"]
    whole = batches(folder, 6, 6)
    unbroken, broken = trainer(folder), trainer(folder)
    for step in range(6):
        unbroken.step(whole, 12, step / 6, (step, 0))
    for step in range(3):
        broken.step(whole, 12, step / 6, (step, 0))
    broken.save(tmp_path / "state")
    resumed = trainer(folder, seed=0)
    resumed.load(tmp_path / "state")
    for step in range(3, 6):
        resumed.step(whole, 12, step / 6, (step, 0))
    assert torch.equal(weights(unbroken), weights(resumed))


def test_dropout_follows_from_seed_and_step_alone(checkpoints: dict[str, str]):
    folder = checkpoints["bert"]
    whole = batches(folder, 12)

    def first_loss(seed: int, step: int) -> float:
        return trainer(folder, dropout=0.3, seed=seed).step(whole, 12, 0.0, (step, 0))[0]

    assert first_loss(0, 0) == first_loss(0, 0)
    assert len({first_loss(0, 0), first_loss(0, 1), first_loss(1, 0)}) == 3


def test_a_gradient_that_is_no_number_stops_it_before_the_weights_are_spoilt(checkpoints: dict[str, str]):
    learner = trainer(checkpoints["bert"])
    before = weights(learner)
    with torch.no_grad():
        learner.pretrained.qa_outputs.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"training\.dtype=float32"):
        learner.step(batches(checkpoints["bert"], 12), 12, 0.0, (0, 0))
    assert torch.equal(weights(learner)[:-2], before[:-2])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_in_transformers_and_in_the_reader(
    checkpoints: dict[str, str], family: str, dtype: str, tmp_path: Path
):
    learner = trainer(checkpoints[family])
    learner.step(batches(checkpoints[family], 12), 12, 0.0, (0, 0))
    learner.save_pretrained(tmp_path, dtype)
    Tokenizer(checkpoints[family]).save(str(tmp_path))
    loaded = load(str(tmp_path), torch.float32)
    for (name, kept), value in zip(learner.pretrained.state_dict().items(), loaded.state_dict().values(), strict=True):
        torch.testing.assert_close(kept.to(getattr(torch, dtype)).float(), value.float(), msg=name)
    assert {p.dtype for p in load(str(tmp_path), getattr(torch, dtype)).parameters()} == {getattr(torch, dtype)}
    assert Reader(str(tmp_path), dtype="float32", max_tokens=64, overlap_tokens=8, max_question_tokens=20).answer(
        "Who?", TEXT
    )
    assert dropouts(tmp_path) == dropouts(Path(checkpoints[family]))
    # Saving leaves the weights that are still learning as they were.
    assert {p.dtype for p in learner.pretrained.parameters()} == {torch.float32}


def dropouts(folder: Path) -> dict[str, float]:
    config = json.loads((folder / "config.json").read_text())
    found = {name: value for name, value in config.items() if "dropout" in name}
    assert any(found.values())  # the settings have none
    return found


def test_the_mean_of_what_was_learnt_and_other_models_is_saved(checkpoints: dict[str, str], tmp_path: Path):
    folder, other = checkpoints["distilbert"], tmp_path / "other"
    learner = trainer(folder, averaged_with=[folder])
    first = weights(learner)
    learner.step(batches(folder, 12), 12, 0.0, (0, 0))
    learner.save_pretrained(other, "float32")
    one = weights(load(str(other), torch.float32))
    torch.testing.assert_close(one, (first + weights(learner)) / 2)
    learner = trainer(folder, averaged_with=[folder, str(other)])
    learner.step(batches(folder, 12), 12, 0.0, (1, 0))
    learned = weights(learner)
    learner.save_pretrained(tmp_path / "mean", "float32")
    mean = weights(load(str(tmp_path / "mean"), torch.float32))
    torch.testing.assert_close(mean, (first + one + learned) / 3)
    assert not torch.allclose(mean, learned)
    assert torch.equal(weights(learner), learned), "it goes on from all that was learned"


def test_only_models_of_one_shape_and_vocabulary_can_be_averaged(checkpoints: dict[str, str], tmp_path: Path):
    model = open_checkpoint(checkpoints["distilbert"])
    other = tmp_path / "other"
    check_alike(model, open_checkpoint(save_model("distilbert", other, seed=1)))
    with pytest.raises(ModelError, match=r"/bert.* is not like the model '.*/distilbert.* \(bert.* differs\); only"):
        check_alike(model, open_checkpoint(checkpoints["bert"]))
    vocabulary = other / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"lighthouse"', '"lightship"'))
    with pytest.raises(ModelError, match=r"\(the vocabulary differs\)"):
        check_alike(model, open_checkpoint(str(other)))


def test_a_head_is_made_where_there_is_none(checkpoints: dict[str, str], tmp_path: Path):
    base: Any = load(checkpoints["bert"], torch.float32).base_model
    base.save_pretrained(tmp_path)
    Tokenizer(checkpoints["bert"]).save(str(tmp_path))
    heads = [trainer(str(tmp_path), seed=seed).pretrained.qa_outputs.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_rate_rises_to_its_peak_and_falls_to_nothing():
    assert [rate(progress, 1.0, 0.2) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert rate(0.0, 1.0, 0.0) == 1.0
