"""int8: linear layers whose weights and inputs are rounded, on processors that multiply in it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from qa_ray.errors import ConfigError
from qa_ray.inference.reader import Reader
from qa_ray.model import device
from qa_ray.model.cpu_linear import Int8Linear
from tests.support.models import TEST_FAMILIES

needs_int8 = pytest.mark.skipif(not device.cpu_has_int8(), reason="the processor does not multiply in int8")
TEXT = "Ada Vane built the lighthouse in 1871. It burned down in 1897."


def rounded(x_ND: torch.Tensor, levels: int) -> torch.Tensor:
    """The values of each row rounded to ``levels`` steps on either side of zero."""
    step_N1 = x_ND.abs().amax(1, keepdim=True).clamp(min=1e-9) / levels
    return (x_ND / step_N1).round() * step_N1


@needs_int8
@pytest.mark.parametrize("has_bias", [True, False])
@torch.inference_mode()
def test_a_layer_in_int8_is_the_product_of_rounded_weights_and_rounded_inputs(has_bias: bool):
    torch.manual_seed(0)
    layer = nn.Linear(192, 96, bias=has_bias, dtype=torch.bfloat16)
    x_BLD = (torch.randn(3, 50, 192) * torch.logspace(-3, 3, 50)[:, None]).bfloat16()
    expected = linear(rounded(x_BLD.float().flatten(0, 1), 126), rounded(layer.weight.float(), 127))
    expected = expected.unflatten(0, (3, 50)) + (layer.bias.float() if has_bias else 0)
    difference = (Int8Linear(layer)(x_BLD).float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert difference.max() < 0.02  # rounding to bfloat16 before the rounding to int8


@needs_int8
@torch.inference_mode()
def test_a_token_in_int8_does_not_depend_on_the_others():
    layer = Int8Linear(nn.Linear(64, 64, dtype=torch.bfloat16))
    x_ND = torch.randn(70, 64, dtype=torch.bfloat16)
    beside_a_large_one = torch.cat([x_ND, x_ND[:1] * 1000])
    assert torch.equal(layer(beside_a_large_one)[:70], layer(x_ND))


@needs_int8
@torch.inference_mode()
def test_tokens_and_channels_that_are_zero_give_the_bias_and_what_is_not_finite_stays_so():
    layer = nn.Linear(64, 64, dtype=torch.bfloat16)
    layer.weight[0] = 0
    x_ND = torch.zeros(2, 64, dtype=torch.bfloat16)
    x_ND[1, 0] = torch.nan
    y_ND = Int8Linear(layer)(x_ND)
    assert torch.equal(y_ND[0], layer.bias)
    assert y_ND[1].isnan().all()


@needs_int8
@pytest.mark.parametrize("forward", ["auto", "transformers"])
@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_every_family_answers_in_int8(models: dict[str, str], family: str, forward: str):
    reader, exact = (
        Reader(models[family], device="cpu", dtype=dtype, forward=forward) for dtype in ("int8", "float32")
    )
    assert any(isinstance(layer, Int8Linear) for layer in reader.model._backend.modules())
    score, expected = (r.answer("Who built it?", TEXT)["score"] for r in (reader, exact))
    assert score != expected
    assert score == pytest.approx(expected, rel=0.3)


def test_int8_is_refused_on_a_gpu():
    with pytest.raises(ConfigError, match="dtype='int8': is for CPUs, and the device is a GPU; use dtype bfloat16"):
        device.resolve_dtype("int8", "cuda")


@pytest.mark.parametrize("capability", ["avx2", "avx512_vnni", "avx512_bf16"])
def test_int8_is_refused_on_a_processor_on_which_it_is_not_faster(capability: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    with pytest.raises(ConfigError, match=r"dtype='int8': this processor .* VNNI .*; use dtype auto"):
        device.resolve_dtype("int8", "cpu")


def test_auto_is_never_int8(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    assert device.resolve_dtype("auto", "cpu") == "bfloat16"
