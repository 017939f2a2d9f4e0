import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qa_ray.evaluation.cmrc import cmrc_normalize, cmrc_scores, cmrc_tokens
from qa_ray.evaluation.scores import Scores
from qa_ray.evaluation.squad import normalize, squad1_scores, squad2_scores
from qa_ray.evaluation.threshold import Threshold, best_threshold

# Few different words, so that texts often overlap; and arbitrary text.
WORDS = st.sampled_from(["the", "a", "Norman", "Normans,", "of", "中", "国", "。", "3.5", "-", "é"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join) | st.text()
GOLDS = st.lists(TEXTS, min_size=1, max_size=4)
RULES = pytest.mark.parametrize("scores", [squad1_scores, squad2_scores, cmrc_scores])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Normans!", "normans"),
        ("an A-bomb", "abomb"),  # punctuation is removed first, so this "A" is not an article
        ("a-n apple", "apple"),  # … and this one becomes an article
        ("Theatre, U.S.", "theatre us"),
        ("the.", ""),
        ("“Été”", "“été”"),  # only ASCII punctuation is removed
    ],
)
def test_squad_normalizes_case_punctuation_articles_and_space(text: str, normal: str):
    assert normalize(text) == normal


def test_squad_f1_counts_common_tokens_wherever_they_are():
    # common: "duke", "of" (once: the prediction has one); P = 2/3, R = 2/4, F1 = 4/7
    assert squad1_scores("of some duke", ["the duke of of Normandy"]) == pytest.approx((0, 4 / 7))


def test_exact_match_and_f1_may_come_from_different_golds():
    assert squad1_scores("Duke William", ["Duke", "William the Conqueror", "duke william"]) == Scores(1.0, 1.0)
    # "Duke": P = 1/2, R = 1; "Duke William II": P = 1, R = 2/3, the better one
    assert squad1_scores("Duke William", ["Duke", "Duke William II"]) == pytest.approx((0, 0.8))


def test_squad_1_gives_no_f1_without_a_common_token_even_to_an_exact_match():
    assert squad1_scores("", ["."]) == Scores(1.0, 0.0)


def test_squad_2_drops_golds_that_normalize_to_nothing():
    assert squad2_scores("", [".", "France"]) == Scores(0.0, 0.0)
    assert squad2_scores("", ["."]) == Scores(1.0, 1.0)


def test_squad_2_treats_a_question_without_golds_as_unanswerable():
    assert squad2_scores("", []) == Scores(1.0, 1.0)
    assert squad2_scores("France", []) == Scores(0.0, 0.0)


HAND_WORKED = {  # no-answer score: (answerable, exact match, F1)
    0.1: (True, 1, 1.0),
    0.2: (False, 0, 0.0),
    0.3: (True, 0, 0.5),
    0.4: (True, 1, 1.0),
    0.9: (False, 0, 0.0),
}
# Answering nothing scores 2 of 5, for the two unanswerable ones. Then, answering up to the threshold:
#            0.1   0.2   0.3   0.4   0.9
#     EM     3     2     2     3     2      the best is 3, first at 0.1
#     F1     3     2     2.5   3.5   2.5    the best is 3.5, at 0.4


def test_best_thresholds_equal_those_worked_by_hand():
    answerable, exact_match, f1 = zip(*HAND_WORKED.values(), strict=True)
    assert best_threshold(exact_match, answerable, list(HAND_WORKED)) == Threshold(0.1, 3 / 5)
    assert best_threshold(f1, answerable, list(HAND_WORKED)) == Threshold(0.4, 3.5 / 5)


def test_equal_no_answer_scores_are_answered_together():
    # No threshold separates the two, though 2 of 2 would be correct there.
    assert best_threshold([1.0, 0.0], [True, False], [0.5, 0.5]) == Threshold(0.0, 1 / 2)


@pytest.mark.parametrize("lowest", [0.3, 0.0, -2.0])
def test_a_threshold_that_answers_nothing_is_below_every_no_answer_score(lowest: float):
    best = best_threshold([0.0, 0.0], [False, False], [lowest, 1.0])
    assert best.score == 1
    assert best.threshold < lowest
    assert best.threshold == 0 or lowest <= 0


ROWS = st.lists(
    st.tuples(st.sampled_from([0, 0.5, 1]), st.booleans(), st.sampled_from([0, 0.2, 0.5, 0.8, 1])), min_size=1
)


