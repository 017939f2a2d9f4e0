import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference import spans as module
from qa_ray.inference.spans import log_normalizers, rank_logits, spans
from qa_ray.inference.windows import windows
from qa_ray.schemas import Span

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Logits of a document (a few values only, so that there are ties), and reach."""
    num_tokens, room = draw(st.integers(1, 60)), draw(st.integers(1, 25))
    reach = torch.from_numpy(windows(num_tokens, room, draw(st.integers(0, room - 1))).reach_T())
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    start, end = (torch.from_numpy(random.integers(-6, 7, num_tokens).astype(np.float32)) for _ in range(2))
    return start, end, reach


def brute_force(start: torch.Tensor, end: torch.Tensor, reach: torch.Tensor, longest: int) -> list[Span]:
    """Every span, one by one."""
    all_spans = [
        Span(i, j + 1, float(start[i] + end[j]))
        for i in range(len(start))
        for j in range(i, i + min(longest, int(reach[i])))
    ]
    return sorted(all_spans, key=lambda span: (-span.logit, span.start_token, span.stop_token))


def spans_of(documents: list[Case], longest: int, first: int) -> list[list[Span]]:
    """All spans of documents that are searched together."""
    start, end, reach = map(torch.cat, zip(*documents, strict=True))
    num_tokens = [len(case[0]) for case in documents]
    return [list(document_spans) for document_spans in spans(start, end, reach, num_tokens, longest, first)]


DOCUMENTS = st.lists(cases(), min_size=1, max_size=4)


@given(DOCUMENTS, st.integers(1, 12), st.integers(1, 9))
def test_spans_are_those_of_a_brute_force_search_in_the_same_order(documents: list[Case], longest: int, first: int):
    assert spans_of(documents, longest, first) == [brute_force(*case, longest) for case in documents]


@given(DOCUMENTS, st.integers(1, 12), st.integers(1, 40), st.integers(1, 80))
def test_the_size_of_rows_does_not_change_the_result(
    documents: list[Case], longest: int, row_tokens: int, searched_tokens: int
):
    whole = spans_of(documents, longest, 5)
    normalizers = log_normalizers_of(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROW_TOKENS", row_tokens)
        patch.setattr(module, "SEARCHED_TOKENS", searched_tokens)
        assert spans_of(documents, longest, 5) == whole
        assert log_normalizers_of(documents) == pytest.approx(normalizers, rel=1e-12)


def log_normalizers_of(documents: list[Case]) -> np.ndarray:
    return log_normalizers(torch.cat([start for start, _, _ in documents]), [len(case[0]) for case in documents])


def test_a_few_spans_of_many_tokens_are_the_best_of_all_rows():
    torch.manual_seed(0)
    start, end = torch.randn(40_000), torch.randn(40_000)
    (document_spans,) = spans(start, end, torch.arange(40_000, 0, -1), [40_000], 30)
    best = list(itertools.islice(document_spans, 3))
    assert [span.logit for span in best] == sorted((span.logit for span in best), reverse=True)
    band = max(float(start[i] + end[i : i + 30].max()) for i in range(40_000))
    assert best[0].logit == pytest.approx(band)


def test_no_span_leaves_its_window_nor_its_document():
    start, end = torch.zeros(14), torch.zeros(14)
    start[3], end[6], start[9], end[10] = 5, 5, 5, 5
    reach = torch.from_numpy(np.concatenate([windows(10, 5, 0).reach_T(), windows(4, 5, 0).reach_T()]))
    first, second = spans(start, end, reach, [10, 4], 10)
    assert all(span.stop_token <= 5 or 5 <= span.start_token < span.stop_token <= 10 for span in first)
    assert max(span.stop_token for span in second) == 4


def test_logit_minus_null_shifts_all_logits_of_a_window():
    logits, null = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 10.0])
    owned = torch.tensor([2, 1])
    assert rank_logits(logits, null, owned, "logit_minus_null").tolist() == [0.5, 1.5, -7.0]
    assert rank_logits(logits, null, owned, "logit").tolist() == [1.0, 2.0, 3.0]


def test_the_normalizer_counts_every_token_of_its_document_once():
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0, 7.0]))
    assert log_normalizers(logits, [3, 1]) == pytest.approx([np.log(8), np.log(7)])
