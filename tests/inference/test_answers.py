import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference.answers import Candidate, answer, answer_range, calibrated, candidates, snippet
from qa_ray.inference.borders import is_border, widen
from qa_ray.inference.spans import log_normalizers, spans
from qa_ray.schemas import Span, Tokens

TEXTS = st.text(alphabet="ab \r\n\t\u00a0e\u0301\u0308中😀🏽\u200d7,0.ᄀ\u1161", min_size=1, max_size=40)


def each_character(text: str) -> Tokens:
    """A token for every character, white space too."""
    positions = np.arange(len(text), dtype=np.int32)
    return Tokens(positions, positions, positions + 1)


@given(TEXTS, st.data())
def test_a_range_loses_its_white_space_and_ends_at_borders(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    first, last = answer_range(text, start, stop)
    stripped = start + len(text[start:stop]) - len(text[start:stop].lstrip())
    assert (first, last) == widen(text, stripped, stripped + len(text[start:stop].strip())) or first == last
    assert (first == last) == (not text[start:stop].strip())
    assert first == last or (is_border(text, first) and is_border(text, last))
    assert answer_range(text, first, last) == (first, last)


def test_an_answer_keeps_the_combining_marks_of_its_last_letter():
    text = "cafe\u0301 noir"
    assert text[slice(*answer_range(text, 0, 4))] == "cafe\u0301"


def test_an_answer_keeps_the_last_vowel_of_a_tokenizer_that_composes_korean():
    text = "ᄃ\u1161\u1105\u1175\u1102\u1173\u11ab 1932년"  # 다리는
    assert text[slice(*answer_range(text, 0, 5))] == text[:7]


def tokens_of(*texts: str) -> tuple[str, Tokens]:
    """A text of these tokens, and the tokens."""
    stops = np.cumsum([len(text) for text in texts]).astype(np.int32)
    return "".join(texts), Tokens(np.arange(len(texts), dtype=np.int32), stops - [len(text) for text in texts], stops)


def test_spans_that_cut_a_number_are_its_candidate_with_the_best_score():
    text, tokens = tokens_of("paid", " ", "7", ",", "000", ",", "000", " in", " May")
    spans_by_logit = [
        Span(2, 5, 4.0),
        Span(0, 3, 3.0),
        Span(2, 7, 2.0),
        Span(4, 8, 1.5),
        Span(0, 7, 1.0),
        Span(8, 9, 0.5),
    ]
    best = candidates(spans_by_logit, tokens, text, n_best=4)
    assert [(text[c.start_char : c.stop_char], c.span.logit) for c in best] == [
        ("7,000,000", 4.0),
        ("paid 7,000,000", 3.0),
        ("7,000,000 in", 1.5),
        ("May", 0.5),
    ]


@given(TEXTS, st.integers(0, 1000), st.integers(1, 8), st.integers(1, 12))
def test_candidates_are_the_n_best_ranges_of_all_spans(text: str, seed: int, longest: int, n_best: int):
    random = np.random.default_rng(seed)
    start, end = (torch.from_numpy(random.integers(-3, 4, len(text)).astype(np.float32)) for _ in range(2))
    (best_spans,) = spans(start, end, until_the_end(text), [len(text)], longest, first=2)
    best_logits: dict[tuple[int, int], float] = {}
    for first, last in itertools.combinations_with_replacement(range(len(text)), 2):
        chars = answer_range(text, first, last + 1)
        if last - first < longest and chars[0] < chars[1]:
            best_logits[chars] = max(best_logits.get(chars, -math.inf), float(start[first] + end[last]))
    best = candidates(best_spans, each_character(text), text, n_best)
    assert [c.span.logit for c in best] == sorted(best_logits.values(), reverse=True)[:n_best]
    assert all(best_logits[c.start_char, c.stop_char] == c.span.logit for c in best)
    assert len({c[:2] for c in best}) == len(best)


def test_spans_that_differ_only_by_white_space_are_one_candidate():
    text = " to be "
    best = candidates([Span(0, 7, 3.0), Span(1, 6, 2.0), Span(1, 3, 1.0)], each_character(text), text, n_best=5)
    assert [(text[c.start_char : c.stop_char], c.span.logit) for c in best] == [("to be", 3.0), ("to", 1.0)]


def test_equal_texts_at_different_places_are_different_candidates():
    text = "5 percent, then 5 PERCENT"
    best = candidates([Span(0, 9, 3.0), Span(16, 25, 2.0)], each_character(text), text, n_best=5)
    assert [(c.start_char, c.stop_char) for c in best] == [(0, 9), (16, 25)]


def answer_of(text: str, best: list[Candidate], log_normalizer: float, **settings: Any) -> dict[str, Any]:
    """``answer`` without calibration, where the no-answer rule allows an answer."""
    uncalibrated = {"score_slope": 1.0, "score_intercept": 0.0, "snippet_chars": 160}
    decision = {"no_answer_score": 0.25, "has_answer": True}
    return answer(text, best, log_normalizer=log_normalizer, **uncalibrated | decision | settings)


def until_the_end(text: str) -> torch.Tensor:
    """How far spans may reach from each character: one window holds all."""
    return torch.arange(len(text), 0, -1)


def sum_of_normalizers(*logits: torch.Tensor) -> float:
    return sum(float(log_normalizers(logits_T, [len(logits_T)])[0]) for logits_T in logits)


@given(TEXTS, st.integers(0, 1000), st.integers(1, 8), st.floats(0.1, 3), st.floats(-3, 3))
def test_scores_are_in_0_to_1_and_descend_and_sum_to_at_most_1_without_calibration(
    text: str, seed: int, longest: int, slope: float, intercept: float
):
    random = torch.Generator().manual_seed(seed)
    start, end = (4 * torch.randn(len(text), generator=random) for _ in range(2))
    (best_spans,) = spans(start, end, until_the_end(text), [len(text)], longest)
    best = candidates(best_spans, each_character(text), text, n_best=10_000)
    normalizer = sum_of_normalizers(start, end)
    plain = answer_of(text, best, normalizer)["n_best"]
    assert sum(span["score"] for span in plain) <= 1 + 1e-6
    calibrated_spans = answer_of(text, best, normalizer, score_slope=slope, score_intercept=intercept)["n_best"]
    assert [span["answer"] for span in calibrated_spans] == [span["answer"] for span in plain]
    for scores in ([span["score"] for span in n_best] for n_best in (plain, calibrated_spans)):
        assert all(0 <= score <= 1 for score in scores)
        assert scores == sorted(scores, reverse=True)
    assert all(text[span["start_char"] : span["stop_char"]] == span["answer"] for span in plain)


def test_the_score_is_the_softmax_product():
    text, start, end = "abc", torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.0, 3.0, 1.0])
    (best_spans,) = spans(start, end, until_the_end(text), [3], 3)
    best = candidates(best_spans, each_character(text), text, n_best=1)
    fields = answer_of(text, best, sum_of_normalizers(start, end))
    expected = torch.softmax(start, 0)[0] * torch.softmax(end, 0)[1]
    assert fields["answer"] == "ab"
    assert fields["score"] == pytest.approx(float(expected))


