"""A document's spans -> its n best answers, and whether there is one at all.

**Probability**: P(span) = P_start(start) · P_end(end), each a softmax over all tokens of the document
(spans.log_normalizers):

    P = exp(start_logit + end_logit - log Σ_t exp(start_logit_t) - log Σ_t exp(end_logit_t))

(Clark & Gardner 2018, "Simple and Effective Multi-Paragraph Reading Comprehension", shared normalization.) It compares
across a document's windows. For one window it is the softmax product that people know, where no words of the question
nearby raise the logits (lexical.lexical_match).

**Score**: how often such an answer is right, by the slope and the intercept that fine-tuning fits
(validation.fit_scores):

    score = sigmoid(slope · logit(P) + intercept)

(Platt 1999, "Probabilistic Outputs for Support Vector Machines".) The order stays. With a slope of 1 and an intercept
of 0, the default, it is P, and a document's scores sum to at most 1. Fitted ones may sum to more: several spans of a
document can be right. They are fitted to best answers, where the document has one; of the others they tell the order.

**No answer**: with the null logit of the window that owns the best span's start (start + end logit of the first token,
as for SQuAD 2.0 in Devlin et al. 2018),

    no_answer_score = 1 / (1 + exp(best span's logit - null logit))

in [0, 1], of the model's own logits: the words that lexical.lexical_match finds tell where an answer is, not whether
there is one. Above the threshold (fine-tuning tunes and stores it, ``evaluate`` names it) the answer is null, and
``n_best`` stays.

**One candidate**: spans are compared as character ranges with surrounding white space taken off; of equal ones the best
counts. A range never ends before combining marks that belong to its last character.
"""

import math
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from qa_ray.schemas import Span, Tokens


class Candidate(NamedTuple):
    """A distinct span of characters ``[start_char, stop_char)``, its logit and its tokens."""

    start_char: int
    stop_char: int
    logit: float
    start_token: int
    stop_token: int


def trim(text: str, start_char: int, stop_char: int) -> tuple[int, int]:
    """The range without surrounding white space, and with the combining marks that follow its last character."""
    while start_char < stop_char and text[start_char].isspace():
        start_char += 1
    while start_char < stop_char and text[stop_char - 1].isspace():
        stop_char -= 1
    while start_char < stop_char < len(text) and unicodedata.category(text[stop_char]).startswith("M"):
        stop_char += 1
    return start_char, stop_char


def candidates(spans: Iterable[Span], tokens: Tokens, text: str, n_best: int) -> list[Candidate]:
    """The first ``n_best`` spans that differ as text ranges and are not empty, best first."""
    found: dict[tuple[int, int], Candidate] = {}
    for start_token, stop_token, logit in spans:
        first_char, last_char = int(tokens.start_char_T[start_token]), int(tokens.stop_char_T[stop_token - 1])
        start_char, stop_char = trim(text, first_char, last_char)
        if start_char < stop_char and (start_char, stop_char) not in found:
            found[start_char, stop_char] = Candidate(start_char, stop_char, logit, start_token, stop_token)
            if len(found) == n_best:
                break
    return list(found.values())


def answer(
    text: str,
    best: list[Candidate],
    *,
    log_normalizer: float,
    null_logit: float,
    score_slope: float = 1.0,
    score_intercept: float = 0.0,
    no_answer_threshold: float = 1.0,
    snippet_chars: int = 160,
) -> dict[str, Any]:
    """The fields of schemas.ANSWER that the model decides.

    ``log_normalizer`` is the sum of the start's and the end's; ``null_logit`` is ranked and raised as the best
    candidate is. A document without candidates (tokens of white space only) has no answer.
    """
    n_best = [
        {
            "answer": text[candidate.start_char : candidate.stop_char],
            "start_char": candidate.start_char,
            "stop_char": candidate.stop_char,
            "score": calibrated(math.exp(candidate.logit - log_normalizer), score_slope, score_intercept),
        }
        for candidate in best
    ]
    no_answer_score = _sigmoid(null_logit - best[0].logit) if best else 1.0
    if not best or no_answer_score > no_answer_threshold:
        top = {"answer": None, "start_char": None, "stop_char": None, "score": None, "snippet": None}
    else:
        top = n_best[0] | {"snippet": snippet(text, best[0].start_char, best[0].stop_char, snippet_chars)}
    return top | {"no_answer_score": no_answer_score, "n_best": n_best}


def calibrated(probability: float, slope: float, intercept: float) -> float:
    """The score: sigmoid(slope · logit(probability) + intercept), in [0, 1]."""
    return _sigmoid(slope * log_odds(probability) + intercept)


def log_odds(probability: float) -> float:
    """logit(probability), of what is neither impossible nor surer than logits in single precision can say."""
    probability = min(max(probability, 1e-300), 1 - 1e-6)
    return math.log(probability / (1 - probability))


def snippet(text: str, start_char: int, stop_char: int, snippet_chars: int) -> str:
    """About ``snippet_chars`` of text round the answer, cut between words where there are any; … marks a cut."""
    margin = max(0, snippet_chars - (stop_char - start_char)) // 2
    start, stop = max(0, start_char - margin), min(len(text), stop_char + margin)
    before, after = text[start:start_char], text[stop_char:stop]
    if start > 0 and not text[start - 1].isspace():
        before = before.partition(" ")[2] if " " in before else before
    if stop < len(text) and not text[stop].isspace():
        after = after.rpartition(" ")[0] if " " in after else after
    before, after = "…" * (start > 0) + before, after + "…" * (stop < len(text))
    return before + text[start_char:stop_char] + after


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
