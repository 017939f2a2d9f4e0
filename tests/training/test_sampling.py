"""Training examples: sampled again in each epoch, divided into steps, worker shares and batches, with their targets."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.schemas import Layout
from qa_ray.training.sampling import (
    LabeledDocument,
    LabeledQuestion,
    count_without_answer,
    epoch_examples,
    make_batch,
    micro_batches,
    share,
    steps,
)

LAYOUT = Layout(prefix=(0,), middle=(2, 2), suffix=(2,), pad_id=1, document_type_id=0)
SETTINGS = {"max_tokens": [24], "overlap_tokens": 6, "positives": 1.0, "negatives": 1.0, "seed": 0, "epoch": 0}


def labeled(num_tokens: int, *answers: list[tuple[int, int]], question: int = 4) -> LabeledDocument:
    """A document with a question for each list of answers; token t of the document has the id 100 + t."""
    questions = [
        LabeledQuestion(np.arange(10, 10 + question), np.array(spans, dtype=np.int64).reshape(-1, 2))
        for spans in answers
    ]
    return LabeledDocument(np.arange(100, 100 + num_tokens), questions)


def twelve_documents() -> list[LabeledDocument]:
    return [labeled(40 + 7 * d, [(d, d + 2)], [(30, 33), (5, 6)], []) for d in range(12)]


def sampled(documents, **changes):
    return epoch_examples(documents, LAYOUT, **{**SETTINGS, **changes})


def test_each_question_gives_a_positive_and_a_negative_window():
    examples = sampled([labeled(60, [(3, 5)])])
    assert sorted(len(example.answers_A2) for example in examples) == [0, 1]


def test_questions_whose_answer_no_window_holds_whole_are_counted():
    documents = [labeled(60, [(3, 5)], [(3, 40)], []), labeled(60, [(0, 60)])]
    assert count_without_answer(documents, sampled(documents)) == 2


def test_a_question_without_an_answer_gives_at_least_one_window():
    assert len(sampled([labeled(60, [])], negatives=0.0)) == 1


def test_positives_and_negatives_are_mean_numbers_of_windows():
    documents = [labeled(400, [(3, 5)]) for _ in range(500)]
    examples = sampled(documents, positives=1.0, negatives=2.5)
    num_positives = sum(len(example.answers_A2) > 0 for example in examples)
    assert num_positives == 500
    assert 1150 < len(examples) - num_positives < 1350


def test_a_window_that_only_cuts_an_answer_is_not_sampled():
    document = labeled(40, [(0, 39)])
    assert sampled([document], negatives=10.0) == []


def test_windows_of_several_lengths_are_sampled():
    lengths = {example.num_tokens for example in sampled([labeled(200, [(3, 5)])] * 50, max_tokens=[24, 48])}
    assert lengths >= {24, 48}


def test_epochs_differ_and_the_same_epoch_is_reproducible():
    documents = twelve_documents()

    def keys(epoch: int) -> list[tuple[int, int, int]]:
        return [(e.document, e.question, e.start) for e in sampled(documents, epoch=epoch)]

    assert keys(0) == keys(0)
    assert keys(0) != keys(1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200), st.integers(1, 5))
def test_every_example_is_in_one_step_one_share_and_one_batch(lengths: list[int], step_tokens: int, num_workers: int):
    base = sampled([labeled(60, [(3, 5)])])[0]
    examples = [base._replace(document=i, num_tokens=length) for i, length in enumerate(lengths)]
    epoch_steps = steps(examples, step_tokens)
    assert [example for step in epoch_steps for example in step] == examples
    assert all(len(step) for step in epoch_steps)
    for step in epoch_steps:
        shares = [share(step, rank, num_workers) for rank in range(num_workers)]
        batches = [batch for examples_of_worker in shares for batch in micro_batches(examples_of_worker, 64)]
        counts = Counter(example.document for batch in batches for example in batch)
        assert counts == Counter(example.document for example in step)
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(example.num_tokens for example in batch) <= 64


def test_steps_have_about_the_same_number_of_tokens():
    examples = sampled(twelve_documents() * 20)
    tokens = [sum(example.num_tokens for example in step) for step in steps(examples, 480)]
    assert max(tokens) - min(tokens) <= 2 * 24
    assert abs(np.mean(tokens) - 480) < 24


def test_no_examples_give_no_steps():
    assert steps([], 100) == []


def test_the_targets_are_the_answers_in_the_packed_inputs():
    documents = twelve_documents()
    examples = sampled(documents, negatives=2.0)
    batch = make_batch(documents, LAYOUT, examples)
    starts = np.cumsum(batch.length_B) - batch.length_B
    assert batch.length_B.sum() == len(batch.ids_N)
    for b, example in enumerate(examples):
        ids = batch.ids_N[starts[b] :][: batch.length_B[b]]
        question = documents[example.document].questions[example.question]
        assert ids[0] == 0
        assert ids[-1] == 2
        assert ids[1 : batch.num_prefix_tokens_B[b]].tolist() == question.token_ids.tolist()
        window_ids = ids[batch.document_start_B[b] : batch.document_stop_B[b]]
        assert window_ids.tolist() == list(range(100 + example.start, 100 + example.stop))
        targets = sorted((first, last) for row, first, last in batch.answers.tolist() if row == b)
        target_ids = [ids[first : last + 1].tolist() for first, last in targets]
        expected = sorted(list(range(100 + start, 100 + stop)) for start, stop in example.answers_A2.tolist())
        assert target_ids == (expected or [[0]])