@given(ROWS)
def test_the_best_threshold_gives_its_score_and_no_threshold_gives_more(rows: list[tuple[float, bool, float]]):
    def mean_score(threshold: float) -> float:
        question_scores = (score if no_answer <= threshold else not has_answer for score, has_answer, no_answer in rows)
        return math.fsum(question_scores) / len(rows)

    scores, answerable, no_answer_scores = zip(*rows, strict=True)
    best = best_threshold(scores, answerable, no_answer_scores)
    assert mean_score(best.threshold) == pytest.approx(best.score)
    assert best.score == pytest.approx(max(map(mean_score, (-1, *no_answer_scores))))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("光荣和ω-force", ["光", "荣", "和", "ω", "-", "force"]),
        ("iPhone 3.5英寸，1,000元", ["iphone", "3.5", "英", "寸", "，", "1,000", "元"]),
        ("(50%)", ["(", "50", "%", ")"]),
        ("Yes, no.", ["yes", ",", "no", "."]),
        ("カタカナ㐀", ["カタカナ㐀"]),  # kana and rare characters are outside the script's range
    ],
)
def test_cmrc_splits_chinese_by_character_and_the_rest_by_word(text: str, tokens: list[str]):
    assert cmrc_tokens(text) == tokens


def test_cmrc_removes_the_punctuation_of_its_list_only():
    assert cmrc_normalize(" 《三国志》：a-b_c、“D”…… (e) ") == "三国志abcd…… (e)"


def test_cmrc_scores_equal_those_worked_by_hand():
    # Prediction: 光 荣 公 司 koei (5 tokens, brackets off); gold: 1990 年 成 立 的 光 荣 公 司 (9).
    # Longest common run: 光荣公司 (4). P = 4/5, R = 4/9, F1 = 2·4 / (5 + 9) = 4/7.
    assert cmrc_scores("光荣公司（KOEI）", ["1990年成立的光荣公司"]) == pytest.approx((0, 4 / 7))
    # The best gold counts: against 光 荣 公 司 P = 4/5, R = 1, F1 = 8/9.
    assert cmrc_scores("光荣公司（KOEI）", ["1990年成立的光荣公司", "光荣公司"]) == pytest.approx((0, 8 / 9))
    # A run, not a subsequence: 东 京 大 阪 (4) and 东 京 和 大 阪 (5) share runs of 2. F1 = 2·2 / (4 + 5).
    assert cmrc_scores("东京、大阪", ["东京和大阪"]) == pytest.approx((0, 4 / 9))
    # Latin words and numbers are one token each: iphone 3.5 英 寸 (4) in iphone 3.5 英 寸 屏 (5).
    assert cmrc_scores("iPhone 3.5英寸", ["iphone 3.5英寸屏"]) == pytest.approx((0, 8 / 9))
    # Punctuation and case do not count, inner space does for the exact match, not for F1.
    assert cmrc_scores("《战国无双3》。", ["战国无双3"]) == Scores(1.0, 1.0)
    assert cmrc_scores("战国 无双3", ["战国无双3"]) == Scores(0.0, 1.0)
    assert cmrc_scores("光荣", ["任天堂"]) == Scores(0.0, 0.0)


def test_cmrc_treats_a_question_without_golds_as_unanswerable():
    assert cmrc_scores("", []) == Scores(1.0, 1.0)
    assert cmrc_scores("光荣", []) == Scores(0.0, 0.0)


@RULES
@given(prediction=TEXTS, golds=GOLDS)
def test_scores_are_between_0_and_1(scores, prediction: str, golds: list[str]):
    exact_match, f1 = scores(prediction, golds)
    assert exact_match in (0, 1)
    assert 0 <= f1 <= 1


@pytest.mark.parametrize("scores", [squad2_scores, cmrc_scores])
@given(prediction=TEXTS, golds=GOLDS)
def test_an_exact_match_has_f1_1(scores, prediction: str, golds: list[str]):
    exact_match, f1 = scores(prediction, golds)
    assert exact_match <= f1
    assert scores(golds[0], golds[:1]) == Scores(1.0, 1.0)


@RULES
@given(prediction=TEXTS, gold=TEXTS)
def test_scores_are_symmetric_in_prediction_and_gold(scores, prediction: str, gold: str):
    assert scores(prediction, [gold]) == pytest.approx(scores(gold, [prediction]))


@given(TEXTS)
def test_squad_normalization_is_idempotent(text: str):
    assert normalize(normalize(text)) == normalize(text)


@RULES
@given(prediction=TEXTS, golds=GOLDS)
def test_normalizing_the_texts_first_does_not_change_f1(scores, prediction: str, golds: list[str]):
    normal = cmrc_normalize if scores is cmrc_scores else normalize
    # CMRC strips before it removes punctuation: the space in ": a" is then at the edge and is kept.
    assume(all(normal(text) == normal(text).strip() for text in (prediction, *golds)))
    assert scores(normal(prediction), [normal(gold) for gold in golds]).f1 == scores(prediction, golds).f1


@RULES
@given(prediction=TEXTS, golds=GOLDS, more=TEXTS)
def test_another_gold_answer_never_lowers_the_scores_of_an_answer(scores, prediction: str, golds: list[str], more: str):
    if normalize(prediction):
        before, after = scores(prediction, golds), scores(prediction, [*golds, more])
        assert before.exact_match <= after.exact_match
        assert before.f1 <= after.f1
