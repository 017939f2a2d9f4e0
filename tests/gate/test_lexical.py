from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.gate.lexical import bm25
from qa_ray.inference.windows import windows

ids = st.lists(st.integers(0, 12), min_size=1, max_size=120).map(lambda ids: np.array(ids, np.int32))


@given(ids, ids, st.integers(3, 20))
def test_scores_are_those_of_the_formula_term_by_term(document, question, room):
    cut = windows(len(document), room, room // 3)
    counts = [Counter(document[start:stop].tolist()) for start, stop in zip(cut.start_W, cut.stop_W)]
    lengths = cut.stop_W - cut.start_W
    expected = []
    for count, length in zip(counts, lengths):
        score = 0.0
        for term in set(question.tolist()):
            num_with = sum(term in other for other in counts)
            rarity = np.log(1 + (len(cut) - num_with + 0.5) / (num_with + 0.5))
            norm = 1.2 * (1 - 0.5 + 0.5 * length / lengths.mean())
            score += rarity * count[term] * 2.2 / (count[term] + norm)
        expected.append(score)
    assert bm25(document, question, cut) == pytest.approx(expected)


def test_the_window_with_the_rare_word_of_the_question_is_best():
    document = np.tile(np.arange(10, dtype=np.int32), 30)
    document[215] = 99
    cut = windows(len(document), 40, 10)
    best = int(bm25(document, np.array([3, 4, 99], np.int32), cut).argmax())
    assert cut.start_W[best] <= 215 < cut.stop_W[best]


@pytest.mark.parametrize("question", [[], [777]])
def test_a_question_without_a_word_of_the_document_tells_no_window_from_another(question: list[int]):
    cut = windows(100, 20, 5)
    assert not bm25(np.arange(100, dtype=np.int32), np.array(question, np.int32), cut).any()
