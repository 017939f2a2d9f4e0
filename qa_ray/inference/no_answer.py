"""A pair's best span and the null logits of its windows -> the no-answer score, and whether the answer is null.

The null logit of a window is the start logit plus the end logit of its first token: "no answer here" (SQuAD 2.0, Devlin
et al. 2018). The score compares it with the best span, both as logits of the model:

    no_answer_score = 1 / (1 + exp(best span's logit - null logit))

It is in [0, 1] and uncalibrated: use it for ranking and thresholds only.

The null logit is that of the window that owns the best span's start. With the ranking ``logit_minus_null`` it is 0, as
the null logits have been subtracted from the span's logits. The lexical boost is added to it, and so cancels: the boost
says where an answer is, not whether there is one.

To change the rule, replace ``no_answer_score``: nothing else computes it, and the threshold applies to any score in
[0, 1] that is higher the more "no answer" is favored. For a rule that users select, declare a setting in
``model/settings.py`` and pass it in the one call in ``inference/decoding.py``; config, Reader and ``qa_ray.json`` then
know it, and ``make reference`` documents it.
"""

import math

import numpy as np

from qa_ray.schemas import Ranking, Span, Windows


def no_answer_score(
    best: Span | None,
    windows: Windows,
    null_start_W: np.ndarray,
    null_end_W: np.ndarray,
    boost_T: np.ndarray,
    ranking: Ranking,
) -> float:
    """The score of one (document, question) pair, in [0, 1]; 1 if it has no span at all.

    ``best.logit`` is ranked and boosted; ``boost_T`` is what was added to the start and to the end logit of each token.
    ``null_start_W`` and ``null_end_W`` are the model's, float32: neither ranked nor boosted.
    """
    if best is None:
        return 1.0
    null_logit = 0.0
    if ranking == "logit":
        owner = np.searchsorted(windows.own_stop_W, best.start_token, side="right")
        null_logit = float(null_start_W[owner] + null_end_W[owner])
    null_logit += float(boost_T[best.start_token] + boost_T[best.stop_token - 1])
    margin = best.logit - null_logit
    return 1 / (1 + math.exp(margin)) if margin < 700 else 0.0  # exp(710) overflows


def has_answer(score: float, threshold: float) -> bool:
    """Whether a pair with this no-answer score gets its best span as the answer, and not null."""
    return score <= threshold
