"""The law of reading in part: each token of a chosen window is there once, in order, and no other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.gate.choice import best_windows, num_read, only
from qa_ray.inference.windows import windows
from qa_ray.model.settings import ReadRule
from qa_ray.schemas import Windows

sizes = st.tuples(st.integers(1, 200), st.integers(2, 40), st.integers(0, 39)).filter(lambda size: size[2] < size[1])


@st.composite
def chosen_windows(draw: st.DrawFn) -> tuple[Windows, np.ndarray]:
    all_windows = windows(*draw(sizes))
    chosen = draw(st.sets(st.integers(0, len(all_windows) - 1), min_size=1))
    return all_windows, np.array(sorted(chosen))


@given(chosen_windows())
def test_what_is_read_are_the_tokens_of_the_chosen_windows_each_once_and_in_order(choice):
    all_windows, chosen = choice
    read, tokens = only(all_windows, chosen)
    in_windows = [range(all_windows.start_W[w], all_windows.stop_W[w]) for w in chosen]
    assert tokens.tolist() == sorted(set().union(*in_windows))
    for w, expected in enumerate(in_windows):
        assert tokens[read.start_W[w] : read.stop_W[w]].tolist() == list(expected)


@given(chosen_windows())
def test_every_token_that_is_read_is_owned_by_the_window_in_which_it_has_the_most_context(choice):
    read, tokens = only(*choice)
    assert (read.own_start_W[0], read.own_stop_W[-1]) == (0, len(tokens))
    assert (read.own_start_W[1:] == read.own_stop_W[:-1]).all()
    for w in range(len(read)):
        for token in range(read.own_start_W[w], read.own_stop_W[w]):
            assert read.start_W[w] <= token < read.stop_W[w]
            for other in (w - 1, w + 1):
                if 0 <= other < len(read) and read.start_W[other] <= token < read.stop_W[other]:
                    cut = {w - 1: token - read.start_W[w], w + 1: read.stop_W[w] - 1 - token}[other]
                    cut_of_other = {w - 1: read.stop_W[other] - 1 - token, w + 1: token - read.start_W[other]}[other]
                    assert cut >= cut_of_other - (other == w - 1)


@given(chosen_windows())
def test_no_span_goes_beyond_a_window_that_is_read(choice):
    read, _ = only(*choice)
    for token, reach in enumerate(read.reach_T()):
        assert any(start <= token and token + reach == stop for start, stop in zip(read.start_W, read.stop_W))


@given(sizes)
def test_all_windows_chosen_are_all_windows(size):
    all_windows = windows(*size)
    read, tokens = only(all_windows, np.arange(len(all_windows)))
    assert tokens.tolist() == list(range(size[0]))
    assert all((ours == theirs).all() for ours, theirs in zip(read, all_windows))


@pytest.mark.parametrize(
    ("rule", "num_windows", "expected"),
    [
        ({"most": 8}, 5, 5),
        ({"most": 8}, 50, 8),
        ({"fraction": 0.2}, 50, 10),
        ({"fraction": 0.2}, 51, 11),
        ({"fraction": 0.07, "at_least": 1}, 100, 7),
        ({"fraction": 0.2}, 10, 6),
        ({"fraction": 0.2}, 3, 3),
        ({"fraction": 1.0}, 50, 50),
        ({"fraction": 1e-6, "at_least": 1}, 50, 1),
    ],
)
def test_a_rule_reads_so_many_windows(rule: dict, num_windows: int, expected: int):
    assert num_read(ReadRule(**rule), num_windows) == expected


def test_of_windows_with_equal_scores_the_earlier_ones_are_read():
    assert best_windows(np.array([1.0, 3.0, 1.0, 3.0, 0.0]), 3).tolist() == [0, 1, 3]
