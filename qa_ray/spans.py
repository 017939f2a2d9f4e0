"""Logits of a document -> its best spans, in descending order.

A span ``[start, stop)`` of tokens has the logit ``start_logit[start] + end_logit[stop - 1]``; it is at most
``max_answer_tokens`` long and lies within one window. Time and memory are linear in the tokens: only the band of
allowed spans is ever looked at, never an L × L matrix.

Shapes: T tokens of the document, W windows, D lengths of a span (1 … max_answer_tokens).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from qa_ray.records import Ranking, Span

CHUNK_TOKENS = 16_384  # a chunk's band of 16,384 × 30 logits takes 2 MB


def rank_logits(logits_T: Tensor, null_logits_W: Tensor, num_owned_W: Tensor, ranking: Ranking) -> Tensor:
    """The start (or end) logits by which spans of different windows are ranked against each other.

    ``logit`` takes them as they are (transformers' run_qa.py). ``logit_minus_null`` measures each against what its
    window says of "no answer here" (its null logit: the one of the first token, as in SQuAD 2.0, Devlin et al.
    2018). Within one window both rank alike.
    """
    if ranking == "logit":
        return logits_T
    return logits_T - torch.repeat_interleave(null_logits_W, num_owned_W)


def spans(
    start_logits_T: Tensor, end_logits_T: Tensor, reach_T: Tensor, max_answer_tokens: int, first: int = 64
) -> Iterator[Span]:
    """All spans, best first; equal logits by start, then by length.

    ``reach_T[t]`` is where the last window holding token t stops. The ``first`` spans are searched at once; whoever
    takes more causes a second search for four times as many, and so on.
    """
    num_taken, limit = 0, first
    while True:
        found = _top(start_logits_T, end_logits_T, reach_T, max_answer_tokens, limit)
        yield from found[num_taken:]
        if len(found) < limit:
            return
        num_taken, limit = len(found), 4 * limit


def _top(
    start_logits_T: Tensor, end_logits_T: Tensor, reach_T: Tensor, max_answer_tokens: int, limit: int
) -> list[Span]:
    chunks = [
        _top_of_chunk(start_logits_T, end_logits_T, reach_T, max_answer_tokens, limit, first_token)
        for first_token in range(0, len(start_logits_T), CHUNK_TOKENS)
    ]
    logits, starts, stops = (torch.cat(column) for column in zip(*chunks, strict=True))
    order = torch.argsort(logits, descending=True, stable=True)[:limit]
    return [
        Span(*row) for row in zip(starts[order].tolist(), stops[order].tolist(), logits[order].tolist(), strict=True)
    ]


def _top_of_chunk(
    start_logits_T: Tensor, end_logits_T: Tensor, reach_T: Tensor, max_answer_tokens: int, limit: int, first_token: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, starts and stops of the best ``limit`` spans that start in one chunk, in order of (start, stop)."""
    device = start_logits_T.device
    start_C = torch.arange(first_token, min(first_token + CHUNK_TOKENS, len(start_logits_T)), device=device)
    last_CD = start_C[:, None] + torch.arange(max_answer_tokens, device=device)
    allowed_CD = last_CD < reach_T[start_C, None]
    end_logits_CD = end_logits_T[last_CD.clamp_(max=len(end_logits_T) - 1)]
    logits_CD = torch.where(allowed_CD, start_logits_T[start_C, None] + end_logits_CD, -torch.inf)
    flat = logits_CD.flatten()
    # topk keeps any of several equals; taking all that reach its last value keeps the first of them, on every device.
    worst = torch.topk(flat, min(limit, len(flat))).values[-1]
    best = ((flat >= worst) & allowed_CD.flatten()).nonzero().squeeze(1)
    best = best[torch.argsort(flat[best], descending=True, stable=True)[:limit]].sort().values
    starts = start_C[best // max_answer_tokens]
    return flat[best], starts, starts + best % max_answer_tokens + 1


def log_normaliser(logits_T: Tensor) -> float:
    """log Σ exp over all tokens of the document, each counted once: shared normalisation, Clark & Gardner 2018."""
    return float(torch.logsumexp(logits_T.double(), dim=0))
