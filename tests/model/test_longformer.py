"""LongformerQA against transformers' LongformerForQuestionAnswering: the same logits and gradients.

Shapes: B windows, T tokens.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import LongformerConfig, LongformerForQuestionAnswering

from qa_ray.model.longformer import attention_gpu
from qa_ray.model.longformer.attention_cpu import BLOCK_TOKENS
from qa_ray.model.longformer.model import LongformerQA

VOCAB_SIZE = 50


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are up to thirty times slower with several threads on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True, params=[False, True], ids=["blockwise", "batched"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LongformerQA, "always_batched", request.param)


def random_model(attention_window: list[int], **overrides: Any) -> LongformerForQuestionAnswering:
    """A model with large weights, so that attention is far from uniform and logits are far apart."""
    config = LongformerConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_attention_heads=4, max_position_embeddings=900
    )
    config.update({"attention_window": attention_window, "num_hidden_layers": len(attention_window)} | overrides)
    model = LongformerForQuestionAnswering(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.4)
    return model.eval()


def random_windows(lengths: list[int], pad_id: int = 1) -> Tensor:
    """Right-padded ids, [B, T]; no token is 0 or 1, the padding ids of these tests."""
    torch.manual_seed(1)
    ids_BT = torch.randint(2, VOCAB_SIZE, (len(lengths), max(lengths)))
    return ids_BT.masked_fill(~is_real(lengths), pad_id)


def is_real(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def transformers_logits(
    model: LongformerForQuestionAnswering, ids_BT: Tensor, lengths: list[int], num_global: list[int]
) -> tuple[Tensor, Tensor]:
    is_global_BT = torch.arange(ids_BT.shape[1]) < torch.tensor(num_global)[:, None]
    output = model(ids_BT, attention_mask=is_real(lengths).long(), global_attention_mask=is_global_BT.long())
    return output.start_logits, output.end_logits


def our_logits(
    model: LongformerForQuestionAnswering, ids_BT: Tensor, lengths: list[int], num_global: list[int]
) -> tuple[Tensor, Tensor]:
    """The logits of packed windows, padded again to [B, T] with 0."""
    is_real_BT = is_real(lengths).to(ids_BT.device)
    logits = LongformerQA.from_transformers(model)(ids_BT[is_real_BT], lengths, num_global)
    start_BT, end_BT = (
        torch.zeros(ids_BT.shape).masked_scatter(is_real_BT.cpu(), logits_N.cpu()) for logits_N in logits
    )
    return start_BT, end_BT


def assert_same(
    ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], is_real_BT: Tensor, tolerance: float = 1e-5
) -> None:
    """Differences of at most ``tolerance`` of the largest logit."""
    for our_BT, expected_BT in zip(ours, expected, strict=True):
        largest = float(expected_BT[is_real_BT].abs().max())
        assert_close(our_BT[is_real_BT], expected_BT[is_real_BT], atol=tolerance * largest, rtol=0, check_dtype=False)


def assert_same_as_transformers(model: LongformerForQuestionAnswering, lengths: list[int], num_global: list[int]):
    """In float32, whose rounding errors these large weights amplify, and more strictly in float64."""
    ids_BT = random_windows(lengths, model.longformer.embeddings.padding_idx)
    for cast, tolerance in ((model.float, 1e-4), (model.double, 1e-5)):
        cast()
        with torch.inference_mode():
            ours = our_logits(model, ids_BT, lengths, num_global)
            assert_same(ours, transformers_logits(model, ids_BT, lengths, num_global), is_real(lengths), tolerance)


@pytest.mark.parametrize(
    "num_tokens",
    [
        *(1, 2, 7, 8, 9, 15, 16, 17, 18, 40, BLOCK_TOKENS + 4, BLOCK_TOKENS + 5, 3 * BLOCK_TOKENS + 21),
        *(attention_gpu.BLOCK_TOKENS + 4, attention_gpu.BLOCK_TOKENS + 5, 3 * attention_gpu.BLOCK_TOKENS + 21),
    ],
)
@pytest.mark.parametrize("attention_window", [[16, 16], [4, 16, 64]], ids=str)
def test_logits_are_those_of_transformers_at_every_length(num_tokens: int, attention_window: list[int]):
    assert_same_as_transformers(random_model(attention_window), [num_tokens], [min(num_tokens, 4)])


# transformers needs attention windows that divide the largest one, and none of 2.
@given(
    lengths=st.lists(st.integers(1, 120) | st.integers(500, 600), min_size=1, max_size=4),
    attention_window=st.lists(st.sampled_from([4, 8, 32, 64, 256]), min_size=1, max_size=3),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_logits_are_those_of_transformers_for_any_batch(
    lengths: list[int], attention_window: list[int], data: st.DataObject
):
    num_global = [data.draw(st.integers(1, min(length, 40))) for length in lengths]
    assert_same_as_transformers(random_model(attention_window), lengths, num_global)


@pytest.mark.parametrize("more", [-1, 0, 1, 2])
@pytest.mark.parametrize("block", [BLOCK_TOKENS, attention_gpu.BLOCK_TOKENS])
def test_the_reach_may_be_near_the_size_of_a_block(block: int, more: int):
    assert_same_as_transformers(random_model([2 * (block + more)]), [3 * block + 21, 2 * block], [4, 9])


def test_sixteen_windows_with_questions_of_all_lengths():
    assert_same_as_transformers(random_model([16, 8]), [*range(85, 101)], [*range(16, 0, -1)])


def test_a_question_may_be_longer_than_a_block():
    lengths, num_global = [BLOCK_TOKENS + 90, BLOCK_TOKENS + 80], [BLOCK_TOKENS + 30, 3]
    assert_same_as_transformers(random_model([16, 8]), lengths, num_global)


def test_windows_may_consist_of_global_tokens_only():
    assert_same_as_transformers(random_model([16, 8]), [30, 20], [30, 20])


@pytest.mark.parametrize(
    ("lengths", "num_global"), [([9], [0]), ([10], [0]), ([40, 300], [0, 0]), ([40, 300], [0, 5])], ids=str
)
def test_windows_may_have_no_global_token(lengths: list[int], num_global: list[int]):
    assert_same_as_transformers(random_model([16, 16]), lengths, num_global)


@pytest.mark.parametrize("config", [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"pad_token_id": 0}], ids=str)
def test_the_config_is_respected(config: dict):
    assert_same_as_transformers(random_model([16, 8], **config), [50, 33], [5, 9])


def test_a_window_may_use_all_positions_and_no_more():
    model = random_model([16, 8], max_position_embeddings=62)
    assert_same_as_transformers(model, [60], [5])
    with pytest.raises(ValueError, match="a window has 61 tokens, the model has positions for 60"):
        our_logits(model, random_windows([61]), [61], [5])


def test_logits_do_not_depend_on_the_rest_of_the_batch():
    lengths, num_global = [700, 310, 60, 9, 1], [7, 30, 2, 9, 1]
    model, ids_BT = random_model([32, 8]), random_windows(lengths)
    with torch.inference_mode():
        together = our_logits(model, ids_BT, lengths, num_global)
        for b, length in enumerate(lengths):
            alone = our_logits(model, ids_BT[b : b + 1, :length], [length], [num_global[b]])
            of_batch = together[0][b : b + 1, :length], together[1][b : b + 1, :length]
            assert_same(of_batch, alone, is_real([length]))


@pytest.mark.parametrize("lengths", [[60, 41], [600, 333]])
def test_bfloat16_is_as_close_to_float32_as_that_of_transformers(lengths: list[int]):
    num_global = [5, 9]
    model, ids_BT, is_real_BT = random_model([32, 8]), random_windows(lengths), is_real(lengths)
    with torch.inference_mode():
        exact = torch.stack(transformers_logits(model, ids_BT, lengths, num_global))[:, is_real_BT]
        model.bfloat16()
        theirs = torch.stack(transformers_logits(model, ids_BT, lengths, num_global))[:, is_real_BT]
        ours = torch.stack(our_logits(model, ids_BT, lengths, num_global))[:, is_real_BT]
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, ours.bfloat16().float()), "logits are rounded, which makes ties"
    assert (ours - exact).abs().mean() < 1.1 * (theirs - exact).abs().mean()


@pytest.mark.parametrize(("lengths", "num_global"), [([50, 37], [5, 9]), ([330, 300], [5, 5])])
def test_gradients_are_those_of_transformers(lengths: list[int], num_global: list[int]):
    ids_BT, is_real_BT = random_windows(lengths), is_real(lengths)
    weights = torch.randn(2, int(is_real_BT.sum()))
    gradients = []
    for logits in (transformers_logits, our_logits):
        model = random_model([16, 8])
        loss = (torch.stack(logits(model, ids_BT, lengths, num_global))[:, is_real_BT] * weights).sum()
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    expected, ours = gradients
    for name, gradient in expected.items():
        # That of a key's bias, which adds a constant to all scores of a query, is 0 but for rounding.
        largest = 10.0 if name.endswith(("key.bias", "key_global.bias")) else float(gradient.abs().max())
        assert_close(ours[name], gradient, atol=1e-4 * largest, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_a_cpu_uses_blockwise_attention_outside_of_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LongformerQA, "always_batched", False)
    monkeypatch.delattr("qa_ray.model.longformer.model.batched_attention")
    our_logits(random_model([16], attention_probs_dropout_prob=0.1), random_windows([30]), [30], [4])


@pytest.mark.parametrize(("num_global", "needs_keys"), [(6, False), (7, True)])
def test_few_global_tokens_need_no_global_keys(num_global: int, needs_keys: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LongformerQA, "always_batched", False)
    model, inputs = random_model([16]), (random_windows([40]), [40], [num_global])  # 4 heads, 32 wide
    layers: Any = model.longformer.encoder.layer
    projections = []
    with torch.inference_mode():
        expected = transformers_logits(model, *inputs)
        for name in ("key_global", "value_global"):
            getattr(layers[0].attention.self, name).register_forward_hook(lambda *_: projections.append(1))
        assert_same(our_logits(model, *inputs), expected, is_real([40]))
    assert bool(projections) == needs_keys


def test_dropout_applies_in_training_only():
    model, ids_BT = (
        random_model([16, 8], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5),
        random_windows([40]),
    )
    reader = LongformerQA.from_transformers(model)
    inputs = ids_BT[0], [40], [5]
    assert_close(reader.eval()(*inputs), reader(*inputs))
    reader.train()
    assert not torch.equal(reader(*inputs)[0], reader(*inputs)[0])


def test_parameters_have_the_same_names_as_in_transformers():
    model = random_model([16, 8])
    assert LongformerQA.from_transformers(model).state_dict().keys() == model.state_dict().keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lengths", [[60, 41], [600, 333]])
def test_a_gpu_gives_the_same_logits(lengths: list[int]):
    num_global = [5, 9]
    model: Any = random_model([32, 8])
    ids_BT = random_windows(lengths)
    with torch.inference_mode():
        expected = transformers_logits(model, ids_BT, lengths, num_global)
        ours = our_logits(model.cuda(), ids_BT.cuda(), lengths, num_global)
        assert_same(ours, expected, is_real(lengths), tolerance=1e-4)
