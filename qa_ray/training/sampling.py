"""Labeled documents -> the training examples of an epoch, divided into steps, worker shares and batches.

An example is a question, one window of its document, and the target: the gold answers that are whole within the window,
or no answer. For each question, some windows with an answer (positives) and some without (negatives) are sampled again
in every epoch; windows that only cut an answer are never used.

All of it is a function of seed and epoch, so it is the same in every process, for any number of workers, and in a run
that resumes another.

Shapes: T tokens of a document, A answers of a question, B examples, N tokens of a batch.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from qa_ray.inference.windows import windows
from qa_ray.schemas import Layout
from qa_ray.training.labels import labels


class LabeledQuestion(NamedTuple):
    """A question's token ids, and the document's tokens ``[start, stop)`` of each gold answer, [A, 2]."""

    token_ids: np.ndarray
    answers_A2: np.ndarray


class LabeledDocument(NamedTuple):
    """A document's token ids and its questions."""

    token_ids_T: np.ndarray
    questions: list[LabeledQuestion]


class Example(NamedTuple):
    """A question and the window ``[start, stop)`` of its document, in tokens.

    ``answers_A2`` are the answers within the window, as tokens of the document; with A = 0 the target is no answer.
    """

    document: int  # index into the documents
    question: int  # index into the document's questions
    start: int
    stop: int
    answers_A2: np.ndarray
    num_tokens: int  # of the input: question, window and special tokens


class Batch(NamedTuple):
    """The inputs of B examples, packed (concatenated without padding), and their targets.

    ``answers`` [_, 3] has a row for each answer of each example: the example, and the first and last token of the
    answer within the example's input. The target of no answer is token 0, the first special one.
    """

    ids_N: np.ndarray
    length_B: np.ndarray
    num_prefix_tokens_B: np.ndarray
    document_start_B: np.ndarray  # the document's tokens in the input
    document_stop_B: np.ndarray
    answers: np.ndarray


def epoch_examples(
    documents: Sequence[LabeledDocument],
    layout: Layout,
    *,
    max_tokens: Sequence[int],
    overlap_tokens: int,
    positives: float,
    negatives: float,
    seed: int,
    epoch: int,
) -> list[Example]:
    """The examples of an epoch, in random order.

    Each question draws one of the input lengths ``max_tokens``. Of its windows, on average ``positives`` with an
    answer and ``negatives`` without are sampled, as far as there are so many; at least one if it has no answer at all.
    """
    random = np.random.default_rng([seed, epoch])
    examples: list[Example] = []
    for d, document in enumerate(documents):
        for q, (question_ids, answers_A2) in enumerate(document.questions):
            num_other_tokens = len(question_ids) + layout.num_special_tokens
            room = int(random.choice(max_tokens)) - num_other_tokens
            # A long question may leave a short window no more room than the overlap.
            document_windows = windows(len(document.token_ids_T), room, min(overlap_tokens, room // 2))
            is_inside_WA, is_cut_W = labels(document_windows, answers_A2)
            has_answer_W = is_inside_WA.any(axis=1)
            with_answer = np.flatnonzero(has_answer_W)
            without_answer = np.flatnonzero(np.logical_not(has_answer_W | is_cut_W))
            sampled = _sample(random, with_answer, positives)
            sampled += _sample(random, without_answer, negatives, at_least=0 if len(answers_A2) else 1)
            for w in sampled:
                start, stop = int(document_windows.start_W[w]), int(document_windows.stop_W[w])
                inside_A2 = answers_A2[is_inside_WA[w]]
                examples.append(Example(d, q, start, stop, inside_A2, num_other_tokens + stop - start))
    return [examples[i] for i in random.permutation(len(examples))]


def count_without_answer(documents: Sequence[LabeledDocument], examples: Sequence[Example]) -> int:
    """The number of questions that have an answer, and no example with one."""
    with_answer = {(example.document, example.question) for example in examples if len(example.answers_A2)}
    num_answered = sum(len(question.answers_A2) > 0 for document in documents for question in document.questions)
    return num_answered - len(with_answer)


def _sample(random: np.random.Generator, numbers: np.ndarray, mean: float, at_least: int = 0) -> list[int]:
    """``mean`` of the numbers on average, rounded down or up at random; all of them if there are fewer."""
    size = max(at_least, int(mean + random.random()))
    return random.permutation(numbers)[:size].tolist()


def steps(examples: Sequence[Example], step_tokens: int) -> list[Sequence[Example]]:
    """The examples in order, divided into steps of as nearly ``step_tokens`` tokens as whole examples allow."""
    stops = np.cumsum([example.num_tokens for example in examples])
    num_steps = max(1, round(int(stops[-1]) / step_tokens)) if len(examples) else 0
    bounds = np.searchsorted(stops, stops[-1] * np.arange(num_steps + 1) / num_steps) if num_steps else np.zeros(1, int)
    bounds = np.unique(np.append(bounds[:-1], len(examples)))
    return [examples[start:stop] for start, stop in pairwise(bounds)]


def share(step: Sequence[Example], rank: int, num_workers: int) -> list[Example]:
    """The examples of a step for worker ``rank``, longest first; all workers get about equally many tokens."""
    shares: list[list[Example]] = [[] for _ in range(num_workers)]
    num_tokens = np.zeros(num_workers, int)
    for example in sorted(step, key=lambda e: -e.num_tokens):
        lightest = int(num_tokens.argmin())
        shares[lightest].append(example)
        num_tokens[lightest] += example.num_tokens
    return shares[rank]


def micro_batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[Sequence[Example]]:
    """The examples, longest first, in batches of at most ``batch_tokens`` with padding, or of a single example."""
    ordered = sorted(examples, key=lambda e: -e.num_tokens)
    first = 0
    while first < len(ordered):
        stop = first + max(1, batch_tokens // ordered[first].num_tokens)
        yield ordered[first:stop]
        first = stop


def make_batch(documents: Sequence[LabeledDocument], layout: Layout, examples: Sequence[Example]) -> Batch:
    """The packed inputs of the examples and their targets."""
    pieces: list[np.ndarray | tuple[int, ...]] = []
    rows: list[tuple[int, int, int, int]] = []  # length, num_prefix_tokens, document_start, document_stop
    answers: list[tuple[int, int, int]] = []
    for b, example in enumerate(examples):
        document = documents[example.document]
        question_ids = document.questions[example.question].token_ids
        window_ids = document.token_ids_T[example.start : example.stop]
        num_prefix_tokens = len(layout.prefix) + len(question_ids)
        document_start = num_prefix_tokens + len(layout.middle)
        pieces += [layout.prefix, question_ids, layout.middle, window_ids, layout.suffix]
        rows.append((example.num_tokens, num_prefix_tokens, document_start, document_start + len(window_ids)))
        shift = document_start - example.start
        targets = {(int(start) + shift, int(stop) + shift - 1) for start, stop in example.answers_A2}
        answers += [(b, *target) for target in sorted(targets or {(0, 0)})]
    length_B, num_prefix_tokens_B, start_B, stop_B = np.array(rows, dtype=np.int64).T
    ids_N = np.concatenate(pieces, dtype=np.int64, casting="same_kind")
    return Batch(ids_N, length_B, num_prefix_tokens_B, start_B, stop_B, np.array(answers, dtype=np.int64))
