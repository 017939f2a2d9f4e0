"""Predicted texts and gold texts -> exact match and F1, as the official scripts of SQuAD and CMRC 2018 count them.

    precision = common / tokens of the prediction,    recall = common / tokens of the gold answer
    F1        = 2 · precision · recall / (precision + recall)

For SQuAD ``common`` counts equal tokens wherever they stand (a multiset intersection), for CMRC 2018 it is the length
of the longest common run of tokens. A question's score is the best over its gold answers, for exact match and F1 apart.

Sources: SQuAD 1.1, ``evaluate-v1.1.py``, and SQuAD 2.0, ``evaluate-v2.0.py`` (Rajpurkar et al. 2016, 2018); CMRC 2018,
``cmrc2018_evaluate.py`` v5 (Cui et al. 2019). Scores lie in [0, 1].
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple


class Scores(NamedTuple):
    """The two figures of one question, or of one prediction against one gold answer."""

    exact_match: float
    f1: float


@dataclass(frozen=True)
class Threshold:
    """Answer where the no-answer score is at most ``threshold``; the mean score is then ``score``."""

    threshold: float
    score: float


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, none of "a", "an", "the", single spaces, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad1_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 1.1, for questions that all have an answer.

    Without a common token F1 is 0, even if both normalise to nothing and therefore match exactly.
    """
    normal_prediction = normalize(prediction)
    normal_golds = [normalize(gold) for gold in golds]
    return _best([_overlap(normal_prediction, gold, both_empty=0.0) for gold in normal_golds])


def squad2_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 2.0: an empty prediction says "no answer", and no golds say the same.

    Golds that normalise to nothing are dropped; if none is left, the gold answer is "". F1 is 1 if neither side has a
    token.
    """
    normal_prediction = normalize(prediction)
    normal_golds = [normal for gold in golds if (normal := normalize(gold))] or [""]
    return _best([_overlap(normal_prediction, gold, both_empty=1.0) for gold in normal_golds])


def _overlap(prediction: str, gold: str, both_empty: float) -> Scores:
    """The scores of normalised texts."""
    if prediction == gold:
        return Scores(1.0, 1.0 if gold else both_empty)
    prediction_tokens, gold_tokens = prediction.split(), gold.split()
    common = (Counter(prediction_tokens) & Counter(gold_tokens)).total()
    return Scores(0.0, _f1(common, len(prediction_tokens), len(gold_tokens)))


def _f1(num_common: int, num_predicted: int, num_gold: int) -> float:
    """2 · precision · recall / (precision + recall), rounded as the official scripts round it."""
    if not num_common:
        return 0.0
    precision, recall = num_common / num_predicted, num_common / num_gold
    return 2 * precision * recall / (precision + recall)


def _best(scores: Sequence[Scores]) -> Scores:
    return Scores(max(score.exact_match for score in scores), max(score.f1 for score in scores))


def best_threshold(scores: Sequence[float], answerable: Sequence[bool], no_answer_scores: Sequence[float]) -> Threshold:
    """The threshold on the no-answer score with the best mean score: find_best_thresh of ``evaluate-v2.0.py``.

    ``scores`` are those of the predicted texts, whatever their no-answer score. Answered is what has a no-answer score
    of at most the threshold; the rest counts as "no answer", worth 1 where the question is not answerable, else 0:

        score(t) = Σ scores[no_answer_score ≤ t] + |{not answerable, no_answer_score > t}|

    The lowest of equally good thresholds is given; where it is best to answer nothing, 0 as in the script, or the next
    number below the lowest no-answer score if that is not above 0. Two differences from the script: it may cut ties in
    two, which no threshold can (here equal no-answer scores go together), and it takes a prediction such as "the",
    empty once normalised, for wrong on an unanswerable question, although its exact match and F1 there are 1.
    """
    total = float(sum(not has_answer for has_answer in answerable))
    best = Threshold(min(0.0, math.nextafter(min(no_answer_scores), -math.inf)), total)
    rows = sorted(zip(no_answer_scores, scores, answerable, strict=True))
    for no_answer_score, tied in groupby(rows, key=lambda row: row[0]):
        total += math.fsum(score - (not has_answer) for _, score, has_answer in tied)
        if total > best.score:
            best = Threshold(no_answer_score, total)
    return Threshold(best.threshold, best.score / len(scores))


# The script's list also has "……", which no single character equals: the ellipsis stays, there and here.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
# A run of letters and digits that are not Chinese (3.5, 1,000, node.js stay whole), or any other single character.
_CMRC_TOKEN = re.compile(r"[^\W_\u4e00-\u9fa5]+(?:\.[^\W_\u4e00-\u9fa5]+|,\d+)*|\S")


def cmrc_normalize(text: str) -> str:
    """CMRC's normal form: lower case, no surrounding space, without the punctuation of its list; inner space stays."""
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def cmrc_tokens(text: str) -> list[str]:
    """CMRC's mixed segmentation: each Chinese character (U+4E00–9FA5) and each punctuation mark, and words elsewhere.

    The script hands what stands between them to ``nltk.word_tokenize``; the regular expression here agrees with it on
    ordinary words and numbers and single marks beside them, not on contractions ("don't") and abbreviations ("Mr.").
    """
    return _CMRC_TOKEN.findall(text.lower())


def cmrc_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """CMRC 2018: exact match once punctuation is off; F1 by the longest common *substring* of the tokens that are left.

    No golds count as the gold "", as in SQuAD 2.0: CMRC has no unanswerable question, but other Chinese tables have.
    For the same reason F1 is 1 if both normal forms are empty; the script, which never meets such a gold, gives 0.
    """
    normal_prediction = cmrc_normalize(prediction)
    return _best([_common_run(normal_prediction, cmrc_normalize(gold)) for gold in golds or [""]])


def _common_run(prediction: str, gold: str) -> Scores:
    """The scores of texts in CMRC's normal form."""
    if prediction == gold:
        return Scores(1.0, 1.0)
    prediction_tokens, gold_tokens = cmrc_tokens(prediction), cmrc_tokens(gold)
    matcher = SequenceMatcher(None, prediction_tokens, gold_tokens, autojunk=False)
    common = matcher.find_longest_match().size
    return Scores(0.0, _f1(common, len(prediction_tokens), len(gold_tokens)))
