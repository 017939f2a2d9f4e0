"""The no-answer rule alone: a best span, null logits and a boost in, a score and a decision out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference.no_answer import has_answer, no_answer_score
from qa_ray.inference.windows import windows
from qa_ray.schemas import Ranking, Span

WINDOWS = windows(20, 10, 4)  # windows own the tokens [0, 8), [8, 14), [14, 20)
NO_BOOST_T = np.zeros(20, dtype=np.float32)


def score(best: Span | None, null_logit_W: list[float], boost_T: np.ndarray = NO_BOOST_T, ranking: Ranking = "logit"):
    null_start_W = np.arange(3, dtype=np.float32)
    null_end_W = np.array(null_logit_W, dtype=np.float32) - null_start_W
    return no_answer_score(best, WINDOWS, null_start_W, null_end_W, boost_T, ranking)


def test_the_score_is_the_logistic_of_the_null_logit_minus_the_spans():
    assert score(Span(0, 2, 1.0), [3, 0, 0]) == pytest.approx(1 / (1 + math.exp(1 - 3)))
    assert score(Span(0, 2, 2.0), [2, 0, 0]) == 0.5


@pytest.mark.parametrize(("start_token", "window"), [(0, 0), (7, 0), (8, 1), (13, 1), (14, 2), (19, 2)])
def test_the_null_logit_is_that_of_the_window_that_owns_the_spans_start(start_token: int, window: int):
    null_logit_W = [10.0, 20.0, 30.0]
    assert WINDOWS.own_start_W[window] <= start_token < WINDOWS.own_stop_W[window]
    assert score(Span(start_token, 20, null_logit_W[window]), null_logit_W) == 0.5


def test_null_logits_that_the_ranking_has_subtracted_do_not_count_twice():
    assert score(Span(0, 2, 0.0), [9, 9, 9], ranking="logit_minus_null") == 0.5
    assert score(Span(0, 2, 2.0), [9, 9, 9], ranking="logit_minus_null") == pytest.approx(1 / (1 + math.exp(2)))


@pytest.mark.parametrize("ranking", ["logit", "logit_minus_null"])
def test_the_lexical_boost_of_both_ends_cancels(ranking: Ranking):
    boost_T = NO_BOOST_T.copy()
    boost_T[3], boost_T[5] = 2.0, 4.0
    expected = score(Span(3, 6, 1.5), [3, 0, 0], ranking=ranking)
    assert score(Span(3, 6, 1.5 + 2.0 + 4.0), [3, 0, 0], boost_T, ranking) == pytest.approx(expected)


def test_a_pair_without_a_span_scores_1():
    assert score(None, [0, 0, 0]) == 1.0


@given(st.floats(-2000, 2000, width=32), st.floats(-2000, 2000, width=32))
def test_the_score_is_in_0_to_1_and_falls_with_the_spans_logit(logit: float, null_logit: float):
    scores = [score(Span(0, 1, better), [null_logit, 0, 0]) for better in (logit, logit + 1)]
    assert 0 <= scores[1] <= scores[0] <= 1


def test_the_answer_is_null_only_above_the_threshold():
    assert has_answer(0.5, 0.5)
    assert not has_answer(0.5 + 1e-12, 0.5)
    assert has_answer(1.0, 1.0)
    assert not has_answer(1e-12, 0.0)
