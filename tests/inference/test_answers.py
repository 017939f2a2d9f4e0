import math
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference.answers import Candidate, answer, calibrated, candidates, snippet, trim
from qa_ray.inference.spans import log_normalizers, spans
from qa_ray.schemas import Span, Tokens

TEXTS = st.text(alphabet="ab \n\t\u00a0e\u0301\u0308中😀.", min_size=1, max_size=40)


def each_character(text: str) -> Tokens:
    """A token for every character, white space too."""
    positions = np.arange(len(text), dtype=np.int32)
    return Tokens(positions, positions, positions + 1)


@given(TEXTS, st.data())
def test_trim_takes_off_white_space_and_nothing_else(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    a, b = trim(text, start, stop)
    assert text[a:b].rstrip() == text[a:b].lstrip() == text[a:b]
    assert text[start:stop].strip() == text[a : min(b, stop)]
    assert all(unicodedata.category(character).startswith("M") for character in text[stop:b])


def test_an_answer_keeps_the_combining_marks_of_its_last_letter():
    text = "cafe\u0301 noir"
    assert text[slice(*trim(text, 0, 4))] == "cafe\u0301"


def test_spans_that_differ_only_by_white_space_are_one_candidate():
    text = " to be "
    found = candidates([Span(0, 7, 3.0), Span(1, 6, 2.0), Span(1, 3, 1.0)], each_character(text), text, n_best=5)
    assert [(text[c.start_char : c.stop_char], c.logit) for c in found] == [("to be", 3.0), ("to", 1.0)]


def test_equal_texts_at_different_places_are_different_candidates():
    text = "5 percent, then 5 PERCENT"
    found = candidates([Span(0, 9, 3.0), Span(16, 25, 2.0)], each_character(text), text, n_best=5)
    assert [(c.start_char, c.stop_char) for c in found] == [(0, 9), (16, 25)]


def until_the_end(text: str) -> torch.Tensor:
    """How far spans may reach from each character: one window holds all."""
    return torch.arange(len(text), 0, -1)


def sum_of_normalizers(*logits: torch.Tensor) -> float:
    return sum(float(log_normalizers(logits_T, [len(logits_T)])[0]) for logits_T in logits)


@given(TEXTS, st.integers(0, 1000), st.integers(1, 8), st.floats(0.1, 3), st.floats(-3, 3))
def test_scores_lie_in_0_to_1_and_fall_and_as_the_model_gives_them_sum_to_at_most_1(
    text: str, seed: int, longest: int, slope: float, intercept: float
):
    random = torch.Generator().manual_seed(seed)
    start, end = (4 * torch.randn(len(text), generator=random) for _ in range(2))
    (found_spans,) = spans(start, end, until_the_end(text), [len(text)], longest)
    best = candidates(found_spans, each_character(text), text, n_best=10_000)
    normalizer = sum_of_normalizers(start, end)
    found = answer(text, best, log_normalizer=normalizer, null_logit=0.0)
    assert sum(span["score"] for span in found["n_best"]) <= 1 + 1e-6
    fitted = answer(text, best, log_normalizer=normalizer, null_logit=0.0, score_slope=slope, score_intercept=intercept)
    assert [span["answer"] for span in fitted["n_best"]] == [span["answer"] for span in found["n_best"]]
    for scores in ([span["score"] for span in some["n_best"]] for some in (found, fitted)):
        assert all(0 <= score <= 1 for score in scores)
        assert scores == sorted(scores, reverse=True)
    assert all(text[span["start_char"] : span["stop_char"]] == span["answer"] for span in found["n_best"])
    assert 0 <= found["no_answer_score"] <= 1


def test_the_score_is_the_softmax_product():
    text, start, end = "abc", torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 1.0])
    (found_spans,) = spans(start, end, until_the_end(text), [3], 3)
    best = candidates(found_spans, each_character(text), text, n_best=1)
    found = answer(text, best, log_normalizer=sum_of_normalizers(start, end), null_logit=0.0)
    expected = torch.softmax(start, 0)[0] * torch.softmax(end, 0)[1]
    assert found["answer"] == "ab"
    assert found["score"] == pytest.approx(float(expected))


def test_a_score_is_moved_on_the_scale_of_logits():
    assert calibrated(0.8, 1, 0) == pytest.approx(0.8)
    assert calibrated(0.8, 0.5, 0) == pytest.approx(2 / 3)  # odds of 4 become their root, 2
    assert calibrated(0.5, 0.5, math.log(3)) == pytest.approx(0.75)
    assert calibrated(0.0, 0.5, 1) == pytest.approx(0)


def test_rounding_makes_no_answer_certain():
    # Logits in single precision cannot tell these from each other.
    assert calibrated(1.0, 0.5, -1) == calibrated(1 + 1e-6, 0.5, -1) == calibrated(1 - 1e-7, 0.5, -1) < 0.998
    assert calibrated(1.0, 1, 0) == pytest.approx(1, abs=1e-5)


def test_no_answer_is_null_above_the_threshold_and_keeps_the_n_best():
    best = [Candidate(0, 2, 1.0, 0, 1)]
    found = answer("ab", best, log_normalizer=1.0, null_logit=3.0, no_answer_threshold=0.5)
    assert found["no_answer_score"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert found["answer"] is found["start_char"] is found["stop_char"] is found["score"] is found["snippet"] is None
    assert found["n_best"][0]["answer"] == "ab"
    assert answer("ab", best, log_normalizer=1.0, null_logit=3.0, no_answer_threshold=0.9)["answer"] == "ab"


def test_a_document_without_candidates_has_no_answer():
    assert answer("\n", [], log_normalizer=0.0, null_logit=0.0)["no_answer_score"] == 1.0


@given(TEXTS, st.data(), st.integers(0, 30))
def test_a_snippet_is_text_round_the_answer(text: str, data: st.DataObject, length: int):
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    found = snippet(text, start, stop, length).removeprefix("…").removesuffix("…")
    assert text[start:stop] in found
    assert found in text


def test_a_snippet_is_cut_between_words():
    text = "one two three four five six seven eight nine"
    assert snippet(text, 19, 23, 16) == "…four five six…"
    assert snippet(text, 0, 3, 11) == "one two…"
    assert snippet("北京大学在哪里", 2, 4, 4) == "…京大学在…"
