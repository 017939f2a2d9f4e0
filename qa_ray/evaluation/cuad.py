"""Several answers to a question, each to be found: CUAD's precision and recall over all scores.

Of a question's n best spans those count that score above some threshold. A gold answer is found (a true positive) where
one of these matches it, and a span that matches none is a false positive:

    precision = found / (found + spans that match none),    recall = found / gold answers

CUAD's script says what matches: the sets of words, split at spaces, share half of their union (Jaccard >= 0.5), after
. , ; : are taken out and / is made a space, in lower case; for the clause "Parties" a span that holds the gold text
matches, too (Hendrycks et al. 2021, "CUAD: An Expert-Annotated NLP Dataset for Legal Contract Review", evaluate.py).

Two differences from the script: its thresholds are the hundredths from 0.99 down, here they are all scores; and the
precision at a recall is here the best at that recall or more, as in the script's own area, where it gives the first.

Shapes: N things that happen as the threshold falls (a gold answer is found, a wrong span is let in).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEAST_OVERLAP = 0.5
_PUNCTUATION = str.maketrans({".": None, ",": None, ";": None, ":": None, "/": " "})


@dataclass(frozen=True)
class Curve:
    """Precision over recall, with the area below; all in percent."""

    area: float
    precision_at_80: float  # 0: this recall is never reached
    precision_at_90: float
    recalls: list[float]
    precisions: list[float]


class Events(NamedTuple):
    """What happens as the threshold falls: where it passes ``score``, a gold answer is found or a wrong span let in."""

    score_N: np.ndarray  # -inf: never
    is_found_N: np.ndarray


def matches(gold: str, span: str, *, or_holds: bool = False) -> bool:
    """Whether ``span`` is taken for ``gold``; with ``or_holds`` also where it has more round it."""
    gold_words, words = (set(text.translate(_PUNCTUATION).lower().split(" ")) for text in (gold, span))
    return len(gold_words & words) >= LEAST_OVERLAP * len(gold_words | words) or (or_holds and gold in span)


def events(golds: Sequence[str], spans: Sequence[tuple[str, float]], *, or_holds: bool = False) -> Events:
    """What happens at a question; ``spans`` are its n best with their scores, ``golds`` empty if it has no answer."""
    is_match_GS = [[matches(gold, text, or_holds=or_holds) for text, _ in spans] for gold in golds]
    found = [
        max((score for (_, score), hits in zip(spans, is_match_S, strict=True) if hits), default=-np.inf)
        for is_match_S in is_match_GS
    ]
    wrong = [score for s, (_, score) in enumerate(spans) if not any(is_match_S[s] for is_match_S in is_match_GS)]
    return Events(np.array([*found, *wrong]), np.array([True] * len(found) + [False] * len(wrong), dtype=bool))


def curve(some: Events, weight_N: np.ndarray | None = None) -> Curve | None:
    """Precision over recall of all questions' events; None without a gold answer.

    Precision is the best at a recall or more; between two points it goes straight, from 1 at recall 0. ``weight_N``
    says how often an event counts.
    """
    order_N = np.argsort(-some.score_N, kind="stable")
    score_N, is_found_N = some.score_N[order_N], some.is_found_N[order_N]
    weight_N = np.ones(len(order_N)) if weight_N is None else weight_N[order_N]
    num_gold = float(weight_N @ is_found_N)
    if not num_gold:
        return None
    is_point_N = np.isfinite(score_N) & (score_N != np.append(score_N[1:], -np.inf))  # equal scores fall together
    num_found_N = np.cumsum(weight_N * is_found_N)[is_point_N]
    num_counted_N = np.cumsum(weight_N)[is_point_N]
    is_point_N = num_counted_N > 0
    recall_N = np.concatenate([[0.0], num_found_N[is_point_N] / num_gold])
    precision_N = np.concatenate([[1.0], num_found_N[is_point_N] / num_counted_N[is_point_N]])
    precision_N = np.maximum.accumulate(precision_N[::-1])[::-1]

    def precision_at(recall: float) -> float:
        reached = np.flatnonzero(recall_N >= recall)
        return 100 * float(precision_N[reached[0]]) if len(reached) else 0.0

    return Curve(
        area=100 * float(np.trapezoid(precision_N, recall_N)),
        precision_at_80=precision_at(0.8),
        precision_at_90=precision_at(0.9),
        recalls=(100 * recall_N).tolist(),
        precisions=(100 * precision_N).tolist(),
    )
