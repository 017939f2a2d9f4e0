"""CUAD: which spans match a gold answer, and the events of a question."""

import pytest

from qa_ray.evaluation.cuad import matches, span_events


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
def test_a_span_that_shares_half_of_the_words_matches(gold: str, span: str, is_match: bool):
    assert matches(gold, span) == is_match


def test_a_span_that_contains_the_gold_text_matches_if_allowed():
    assert matches("Producer", "Producer, a company of Nevada", or_contains=True)
    assert not matches("Producer", "a company of Nevada", or_contains=True)


def test_only_for_the_clause_parties_a_span_may_contain_the_gold_text():
    golds, spans = ["Producer"], [("Producer, a company of Nevada", 0.5)]
    assert span_events("contract__Parties", golds, spans).score_N.tolist() == [0.5]
    assert span_events("contract__Expiration Date", golds, spans).is_gold_N.tolist() == [True, False]


def test_a_gold_answer_counts_once_with_the_best_score_however_many_spans_match_it():
    events = span_events("q", ["New York"], [("New York", 0.5), ("new york", 0.75), ("Nevada", 0.25)])
    assert events.score_N.tolist() == [0.75, 0.25]
    assert events.is_gold_N.tolist() == [True, False]


def test_a_question_without_an_answer_has_only_false_positives():
    assert span_events("q", [], [("New York", 0.5)]).is_gold_N.tolist() == [False]
