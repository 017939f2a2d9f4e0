"""A document's spans -> its n best answers with their scores.

**Probability**: P(span) = P_start(start) · P_end(end), each a softmax over all tokens of the document
(inference.spans.log_normalizers):

    P = exp(start_logit + end_logit - log Σ_t exp(start_logit_t) - log Σ_t exp(end_logit_t))

(Shared normalization of Clark & Gardner 2018, "Simple and Effective Multi-Paragraph Reading Comprehension".) It is
comparable across a document's windows. For one window it is the usual softmax product, unless the lexical boost raises
the logits (inference.lexical_boost).

**Score**: how often such an answer is right, by the slope and the intercept that fine-tuning fits (training.calibrate):

    score = sigmoid(slope · logit(P) + intercept)

(Platt 1999, "Probabilistic Outputs for Support Vector Machines".) It does not change the order. With a slope of 1 and
an intercept of 0, the default, it is P, and a document's scores sum to at most 1. Fitted scores may sum to more, as
several spans of a document can be right. They are fitted to the best answers of answerable questions; for the other
spans only their order is meaningful.

**No answer**: inference.no_answer. ``n_best`` is kept when the answer is null.

**Candidates**: spans are compared as character ranges, without surrounding white space, and widened to borders of the
text (inference.borders): no range ends inside a grapheme cluster or a number. Of spans with equal ranges the best one
counts, and gives the range its score.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from qa_ray.inference.borders import widen
from qa_ray.schemas import Span, Tokens


class Candidate(NamedTuple):
    """A distinct range of characters ``[start_char, stop_char)``, and the best of its spans."""

    start_char: int
    stop_char: int
    span: Span


def answer_range(text: str, start_char: int, stop_char: int) -> tuple[int, int]:
    """The range without surrounding white space, widened to borders; start = stop if it is white space alone."""
    while start_char < stop_char and text[start_char].isspace():
        start_char += 1
    while start_char < stop_char and text[stop_char - 1].isspace():
        stop_char -= 1
    return widen(text, start_char, stop_char)


def candidates(spans: Iterable[Span], tokens: Tokens, text: str, n_best: int) -> list[Candidate]:
    """The first ``n_best`` spans that differ as text ranges and are not empty, best first."""
    by_range: dict[tuple[int, int], Candidate] = {}
    for span in spans:
        start_char = int(tokens.start_char_T[span.start_token])
        stop_char = int(tokens.stop_char_T[span.stop_token - 1])
        start_char, stop_char = answer_range(text, start_char, stop_char)
        if start_char < stop_char and (start_char, stop_char) not in by_range:
            by_range[start_char, stop_char] = Candidate(start_char, stop_char, span)
            if len(by_range) == n_best:
                break
    return list(by_range.values())


def answer(
    text: str,
    best: list[Candidate],
    *,
    log_normalizer: float,
    no_answer_score: float,
    has_answer: bool,
    score_slope: float,
    score_intercept: float,
    snippet_chars: int,
) -> dict[str, Any]:
    """The fields of schemas.ANSWER that the model decides, with the best candidates in ``n_best``.

    ``log_normalizer`` is the sum of the start's and the end's. Without ``has_answer``, or without candidates (a
    document whose tokens are all white space), the answer is null.
    """
    n_best = [
        {
            "answer": text[candidate.start_char : candidate.stop_char],
            "start_char": candidate.start_char,
            "stop_char": candidate.stop_char,
            "score": calibrated(math.exp(candidate.span.logit - log_normalizer), score_slope, score_intercept),
        }
        for candidate in best
    ]
    if best and has_answer:
        top = n_best[0] | {"snippet": snippet(text, best[0].start_char, best[0].stop_char, snippet_chars)}
    else:
        top = {"answer": None, "start_char": None, "stop_char": None, "score": None, "snippet": None}
    return top | {"no_answer_score": no_answer_score, "n_best": n_best}


def calibrated(probability: float, slope: float, intercept: float) -> float:
    """The score: sigmoid(slope · logit(probability) + intercept), in [0, 1]."""
    x = slope * log_odds(probability) + intercept
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def log_odds(probability: float) -> float:
    """logit(probability), clipped to [1e-300, 1 - 1e-6]: logits in single precision resolve nothing nearer to 1."""
    probability = min(max(probability, 1e-300), 1 - 1e-6)
    return math.log(probability / (1 - probability))


def snippet(text: str, start_char: int, stop_char: int, snippet_chars: int) -> str:
    """About ``snippet_chars`` characters of text around the answer, cut between words if possible; … marks a cut."""
    margin = max(0, snippet_chars - (stop_char - start_char)) // 2
    start, stop = max(0, start_char - margin), min(len(text), stop_char + margin)
    before, after = text[start:start_char], text[stop_char:stop]
    if start > 0 and not text[start - 1].isspace():
        before = before.partition(" ")[2] if " " in before else before
    if stop < len(text) and not text[stop].isspace():
        after = after.rpartition(" ")[0] if " " in after else after
    before, after = "…" * (start > 0) + before, after + "…" * (stop < len(text))
    return before + text[start_char:stop_char] + after
