"""Exact match and F1 as computed by the official scripts of SQuAD 1.1 and 2.0.

    precision = common / tokens of the prediction,    recall = common / tokens of the gold answer
    F1        = 2 · precision · recall / (precision + recall)

``common`` is the multiset intersection of the tokens. A question's score is the maximum over its gold answers, for
exact match and F1 separately.

Sources: ``evaluate-v1.1.py``, ``evaluate-v2.0.py`` (Rajpurkar et al. 2016, 2018). Scores are in [0, 1].
"""

import re
import string
from collections.abc import Sequence

from qa_ray.evaluation.scores import Scores, best_scores, token_scores

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no "a", "an" or "the", single spaces; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad1_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 1.1, for tables in which every question has an answer.

    F1 is 0 without a common token, even if both texts normalize to nothing and therefore match exactly.
    """
    normal_prediction = normalize(prediction)
    return best_scores([token_scores(normal_prediction, normalize(gold), f1_if_both_empty=0.0) for gold in golds])


def squad2_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 2.0: an empty prediction means "no answer", and so do empty ``golds``.

    Gold answers that normalize to nothing are dropped; if none is left, the gold answer is "". F1 is 1 if neither side
    has a token.
    """
    normal_prediction = normalize(prediction)
    normal_golds = [normal for gold in golds if (normal := normalize(gold))] or [""]
    return best_scores([token_scores(normal_prediction, gold) for gold in normal_golds])
