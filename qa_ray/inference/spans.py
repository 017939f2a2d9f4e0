"""Logits of documents -> their best spans, in descending order.

A span ``[start, stop)`` of tokens has the logit ``start_logit[start] + end_logit[stop - 1]``. It has at most
``max_answer_tokens`` tokens and is within one window. Time and memory are linear in the tokens: only the band of
allowed spans is computed, never an L × L matrix. All documents of a batch are searched together, on the device of their
logits, in rows of at most ROW_TOKENS tokens; only the best spans of each row leave the device.

Shapes: P documents, each with a question; N tokens of all of them, concatenated; W windows; R rows, C tokens of a row;
D lengths of a span (1 … max_answer_tokens); S spans.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qa_ray.schemas import Ranking, Span

ROW_TOKENS = 1_024
SEARCHED_TOKENS = 16_384  # at a time: their band of 30 logits each takes 2 MB


def rank_logits(logits_N: Tensor, null_logits_W: Tensor, num_owned_W: Tensor, ranking: Ranking) -> Tensor:
    """The start (or end) logits by which spans of different windows are compared, [N].

    ``logit`` returns them unchanged (as run_qa.py of transformers does). ``logit_minus_null`` subtracts from each the
    null logit of its window, that of the first token, which means "no answer here" (SQuAD 2.0, Devlin et al.
    2018). Within one window the order is the same.
    """
    if ranking == "logit":
        return logits_N
    return logits_N - torch.repeat_interleave(null_logits_W, num_owned_W)


def spans(
    start_logits_N: Tensor,
    end_logits_N: Tensor,
    reach_N: Tensor,
    num_tokens_P: Sequence[int],
    max_answer_tokens: int,
    first: int = 64,
) -> list[Iterator[Span]]:
    """For each document all its spans, best first; equal logits are ordered by start, then by length.

    ``reach_N`` is the number of tokens from each token to the end of the last window that contains it. The ``first``
    spans of all documents are searched at once. Taking more of one document starts a search for four times as many in
    it, and so on.
    """

    def iterate(tokens: slice, best: _Spans, limit: int) -> Iterator[Span]:
        num_taken = 0
        while True:
            for span in range(num_taken, len(best.logit_S)):
                yield Span(*(column[span].item() for column in best))
            if len(best.logit_S) < limit:
                return
            num_taken, limit = len(best.logit_S), 4 * limit
            start, end, reach = start_logits_N[tokens], end_logits_N[tokens], reach_N[tokens]
            (best,) = _search(start, end, reach, [len(reach)], max_answer_tokens, limit)

    best_P = _search(start_logits_N, end_logits_N, reach_N, num_tokens_P, max_answer_tokens, first)
    bounds = pairwise(np.cumsum([0, *num_tokens_P]).tolist())
    return [iterate(slice(*bound), best, first) for bound, best in zip(bounds, best_P, strict=True)]


def log_normalizers(logits_N: Tensor, num_tokens_P: Sequence[int]) -> np.ndarray:
    """log Σ exp over all tokens of each document, each counted once, [P] in float64.

    The shared normalization of Clark & Gardner 2018.
    """
    rows = _rows(num_tokens_P)
    row_normalizers = []
    for chunk in rows.chunks():
        token_RC, is_real_RC = chunk.tokens(logits_N.device)
        logits_RC = logits_N[token_RC].double().masked_fill(~is_real_RC, -torch.inf)
        row_normalizers.append(torch.logsumexp(logits_RC, dim=1).cpu().numpy())
    first_row_P = np.searchsorted(rows.document_R, np.arange(len(num_tokens_P)))
    return np.logaddexp.reduceat(np.concatenate(row_normalizers), first_row_P)


class _Rows(NamedTuple):
    """Ranges ``[start, stop)`` of the N tokens, each within one document."""

    document_R: np.ndarray
    start_R: np.ndarray
    stop_R: np.ndarray

    def chunks(self) -> Iterator["_Rows"]:
        """The rows in groups of about SEARCHED_TOKENS tokens."""
        widest = int((self.stop_R - self.start_R).max())
        step = max(1, SEARCHED_TOKENS // widest)
        for first in range(0, len(self.start_R), step):
            yield _Rows(*(column[first : first + step] for column in self))

    def tokens(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The tokens of the rows, [R, C], and which are real: shorter rows are padded with their last token."""
        widest = int((self.stop_R - self.start_R).max())
        start_R1, stop_R1 = (torch.from_numpy(column).to(device)[:, None] for column in (self.start_R, self.stop_R))
        token_RC = start_R1 + torch.arange(widest, device=device)
        return token_RC.minimum(stop_R1 - 1), token_RC < stop_R1


