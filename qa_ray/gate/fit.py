"""Labeled windows -> a fitted gate: Naive Bayes over the distinct terms of windows, for each question that recurs.

A term's weight is its log odds ratio between windows with an answer and without, less STANDARD_ERRORS of its standard
errors; what is left of it above 0 counts. So rare terms that occurred near an answer by chance have no weight, and
neither has what speaks against an answer, which is nothing but the rest of the language.

Shapes: W windows of a pair, F folds, V terms of the vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from qa_ray.gate.fitted import FittedGate, HeldOut, QuestionWeights
from qa_ray.gate.lexical import bm25
from qa_ray.gate.occurrences import distinct_terms
from qa_ray.schemas import Windows

NUM_FOLDS = 5
MIN_DOCUMENTS = 10  # with an answer to the question; of fewer, its words say more
STANDARD_ERRORS = (
    3.0  # on CUAD a recall of 95 % costs 18.8, 12.1, 9.6, 8.9 and 8.6 % of the windows with 0 to 4 of them
)


class LabeledPair(NamedTuple):
    """A question about a document, its windows, and which of them have an answer whole or touch one."""

    document_ids_T: np.ndarray
    question: str
    question_ids: np.ndarray
    windows: Windows
    has_answer_W: np.ndarray
    is_cut_W: np.ndarray  # touches an answer, and has none whole
    fold: int  # of the document, in [0, NUM_FOLDS)


class Fit(NamedTuple):
    """A gate, and how BM25 ranks the answers to the questions that the gate knows."""

    gate: FittedGate
    lexical: HeldOut


def fit_gate(pairs: Iterable[LabeledPair], tokenizer: str, vocabulary_size: int) -> Fit:
    """The gate for the questions of ``pairs``; ``tokenizer`` is the fingerprint of the one that made the ids.

    Its ranks are of documents held out: those of each fold by the weights of the other folds.
    """
    by_question: dict[bytes, list[LabeledPair]] = defaultdict(list)
    for pair in pairs:
        by_question[pair.question_ids.astype(np.int32).tobytes()].append(pair)
    questions, known, others = [], [], []
    for same_question in by_question.values():
        if sum(pair.has_answer_W.any() for pair in same_question) >= MIN_DOCUMENTS:
            questions.append(_fit_question(same_question, vocabulary_size))
            known += same_question
        else:
            others += same_question
    return Fit(FittedGate(tokenizer, tuple(questions), _lexical(others)), _lexical(known))


def _lexical(pairs: Iterable[LabeledPair]) -> HeldOut:
    """How BM25, which was fitted on nothing, ranks the answers."""
    return _held_out(
        _rank(bm25(pair.document_ids_T, pair.question_ids, pair.windows), pair.has_answer_W) for pair in pairs
    )


def _fit_question(pairs: Sequence[LabeledPair], vocabulary_size: int) -> QuestionWeights:
    counts_F = [_Counts(vocabulary_size) for _ in range(NUM_FOLDS)]
    for pair in pairs:
        counts_F[pair.fold].add(pair)
    total = _Counts(vocabulary_size).plus(counts_F)
    weights_F = [_weights(pairs[0], total.minus(counts)) for counts in counts_F]
    held_out = _held_out(
        _rank(weights_F[pair.fold].scores(pair.document_ids_T, pair.windows), pair.has_answer_W) for pair in pairs
    )
    final = _weights(pairs[0], total)
    return QuestionWeights(final.question, final.question_ids, final.term_V, final.weight_V, held_out)


class _Counts:
    """In how many windows with and without an answer each term is, and how many there are."""

    def __init__(self, vocabulary_size: int):
        self.with_answer_V, self.without_V = np.zeros((2, vocabulary_size), dtype=np.int64)
        self.num_with_answer = self.num_without = 0

    def add(self, pair: LabeledPair) -> None:
        window_N, term_N = distinct_terms(pair.document_ids_T, pair.windows)
        is_without_W = ~(pair.has_answer_W | pair.is_cut_W)
        np.add.at(self.with_answer_V, term_N[pair.has_answer_W[window_N]], 1)
        np.add.at(self.without_V, term_N[is_without_W[window_N]], 1)
        self.num_with_answer += int(pair.has_answer_W.sum())
        self.num_without += int(is_without_W.sum())

    def plus(self, others: Iterable["_Counts"]) -> "_Counts":
        for other in others:
            self.with_answer_V += other.with_answer_V
            self.without_V += other.without_V
            self.num_with_answer += other.num_with_answer
            self.num_without += other.num_without
        return self

    def minus(self, other: "_Counts") -> "_Counts":
        left = _Counts(len(self.without_V))
        left.with_answer_V = self.with_answer_V - other.with_answer_V
        left.without_V = self.without_V - other.without_V
        left.num_with_answer = self.num_with_answer - other.num_with_answer
        left.num_without = self.num_without - other.num_without
        return left


def _weights(pair: LabeledPair, counts: _Counts) -> QuestionWeights:
    """The weights by these counts, of the question of ``pair``."""
    cells = [
        counts.with_answer_V + 0.5,
        counts.num_with_answer - counts.with_answer_V + 0.5,
        counts.without_V + 0.5,
        counts.num_without - counts.without_V + 0.5,
    ]
    log_odds_ratio_V = np.log(cells[0] / cells[1]) - np.log(cells[2] / cells[3])
    standard_error_V = np.sqrt(sum(1 / cell for cell in cells))
    weight_V = log_odds_ratio_V - STANDARD_ERRORS * standard_error_V
    (term_V,) = np.nonzero(weight_V > 0)
    return QuestionWeights(
        pair.question, pair.question_ids, term_V.astype(np.int32), weight_V[term_V].astype(np.float32)
    )


def _rank(score_W: np.ndarray, has_answer_W: np.ndarray) -> tuple[int, int]:
    """The rank of the best window with an answer, from 1, or 0 if there is none; and the number of windows."""
    order = np.argsort(-score_W, kind="stable")
    return int(has_answer_W[order].argmax()) + 1 if has_answer_W.any() else 0, len(score_W)


def _held_out(ranks: Iterable[tuple[int, int]]) -> HeldOut:
    """The ranks of answers that a window has whole: one that is longer than any window is no matter of a gate."""
    table = np.array([(rank, number) for rank, number in ranks if rank], dtype=np.int32).reshape(-1, 2)
    return HeldOut(table[:, 0], table[:, 1])
