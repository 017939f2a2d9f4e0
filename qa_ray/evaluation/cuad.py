"""CUAD: a question may have several gold answers, each to be found among its n best spans.

A span matches a gold answer if their sets of words have a Jaccard similarity of at least 0.5. Words are lower case and
separated by spaces, after . , ; : are removed and / is replaced by a space. For the clause "Parties" a span that
contains the gold text matches, too. A gold answer's score is that of the best span that matches it; spans that match no
gold answer are false positives (precision_recall.py).

Two differences from the script: its thresholds are the hundredths from 0.99 down, here they are all scores; and the
precision at a given recall is here the maximum over that recall and all higher ones, as in the script's own area under
the curve, where the script takes the first.

Source: ``evaluate.py`` of Hendrycks et al. 2021, "CUAD: An Expert-Annotated NLP Dataset for Legal Contract Review".

Shapes: G gold answers, S spans.
"""

from collections.abc import Sequence

import numpy as np

from qa_ray.evaluation.precision_recall import Events

MIN_JACCARD = 0.5
_PUNCTUATION = str.maketrans({".": None, ",": None, ";": None, ":": None, "/": " "})


def matches(gold: str, span: str, *, or_contains: bool = False) -> bool:
    """Whether ``span`` matches ``gold``; with ``or_contains`` also if it contains the gold text."""
    gold_words, span_words = (set(text.translate(_PUNCTUATION).lower().split(" ")) for text in (gold, span))
    is_similar = len(gold_words & span_words) >= MIN_JACCARD * len(gold_words | span_words)
    return is_similar or (or_contains and gold in span)


def span_events(question_id: str, golds: Sequence[str], spans: Sequence[tuple[str, float]]) -> Events:
    """The events of one question, from its n best spans with their scores; empty ``golds``: it has no answer."""
    or_contains = "Parties" in question_id
    is_match_GS = [[matches(gold, text, or_contains=or_contains) for text, _ in spans] for gold in golds]
    gold_scores = [
        max((score for (_, score), is_match in zip(spans, is_match_S, strict=True) if is_match), default=-np.inf)
        for is_match_S in is_match_GS
    ]
    false_scores = [score for s, (_, score) in enumerate(spans) if not any(is_match_S[s] for is_match_S in is_match_GS)]
    is_gold_N = np.array([True] * len(gold_scores) + [False] * len(false_scores), dtype=bool)
    return Events(np.array([*gold_scores, *false_scores]), is_gold_N)