def _rows(num_tokens_P: Sequence[int]) -> _Rows:
    stop_P = np.cumsum(num_tokens_P)
    start_P = stop_P - num_tokens_P
    num_rows_P = -(-np.asarray(num_tokens_P) // ROW_TOKENS)
    document_R = np.repeat(np.arange(len(num_tokens_P)), num_rows_P)
    number_R = np.arange(len(document_R)) - np.repeat(np.cumsum(num_rows_P) - num_rows_P, num_rows_P)
    start_R = start_P[document_R] + number_R * ROW_TOKENS
    return _Rows(document_R, start_R, np.minimum(start_R + ROW_TOKENS, stop_P[document_R]))


class _Spans(NamedTuple):
    """Spans of one document as columns, best first; Span objects are created only when they are taken."""

    start_S: np.ndarray
    stop_S: np.ndarray
    logit_S: np.ndarray


def _search(
    start_logits_N: Tensor,
    end_logits_N: Tensor,
    reach_N: Tensor,
    num_tokens_P: Sequence[int],
    max_answer_tokens: int,
    limit: int,
) -> list[_Spans]:
    """The best ``limit`` spans of each document."""
    length_D = torch.arange(max_answer_tokens, device=reach_N.device)  # minus one
    columns = []
    for rows in _rows(num_tokens_P).chunks():
        token_RC, is_real_RC = rows.tokens(reach_N.device)
        allowed_RCD = (length_D < reach_N[token_RC, None]) & is_real_RC[..., None]
        end_logits_RCD = end_logits_N[(token_RC[..., None] + length_D).clamp_(max=len(reach_N) - 1)]
        logits_RCD = torch.where(allowed_RCD, start_logits_N[token_RC, None] + end_logits_RCD, -torch.inf)
        # topk keeps an arbitrary one of equal values; here the first ones are kept, on every device.
        flat, allowed = logits_RCD.flatten(1), allowed_RCD.flatten(1)
        worst_R1 = torch.topk(flat, min(limit, flat.shape[1])).values[:, -1:]
        is_better, is_equal = flat > worst_R1, (flat == worst_R1) & allowed
        num_equal_R1 = limit - is_better.sum(dim=1, keepdim=True)
        is_kept = is_better | (is_equal & (is_equal.cumsum(dim=1, dtype=torch.int32) <= num_equal_R1))
        row_S, index_S = is_kept.nonzero(as_tuple=True)
        row_S, index_S, logit_S = (x.cpu().numpy() for x in (row_S, index_S, flat[row_S, index_S]))
        start_S = rows.start_R[row_S] + index_S // max_answer_tokens
        columns.append((rows.document_R[row_S], start_S, index_S % max_answer_tokens, logit_S))
    document_S, start_S, length_S, logit_S = map(np.concatenate, zip(*columns, strict=True))
    start_S = start_S - (np.cumsum(num_tokens_P) - num_tokens_P)[document_S]
    order = np.lexsort((length_S, start_S, -logit_S, document_S))
    bounds = pairwise(np.searchsorted(document_S[order], np.arange(len(num_tokens_P) + 1)))
    best_P = [order[first : min(stop, first + limit)] for first, stop in bounds]
    stop_S = start_S + length_S + 1
    return [_Spans(start_S[best], stop_S[best], logit_S[best]) for best in best_P]
