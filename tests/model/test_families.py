"""The table of model families, and the family that docs/how-to/add-a-model-family.md adds to it."""

import re
from pathlib import Path

import pytest
import torch
from families import random_model, tokenizer_of
from models import TEXT, save_model
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray import Reader
from qa_ray.model.families import FAMILIES, Family, find_family
from qa_ray.model.positions import first_position, max_positions
from qa_ray.model.runner import Model, build_backend
from qa_ray.model.transformers_backend import takes_token_types

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-model-family.md"
WINDOWS = {"max_tokens": 64, "overlap_tokens": 16, "max_question_tokens": 30}
# The longest window of each family's small model (families.py), all of which have tables of 130 positions, but BART's,
# which are two longer.
LONGEST_WINDOW = {
    "albert": 130, "bart": 130, "bert": 130, "camembert": 128, "convbert": 130, "data2vec-text": 128, "deberta": 130,
    "deberta-v2": 130, "distilbert": 130, "electra": 130, "ernie": 130, "flaubert": 130, "fnet": 130, "ibert": 128,
    "led": 130, "longformer": 128, "luke": 128, "mbart": 130, "megatron-bert": 130, "mobilebert": 130,
    "modernbert": 130, "mpnet": 128, "rembert": 130, "roberta": 128, "roberta-prelayernorm": 128, "roformer": 130,
    "squeezebert": 130, "xlm": 130, "xlm-roberta": 128, "xlm-roberta-xl": 128, "xmod": 128,
}  # fmt: skip


@pytest.mark.parametrize("model_type", LONGEST_WINDOW)
def test_the_longest_window_is_what_the_model_has_positions_for(model_type: str):
    model = random_model(model_type, tokenizer_of(model_type))
    longest = LONGEST_WINDOW[model_type]
    assert max_positions(model) == longest
    backend = build_backend(model, 0 if takes_token_types(model) else None)
    ids = torch.randint(5, 20, (longest + 9,))
    with torch.inference_mode():
        start_logits, end_logits = backend(ids, [longest, 9], [3, 3])
    assert len(start_logits) == len(end_logits) == longest + 9
    if not find_family(model_type).make_backend:
        types = {"token_type_ids": torch.zeros(1, longest + 9).long()} if takes_token_types(model) else {}
        for first, stop in ((0, longest), (longest, longest + 9)):
            own_types = {name: value[:, first:stop] for name, value in types.items()}
            with torch.inference_mode():
                expected = model(input_ids=ids[None, first:stop], **own_types)
            close = {"rtol": 0, "atol": 1e-5 * float(expected.start_logits.abs().max())}
            torch.testing.assert_close(start_logits[first:stop], expected.start_logits[0], **close)
            torch.testing.assert_close(end_logits[first:stop], expected.end_logits[0], **close)
    if model_type not in ("modernbert", "deberta-v2"):  # rotary and relative positions have no end
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            backend(torch.full((longest + 1,), 5), [longest + 1], [3])


@pytest.mark.parametrize("pad_id", [0, 1, 3])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "longformer", "mpnet", "xmod", "luke"])
def test_positions_count_from_where_the_model_counts_them(model_type: str, pad_id: int):
    model = random_model(model_type, tokenizer_of(model_type), pad_token_id=pad_id)
    first = {"bert": 0, "mpnet": 2}.get(model_type, pad_id + 1)  # MPNet's is a constant, whatever its pad_token_id
    assert (first_position(model), max_positions(model)) == (first, 130 - first)


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
