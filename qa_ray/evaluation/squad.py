"""Exact match and F1 as the official scripts of SQuAD 1.1 and 2.0 compute them.

    precision = common / tokens of the prediction,    recall = common / tokens of the gold answer
    F1        = 2 · precision · recall / (precision + recall)

``common`` is the multiset intersection of the tokens. A question's score is the best over its gold answers, for exact
match and F1 separately.

Sources: ``evaluate-v1.1.py``, ``evaluate-v2.0.py`` (Rajpurkar et al. 2016, 2018). Scores are in [0, 1].
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from qa_ray.evaluation.scores import Scores, best_scores, f1_score

_PUNCTUATION = str.maketrans("", "", string.punctuation)


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, none of "a", "an", "the", single spaces, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad1_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 1.1, for questions that all have an answer.

    Without a common token F1 is 0, even if both normalize to nothing and therefore match exactly.
    """
    normal_prediction = normalize(prediction)
    normal_golds = [normalize(gold) for gold in golds]
    return best_scores([_overlap(normal_prediction, gold, both_empty=0.0) for gold in normal_golds])


def squad2_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """SQuAD 2.0: an empty prediction says "no answer", and no golds say the same.

    Golds that normalize to nothing are dropped; if none is left, the gold answer is "". F1 is 1 if neither side has a
    token.
    """
    normal_prediction = normalize(prediction)
    normal_golds = [normal for gold in golds if (normal := normalize(gold))] or [""]
    return best_scores([_overlap(normal_prediction, gold, both_empty=1.0) for gold in normal_golds])


def _overlap(prediction: str, gold: str, both_empty: float) -> Scores:
    """The scores of normalized texts."""
    if prediction == gold:
        return Scores(1.0, 1.0 if gold else both_empty)
    prediction_tokens, gold_tokens = prediction.split(), gold.split()
    common = (Counter(prediction_tokens) & Counter(gold_tokens)).total()
    return Scores(0.0, f1_score(common, len(prediction_tokens), len(gold_tokens)))
