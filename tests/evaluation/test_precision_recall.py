"""The precision-recall curve: cases worked by hand, and the law that its points are counts at every threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.evaluation.cuad import span_events
from qa_ray.evaluation.precision_recall import Curve, Events, precision_recall_curve


def curve_of(*questions: Events) -> Curve:
    curve = precision_recall_curve(Events(*(np.concatenate(arrays) for arrays in zip(*questions, strict=True))))
    assert curve
    return curve


def test_all_gold_answers_and_no_false_positive_give_an_area_of_100():
    curve = curve_of(span_events("q", ["New York"], [("New York", 0.5)]))
    assert (curve.aupr, curve.precision_at_80, curve.precision_at_90) == (100, 100, 100)


def test_no_matched_gold_answer_gives_an_area_of_0():
    curve = curve_of(span_events("q", ["New York"], []))
    assert (curve.aupr, curve.precision_at_80) == (0, 0)


def test_without_a_gold_answer_there_is_no_curve():
    assert precision_recall_curve(span_events("q", [], [("New York", 0.5)])) is None


def test_precision_at_a_recall_is_the_best_at_that_recall_or_more():
    # Recall 4/5 comes at precision 4/5 (one false positive before), and all five are found at 5/6.
    curve = curve_of(Events(np.array([6.0, 5, 4, 3, 2, 1]), np.array([False, True, True, True, True, True])))
    assert curve.precision_at_80 == curve.precision_at_90 == pytest.approx(100 * 5 / 6)


def test_the_events_of_several_questions_share_one_curve():
    curve = curve_of(span_events("q1", ["a"], [("a", 0.5)]), span_events("q2", [], [("b", 0.75)]))
    assert curve.precisions[-1] == 50


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -np.inf]), st.booleans()), min_size=1),
    st.data(),
)
def test_each_point_is_a_count_at_some_threshold(rows: list[tuple[float, bool]], data: st.DataObject):
    events = Events(*(np.array(column) for column in zip(*rows, strict=True)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    num_gold = sum(n for n, (_, is_gold) in zip(weights, rows, strict=True) if is_gold)
    curve = precision_recall_curve(events, weights)
    if not num_gold:
        assert curve is None
        return
    assert curve
    points = {0.0: 1.0}  # recall: the best precision
    for threshold in (1.0, 0.75, 0.5, 0.25, 0.0):
        admitted = [(n, is_gold) for n, (score, is_gold) in zip(weights, rows, strict=True) if score >= threshold]
        if num_admitted := sum(n for n, _ in admitted):
            num_true = sum(n for n, is_gold in admitted if is_gold)
            recall = num_true / num_gold
            points[recall] = max(points.get(recall, 0), num_true / num_admitted)
    first_precisions: dict[float, float] = {}  # the first point of each recall has the best precision there
    for recall, precision in zip(curve.recalls, curve.precisions, strict=True):
        first_precisions.setdefault(recall / 100, precision / 100)
    assert list(first_precisions) == pytest.approx(sorted(points))
    best = [max(p for other, p in points.items() if other >= recall) for recall in sorted(points)]
    assert list(first_precisions.values()) == pytest.approx(best)


@given(st.integers(0, 2**32))
def test_a_weight_is_a_number_of_repetitions(seed: int):
    random = np.random.default_rng(seed)
    events = Events(random.integers(0, 4, 12) / 4, random.random(12) < 0.5)
    weights = random.integers(0, 3, 12)
    repeated = precision_recall_curve(Events(*(np.repeat(array, weights) for array in events)))
    weighted = precision_recall_curve(events, weights)
    if not repeated or not weighted:
        assert repeated == weighted
        return
    assert weighted.aupr == pytest.approx(repeated.aupr)
