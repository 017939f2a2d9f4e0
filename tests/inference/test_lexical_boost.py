import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference.lexical_boost import NEAR_TOKENS, lexical_match

STRETCH = 2 * NEAR_TOKENS + 1
IDS = st.integers(0, 9)


@given(st.integers(STRETCH + 1, 900), st.integers(0, 10_000), st.lists(IDS, min_size=1, max_size=6))
def test_nearby_tokens_of_the_question_count_by_their_rarity(num_tokens: int, seed: int, question: list[int]):
    random = np.random.default_rng(seed)
    document = random.integers(10, 20, num_tokens).tolist()
    for token in {*question[::2]}:
        document[random.integers(num_tokens)] = token
    match_T = lexical_match(np.array(document), np.array(question, dtype=np.int32))
    assert match_T.max() > 0
    for t in {0, len(document) // 3, int(match_T.argmax()), len(document) - 1}:
        near = document[max(0, t - NEAR_TOKENS) : t + NEAR_TOKENS + 1]
        rarities = [math.log(len(document) / (document.count(token) * STRETCH)) for token in set(question) & set(near)]
        assert match_T[t] == pytest.approx(sum(max(0.0, rarity) for rarity in rarities), abs=1e-5)


@given(st.lists(IDS, min_size=1, max_size=STRETCH), st.lists(IDS, max_size=6))
def test_a_document_of_one_paragraph_gets_no_boost(document: list[int], question: list[int]):
    assert not lexical_match(np.array(document), np.array(question, dtype=np.int32)).any()


def test_a_token_twice_in_the_question_counts_once():
    document = np.arange(2_000)
    once, twice = lexical_match(document, np.array([700])), lexical_match(document, np.array([700, 700]))
    assert np.array_equal(once, twice)
    assert np.flatnonzero(once).tolist() == list(range(700 - NEAR_TOKENS, 700 + NEAR_TOKENS + 1))
    assert once[700] == pytest.approx(math.log(2_000 / STRETCH))
