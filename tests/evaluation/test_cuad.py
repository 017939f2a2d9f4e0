"""CUAD's precision and recall: what matches, a case by hand, and the law that they are counts at every threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.evaluation.cuad import Events, curve, events, matches


def gathered(*some: Events) -> Events:
    return Events(*(np.concatenate(column) for column in zip(*some, strict=True)))


@pytest.mark.parametrize(
    ("gold", "span", "is_match"),
    [
        ("New York", "new york.", True),
        ("State of New York", "New York", True),  # 2 of 4 words
        ("the State of New York", "New York", False),  # 2 of 5
        ("and/or", "and or", True),
        ("Producer", "Producer, a company of Nevada", False),
    ],
)
def test_a_span_matches_that_shares_half_of_the_words(gold: str, span: str, is_match: bool):
    assert matches(gold, span) == is_match


def test_where_it_is_allowed_a_span_matches_that_holds_the_gold_text():
    assert matches("Producer", "Producer, a company of Nevada", or_holds=True)
    assert not matches("Producer", "a company of Nevada", or_holds=True)


def test_a_gold_answer_is_found_once_however_many_spans_match_it():
    found = events(["New York"], [("New York", 0.5), ("new york", 0.75), ("Nevada", 0.25)])
    assert found.score_N.tolist() == [0.75, 0.25]
    assert found.is_found_N.tolist() == [True, False]


def test_a_question_without_an_answer_has_wrong_spans_alone():
    assert events([], [("New York", 0.5)]).is_found_N.tolist() == [False]


def test_all_found_and_nothing_wrong_is_an_area_of_100():
    found = curve(events(["New York"], [("New York", 0.5)]))
    assert found
    assert (found.area, found.precision_at_80, found.precision_at_90) == (100, 100, 100)


def test_nothing_found_is_an_area_of_0():
    found = curve(events(["New York"], []))
    assert found
    assert (found.area, found.precision_at_80) == (0, 0)


def test_without_a_gold_answer_there_is_no_curve():
    assert curve(events([], [("New York", 0.5)])) is None


def test_precision_at_a_recall_is_the_best_at_that_recall_or_more():
    # Recall 4/5 comes at precision 4/5 (one wrong before), and all five are found at 5/6.
    some = Events(np.array([6.0, 5, 4, 3, 2, 1]), np.array([False, True, True, True, True, True]))
    found = curve(some)
    assert found
    assert found.precision_at_80 == found.precision_at_90 == pytest.approx(100 * 5 / 6)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -np.inf]), st.booleans()), min_size=1),
    st.data(),
)
def test_each_point_is_a_count_at_some_threshold(rows: list[tuple[float, bool]], data: st.DataObject):
    some = Events(*(np.array(column) for column in zip(*rows, strict=True)))
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    num_gold = sum(n for n, (_, is_found) in zip(times, rows, strict=True) if is_found)
    weighted = curve(some, times)
    if not num_gold:
        assert weighted is None
        return
    assert weighted
    points = {0.0: 1.0}  # recall: the best precision
    for threshold in (1.0, 0.75, 0.5, 0.25, 0.0):
        let_in = [(n, is_found) for n, (score, is_found) in zip(times, rows, strict=True) if score >= threshold]
        if num_let_in := sum(n for n, _ in let_in):
            num_found = sum(n for n, is_found in let_in if is_found)
            recall = num_found / num_gold
            points[recall] = max(points.get(recall, 0), num_found / num_let_in)
    seen: dict[float, float] = {}  # the first point of each recall has the best precision there
    for recall, precision in zip(weighted.recalls, weighted.precisions, strict=True):
        seen.setdefault(recall / 100, precision / 100)
    assert list(seen) == pytest.approx(sorted(points))
    best = [max(p for other, p in points.items() if other >= recall) for recall in sorted(points)]
    assert list(seen.values()) == pytest.approx(best)


@given(st.integers(0, 2**32))
def test_weights_are_repetitions(seed: int):
    random = np.random.default_rng(seed)
    some = Events(random.integers(0, 4, 12) / 4, random.random(12) < 0.5)
    times = random.integers(0, 3, 12)
    repeated = curve(Events(*(np.repeat(column, times) for column in some)))
    weighted = curve(some, times)
    if not repeated or not weighted:
        assert repeated == weighted
        return
    assert weighted.area == pytest.approx(repeated.area)


def test_events_of_questions_come_together():
    both = gathered(events(["a"], [("a", 0.5)]), events([], [("b", 0.75)]))
    found = curve(both)
    assert found
    assert found.precisions[-1] == 50
