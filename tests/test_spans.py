import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_ray import spans as module
from qa_ray.records import Span
from qa_ray.spans import log_normaliser, rank_logits, spans
from qa_ray.windows import windows


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Logits (a few values only, so that there are ties), reach, and the longest answer."""
    num_tokens, room = draw(st.integers(1, 60)), draw(st.integers(1, 25))
    reach = torch.from_numpy(windows(num_tokens, room, draw(st.integers(0, room - 1))).reach_T())
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    start, end = (torch.from_numpy(random.integers(-6, 7, num_tokens).astype(np.float32)) for _ in range(2))
    return start, end, reach, draw(st.integers(1, 12))


def brute_force(start: torch.Tensor, end: torch.Tensor, reach: torch.Tensor, longest: int) -> list[Span]:
    """Every span, one by one."""
    found = [
        Span(i, j + 1, float(start[i] + end[j]))
        for i in range(len(start))
        for j in range(i, min(i + longest, int(reach[i])))
    ]
    return sorted(found, key=lambda span: (-span.logit, span.start_token, span.stop_token))


@given(cases(), st.integers(1, 9))
def test_spans_are_those_of_a_brute_force_search_in_the_same_order(case: tuple, first: int):
    assert list(spans(*case, first=first)) == brute_force(*case)


@given(cases())
def test_chunks_change_nothing(case: tuple):
    whole = list(spans(*case, first=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_TOKENS", 7)
        assert list(spans(*case, first=5)) == whole


def test_asking_for_a_few_of_many_tokens_takes_the_best_of_all_chunks():
    torch.manual_seed(0)
    start, end = torch.randn(40_000), torch.randn(40_000)
    best = list(itertools.islice(spans(start, end, torch.full((40_000,), 40_000), 30), 3))
    assert [span.logit for span in best] == sorted((span.logit for span in best), reverse=True)
    band = max(float(start[i] + end[i : i + 30].max()) for i in range(40_000))
    assert best[0].logit == pytest.approx(band)


def test_no_span_leaves_its_window():
    start, end = torch.zeros(10), torch.zeros(10)
    start[3], end[6] = 5, 5
    reach = torch.from_numpy(windows(10, 5, 0).reach_T())
    assert all(span.stop_token <= 5 or span.start_token >= 5 for span in spans(start, end, reach, 10))


def test_logit_minus_null_moves_a_window_as_a_whole():
    logits, null = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 10.0])
    owned = torch.tensor([2, 1])
    assert rank_logits(logits, null, owned, "logit_minus_null").tolist() == [0.5, 1.5, -7.0]
    assert rank_logits(logits, null, owned, "logit").tolist() == [1.0, 2.0, 3.0]


def test_the_normaliser_counts_every_token_once():
    assert log_normaliser(torch.log(torch.tensor([1.0, 2.0, 5.0]))) == pytest.approx(np.log(8))
