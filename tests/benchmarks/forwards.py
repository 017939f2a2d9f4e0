"""The forward pass alone: ours, that of transformers 5, and the time that its matrix products need at least."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from rounds import Row, alternate, dtypes
from torch import nn
from transformers import LongformerConfig, LongformerForQuestionAnswering

from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.cpu_linear import prepack
from qa_ray.model.device import cpu_has_int8
from qa_ray.model.runner import Forward, Model

NUM_QUESTION_TOKENS = 14
MATRIX_SIZE = 2048


def matrix_product(dtype: str) -> Callable[[], object]:
    """A product of two square matrices, one of them prepacked (at least 15 % faster than ``a @ b`` in float32)."""
    torch_dtype = getattr(torch, dtype)
    layer, x = (
        nn.Sequential(nn.Linear(MATRIX_SIZE, MATRIX_SIZE, dtype=torch_dtype)),
        torch.randn(MATRIX_SIZE, MATRIX_SIZE),
    )
    prepack(layer)
    x = x.to(torch_dtype)
    return torch.inference_mode()(lambda: layer(x))


def operations(config: LongformerConfig, num_tokens: int, num_global: int, dtype: str) -> float:
    """Floating-point operations of exact attention for a window; a multiplication and an addition are two.

    In float32 the projections of global attention are folded (model.longformer.attention_cpu) where that takes fewer.
    """
    width, inner = config.hidden_size, config.intermediate_size
    total = 0.0
    for attention_window in cast("list[int]", config.attention_window):
        per_token = 2 * (4 * width**2 + 2 * width * inner)  # q, k, v, output; feed-forward
        folded = config.num_attention_heads * num_global if dtype == "float32" else width
        per_token += 4 * width * min(width, folded)  # global k and v, or the folded projections
        reach = attention_window // 2
        keys = sum(min(i + reach, num_tokens - 1) - max(i - reach, 0) + 1 for i in range(num_tokens))
        scores = keys + 2 * num_global * num_tokens
        total += per_token * num_tokens + 2 * width**2 * num_global + 4 * width * scores
    return total


def random_windows(vocab_size: int, num_windows: int, num_tokens: int) -> tuple[Any, ...]:
    """A batch as model.runner.Model takes it."""
    ids_N = np.random.default_rng(0).integers(10, vocab_size - 1, num_windows * num_tokens)
    return ids_N, np.full(num_windows, num_tokens), np.full(num_windows, NUM_QUESTION_TOKENS)


@contextmanager
def longformer_base() -> Iterator[str]:
    """The folder of a model with random weights and the sizes of allenai/longformer-base-4096."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LongformerConfig(
            vocab_size=1000, max_position_embeddings=4098, type_vocab_size=1, attention_window=[512] * 12
        )
        LongformerForQuestionAnswering(config).save_pretrained(folder)
        yield folder


def forward_rows(rounds: int) -> Iterator[Row]:
    with longformer_base() as base:
        yield from forwards("default model", open_checkpoint("default").folder, rounds)
        yield from forwards("Longformer-base", base, rounds)


def forwards(name: str, folder: str, rounds: int) -> Iterator[Row]:
    config = LongformerConfig.from_pretrained(folder)
    forward_by_name: dict[str, Forward] = {"qa-ray": "auto", "transformers 5": "transformers"}
    models = {
        f"{contender}, {dtype}": Model(folder, document_type_id=0, device="cpu", dtype=dtype, forward=forward)
        for dtype in dtypes()
        for contender, forward in forward_by_name.items()
    }
    if cpu_has_int8():
        models["qa-ray, int8"] = Model(folder, document_type_id=0, device="cpu", dtype="int8")
    for num_windows, num_tokens in ((1, 4096), (1, 2048), (5, 384)):
        batch = random_windows(config.vocab_size, num_windows, num_tokens)
        num_operations = {
            dtype: num_windows * operations(config, num_tokens, NUM_QUESTION_TOKENS, dtype) for dtype in dtypes()
        }
        work: dict[str, Callable[[], object]] = {key: partial(model, *batch) for key, model in models.items()}
        work |= {dtype: matrix_product(dtype) for dtype in dtypes()}
        seconds = alternate(work, rounds)
        rates = {dtype: 2 * MATRIX_SIZE**3 / min(seconds.pop(dtype)) for dtype in dtypes()}
        for contender, seconds_per_round in seconds.items():
            dtype = contender.split(", ")[1]
            task = f"{name}, forward, {num_windows} × {num_tokens:,} tokens"
            if dtype == "int8":  # whose operations no floor is measured for
                yield Row(task, contender, seconds_per_round)
                continue
            notes = {"gflops": rates[dtype] / 1e9}
            yield Row(task, contender, seconds_per_round, num_operations[dtype] / rates[dtype], notes)
    batch = random_windows(config.vocab_size, 2, 4096)
    exact = models.pop("transformers 5, float32")(*batch)[0]
    for contender, model in models.items():
        difference = float((model(*batch)[0] - exact).abs().max() / exact.abs().max())
        yield Row(f"{name}, largest difference of logits", contender, [], notes={"relative": difference})