def test_calibration_scales_and_shifts_the_log_odds():
    assert calibrated(0.8, 1, 0) == pytest.approx(0.8)
    assert calibrated(0.8, 0.5, 0) == pytest.approx(2 / 3)  # odds of 4 become their root, 2
    assert calibrated(0.5, 0.5, math.log(3)) == pytest.approx(0.75)
    assert calibrated(0.0, 0.5, 1) == pytest.approx(0)


def test_rounding_makes_no_answer_certain():
    # Logits in single precision cannot tell these from each other.
    assert calibrated(1.0, 0.5, -1) == calibrated(1 + 1e-6, 0.5, -1) == calibrated(1 - 1e-7, 0.5, -1) < 0.998
    assert calibrated(1.0, 1, 0) == pytest.approx(1, abs=1e-5)


def test_no_answer_is_null_and_keeps_its_score_and_the_n_best():
    best = [Candidate(0, 2, Span(0, 1, 1.0))]
    fields = answer_of("ab", best, 1.0, no_answer_score=0.9, has_answer=False)
    assert fields["no_answer_score"] == 0.9
    assert [fields[name] for name in ("answer", "start_char", "stop_char", "score", "snippet")] == [None] * 5
    assert fields["n_best"][0]["answer"] == "ab"
    assert answer_of("ab", best, 1.0, no_answer_score=0.9)["answer"] == "ab"


def test_a_document_without_candidates_has_no_answer():
    fields = answer_of("\n", [], 0.0, no_answer_score=1.0)
    assert (fields["answer"], fields["n_best"], fields["no_answer_score"]) == (None, [], 1.0)


@given(TEXTS, st.data(), st.integers(0, 30))
def test_a_snippet_is_text_around_the_answer(text: str, data: st.DataObject, length: int):
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    excerpt = snippet(text, start, stop, length).removeprefix("…").removesuffix("…")
    assert text[start:stop] in excerpt
    assert excerpt in text


def test_a_snippet_is_cut_between_words():
    text = "one two three four five six seven eight nine"
    assert snippet(text, 19, 23, 16) == "…four five six…"
    assert snippet(text, 0, 3, 11) == "one two…"
    assert snippet("北京大学在哪里", 2, 4, 4) == "…京大学在…"
