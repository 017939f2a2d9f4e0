"""Exact match and F1 as computed by the official script of CMRC 2018.

F1 is that of SQuAD (squad.py), except that the overlap is the longest common substring of tokens instead of their
multiset intersection.

Source: ``cmrc2018_evaluate.py`` v5 (Cui et al. 2019). Scores are in [0, 1].
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from qa_ray.evaluation.scores import Scores, best_scores, f1_score

# The script's list also has "……", which never equals a single character: the ellipsis is kept, there and here.
_CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")

# A run of letters and digits that are not Chinese (3.5, 1,000, node.js are one token), or any other single character.
_CMRC_TOKEN = re.compile(r"[^\W_\u4e00-\u9fa5]+(?:\.[^\W_\u4e00-\u9fa5]+|,\d+)*|\S")


def cmrc_normalize(text: str) -> str:
    """CMRC's normal form: lower case, stripped, without the punctuation of its list; inner spaces are kept."""
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def cmrc_tokens(text: str) -> list[str]:
    """CMRC's mixed segmentation: Chinese characters (U+4E00–9FA5) and punctuation marks singly, anything else by word.

    The script splits the text between them with ``nltk.word_tokenize``. The regular expression here agrees with it on
    ordinary words, numbers and single punctuation marks, but not on contractions ("don't") and abbreviations ("Mr.").
    """
    return _CMRC_TOKEN.findall(text.lower())


def cmrc_scores(prediction: str, golds: Sequence[str]) -> Scores:
    """CMRC 2018: exact match after punctuation is removed; F1 by the longest common *substring* of the tokens left.

    Empty ``golds`` count as the gold answer "", as in SQuAD 2.0: CMRC has no unanswerable questions, but other Chinese
    tables have. For the same reason F1 is 1 if both normal forms are empty; the script, which never meets such a gold
    answer, gives 0.
    """
    normal_prediction = cmrc_normalize(prediction)
    return best_scores([_substring_scores(normal_prediction, cmrc_normalize(gold)) for gold in golds or [""]])


def _substring_scores(prediction: str, gold: str) -> Scores:
    """The scores of two texts in CMRC's normal form."""
    if prediction == gold:
        return Scores(1.0, 1.0)
    prediction_tokens, gold_tokens = cmrc_tokens(prediction), cmrc_tokens(gold)
    matcher = SequenceMatcher(None, prediction_tokens, gold_tokens, autojunk=False)
    num_common = matcher.find_longest_match().size
    return Scores(0.0, f1_score(num_common, len(prediction_tokens), len(gold_tokens)))
