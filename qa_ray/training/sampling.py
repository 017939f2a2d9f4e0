"""Documents with their gold answers -> an epoch's training examples, in steps of about equally many tokens.

An example is a window that a question is asked of, and what the model should find there: any of the gold answers that
stand in it whole, or that there is none. Of a question's windows some that hold an answer and some that hold none are
drawn, anew in every epoch; a window that cuts an answer in two is no example.

Everything here follows from the seed and the number of the epoch: it is the same in every process, however many there
are, and in a run that goes on where another one was killed.

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
    """A question's token ids, and the tokens ``[start, stop)`` of each gold answer in its document, [A, 2]."""

    token_ids: np.ndarray
    answers_A2: np.ndarray


class LabeledDocument(NamedTuple):
    """A document's token ids and what is asked of it."""

    token_ids_T: np.ndarray
    questions: list[LabeledQuestion]


class Example(NamedTuple):
    """The window ``[start, stop)`` of a document, for one of its questions.

    ``answers_A2`` are tokens of the document, all of them within the window; none: there is no answer in it.
    """

    document: int
    question: int
    start: int
    stop: int
    answers_A2: np.ndarray
    num_tokens: int  # of the whole input


class Batch(NamedTuple):
    """The inputs of some examples, end to end, and what should be found in each.

    ``answers`` [_, 3] has a row for each answer of each example: the example, and the first and the last token of the
    answer in the example's own input. Where there is no answer, that is token 0, the first special one.
    """

    ids_N: np.ndarray
    length_B: np.ndarray
    num_prefix_tokens_B: np.ndarray
    document_start_B: np.ndarray  # of the document's part of an input
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

    ``max_tokens`` are the lengths of windows: each question draws one of them. Of a question's windows, ``positives``
    with an answer are drawn on average and ``negatives`` without, as far as there are so many; and one at least where
    the document has no answer.
    """
    random = np.random.default_rng([seed, epoch])
    found: list[Example] = []
    for d, document in enumerate(documents):
        for q, (question_ids, answers_A2) in enumerate(document.questions):
            before = len(question_ids) + layout.num_special_tokens
            room = int(random.choice(max_tokens)) - before
            # Of long questions, windows of the shortest kind would have no step left.
            cut = windows(len(document.token_ids_T), room, min(overlap_tokens, room // 2))
            said = labels(cut, answers_A2)
            has_answer_W = said.is_inside_WA.any(axis=1)
            with_answer = np.flatnonzero(has_answer_W)
            without = np.flatnonzero(np.logical_not(has_answer_W | said.is_cut_W))
            drawn = _drawn(random, with_answer, positives)
            drawn += _drawn(random, without, negatives, least=0 if len(answers_A2) else 1)
            for w in drawn:
                start, stop = int(cut.start_W[w]), int(cut.stop_W[w])
                inside_A2 = answers_A2[said.is_inside_WA[w]]
                found.append(Example(d, q, start, stop, inside_A2, before + stop - start))
    return [found[i] for i in random.permutation(len(found))]


def _drawn(random: np.random.Generator, numbers: np.ndarray, mean: float, least: int = 0) -> list[int]:
    """``mean`` of these, or one more or less, so that it is the mean; not more than there are."""
    number = max(least, int(mean + random.random()))
    return random.permutation(numbers)[:number].tolist()


def steps(examples: Sequence[Example], step_tokens: int) -> list[Sequence[Example]]:
    """The examples in order, in steps of ``step_tokens`` tokens as nearly as whole examples allow."""
    stops = np.cumsum([example.num_tokens for example in examples])
    num_steps = max(1, round(int(stops[-1]) / step_tokens)) if len(examples) else 0
    bounds = np.searchsorted(stops, stops[-1] * np.arange(num_steps + 1) / num_steps) if num_steps else np.zeros(1, int)
    bounds = np.unique(np.append(bounds[:-1], len(examples)))
    return [examples[start:stop] for start, stop in pairwise(bounds)]


def share(step: Sequence[Example], rank: int, num_workers: int) -> list[Example]:
    """The examples of a step that a worker takes: about as many tokens as any other worker's."""
    shares: list[list[Example]] = [[] for _ in range(num_workers)]
    num_tokens = np.zeros(num_workers, int)
    for example in sorted(step, key=lambda e: -e.num_tokens):
        least = int(num_tokens.argmin())
        shares[least].append(example)
        num_tokens[least] += example.num_tokens
    return shares[rank]


def micro_batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[Sequence[Example]]:
    """The examples, longest first, in batches that with their padding hold ``batch_tokens``, or a single example."""
    ordered = sorted(examples, key=lambda e: -e.num_tokens)
    first = 0
    while first < len(ordered):
        stop = first + max(1, batch_tokens // ordered[first].num_tokens)
        yield ordered[first:stop]
        first = stop


def make_batch(documents: Sequence[LabeledDocument], layout: Layout, examples: Sequence[Example]) -> Batch:
    """The inputs and what to find in them."""
    pieces: list[np.ndarray | tuple[int, ...]] = []
    rows: list[tuple[int, int, int, int]] = []  # length, num_prefix_tokens, document_start, document_stop
    answers: list[tuple[int, int, int]] = []
    for b, example in enumerate(examples):
        document = documents[example.document]
        question_ids = document.questions[example.question].token_ids
        part = document.token_ids_T[example.start : example.stop]
        num_prefix_tokens = len(layout.prefix) + len(question_ids)
        first = num_prefix_tokens + len(layout.middle)
        pieces += [layout.prefix, question_ids, layout.middle, part, layout.suffix]
        rows.append((example.num_tokens, num_prefix_tokens, first, first + len(part)))
        shift = first - example.start
        inside = {(int(start) + shift, int(stop) + shift - 1) for start, stop in example.answers_A2}
        answers += [(b, *answer) for answer in sorted(inside or {(0, 0)})]
    length_B, num_prefix_tokens_B, start_B, stop_B = np.array(rows, dtype=np.int64).T
    ids_N = np.concatenate(pieces, dtype=np.int64, casting="same_kind")
    return Batch(ids_N, length_B, num_prefix_tokens_B, start_B, stop_B, np.array(answers, dtype=np.int64))
