"""The table of model families, and the family that docs/how-to/add-a-model-family.md adds to it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TEXT, save_model
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray import Reader
from qa_ray.model.families import FAMILIES, Family, find_family
from qa_ray.model.runner import Model, build_backend

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-model-family.md"
SIZES = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WINDOWS = {"max_tokens": 64, "overlap_tokens": 16, "max_question_tokens": 30}


def random_model(model_type: str, pad_id: int) -> Any:
    """A small model with 40 positions, and weights so large that logits differ clearly."""
    own = {"longformer": {"attention_window": [4]}, "xmod": {"default_language": "en_XX"}}.get(model_type, {})
    sizes = {"vocab_size": 20, "max_position_embeddings": 40, **SIZES}
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(
        AutoConfig.for_model(model_type, pad_token_id=pad_id, **sizes, **own)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("pad_id", [0, 1, 3])
@pytest.mark.parametrize("model_type", [*FAMILIES, "electra"])  # electra has no entry: the defaults
def test_positions_of_a_family_allow_the_longest_window_and_no_longer_one(model_type: str, pad_id: int):
    model = random_model(model_type, pad_id)
    backend = build_backend(model, 0)
    longest = 40 - find_family(model_type).first_position(pad_id)
    ids = torch.randint(5, 20, (longest + 9,))
    with torch.inference_mode():
        start_logits, end_logits = backend(ids, [longest, 9], [3, 3])
    assert len(start_logits) == len(end_logits) == longest + 9
    if not find_family(model_type).make_backend:
        with torch.inference_mode():
            expected = [model(input_ids=window_ids[None]) for window_ids in ids.split([longest, 9])]
        torch.testing.assert_close(start_logits, torch.cat([output.start_logits[0] for output in expected]))
        torch.testing.assert_close(end_logits, torch.cat([output.end_logits[0] for output in expected]))
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        backend(torch.full((longest + 1,), 5), [longest + 1], [3])


@pytest.fixture
def electra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small ELECTRA, and the forward pass of the documentation's example for it."""
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    example: dict = {}
    exec(code[0], example)
    monkeypatch.setitem(FAMILIES, "electra", Family(make_backend=example["ElectraQA"]))
    return save_model("electra", tmp_path / "model", settings=WINDOWS)


def test_a_family_of_ones_own_has_the_logits_of_transformers(electra: str):
    tokenizer = AutoTokenizer.from_pretrained(electra)
    questions, documents = ["Who?", "Who built the lighthouse?"], [TEXT[:40], TEXT[:150]]
    padded = tokenizer(questions, documents, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForQuestionAnswering.from_pretrained(electra).eval()(**padded)
    is_real = padded["attention_mask"].bool()
    num_prefix_tokens = torch.tensor([1 + len(tokenizer.tokenize(question)) for question in questions])
    model = Model(electra, document_type_id=1, device="cpu", dtype="float32")
    logits = model(padded["input_ids"][is_real].numpy(), is_real.sum(dim=1).numpy(), num_prefix_tokens.numpy())
    assert is_real.sum(dim=1).unique().numel() == 2
    for ours, theirs in zip(logits, (expected.start_logits, expected.end_logits), strict=True):
        torch.testing.assert_close(ours, theirs[is_real], rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_family_of_ones_own_gives_the_answers_of_transformers(electra: str):
    own, reference = (
        Reader(electra, dtype="float32", forward=forward).answer("Who built the lighthouse?", TEXT * 3, top_k=9)
        for forward in ("auto", "transformers")
    )
    assert [(span["start"], span["end"]) for span in own] == [(span["start"], span["end"]) for span in reference]
    assert [span["score"] for span in own] == pytest.approx([span["score"] for span in reference], rel=1e-3)


def test_a_family_without_an_entry_has_the_defaults():
    assert find_family("electra") == find_family(None) == Family()
