"""Windows to learn from: drawn anew each epoch, shared among workers, and what stands in them."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.schemas import Layout
from qa_ray.training.sampling import (
    LabeledDocument,
    LabeledQuestion,
    epoch_examples,
    make_batch,
    micro_batches,
    share,
    steps,
)

LAYOUT = Layout(prefix=(0,), middle=(2, 2), suffix=(2,), pad_id=1, document_type_id=0)
DRAWN = {"max_tokens": [24], "overlap_tokens": 6, "positives": 1.0, "negatives": 1.0, "seed": 0, "epoch": 0}


def labeled(num_tokens: int, *answers: list[tuple[int, int]], question: int = 4) -> LabeledDocument:
    """Token t of the document has the id 100 + t."""
    asked = [
        LabeledQuestion(np.arange(10, 10 + question), np.array(some, dtype=np.int64).reshape(-1, 2)) for some in answers
    ]
    return LabeledDocument(np.arange(100, 100 + num_tokens), asked)


def some_documents() -> list[LabeledDocument]:
    return [labeled(40 + 7 * d, [(d, d + 2)], [(30, 33), (5, 6)], []) for d in range(12)]


def drawn(documents, **changes):
    return epoch_examples(documents, LAYOUT, **{**DRAWN, **changes})


def test_each_question_has_a_window_with_an_answer_and_one_without():
    found = drawn([labeled(60, [(3, 5)])])
    assert sorted(len(example.answers_A2) for example in found) == [0, 1]


def test_a_question_without_an_answer_has_one_window_at_least():
    assert len(drawn([labeled(60, [])], negatives=0.0)) == 1


def test_numbers_of_windows_are_means():
    documents = [labeled(400, [(3, 5)]) for _ in range(500)]
    kinds = Counter(bool(len(example.answers_A2)) for example in drawn(documents, positives=1.0, negatives=2.5))
    assert kinds[True] == 500
    assert 1150 < kinds[False] < 1350


def test_an_answer_cut_in_two_is_nothing_to_learn_from():
    document = labeled(40, [(0, 39)])
    assert drawn([document], negatives=10.0) == []


def test_windows_of_several_lengths_are_drawn():
    lengths = {example.num_tokens for example in drawn([labeled(200, [(3, 5)])] * 50, max_tokens=[24, 48])}
    assert lengths >= {24, 48}


def test_epochs_differ_and_the_same_epoch_is_the_same():
    documents = some_documents()

    def keys(epoch: int) -> list[tuple[int, int, int]]:
        return [(e.document, e.question, e.start) for e in drawn(documents, epoch=epoch)]

    assert keys(0) == keys(0)
    assert keys(0) != keys(1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200), st.integers(1, 5))
def test_every_example_is_in_one_step_one_share_and_one_batch(lengths: list[int], step_tokens: int, num_workers: int):
    base = drawn([labeled(60, [(3, 5)])])[0]
    examples = [base._replace(document=i, num_tokens=length) for i, length in enumerate(lengths)]
    planned = steps(examples, step_tokens)
    assert [example for step in planned for example in step] == examples
    assert all(len(step) for step in planned)
    for step in planned:
        shares = [share(step, rank, num_workers) for rank in range(num_workers)]
        batches = [list(micro_batches(some, 64)) for some in shares]
        seen = Counter(example.document for some in batches for batch in some for example in batch)
        assert seen == Counter(example.document for example in step)
        for batch in (batch for some in batches for batch in some):
            assert len(batch) == 1 or len(batch) * max(example.num_tokens for example in batch) <= 64


def test_steps_are_of_about_equally_many_tokens():
    found = drawn(some_documents() * 20)
    tokens = [sum(example.num_tokens for example in step) for step in steps(found, 480)]
    assert max(tokens) - min(tokens) <= 2 * 24
    assert abs(np.mean(tokens) - 480) < 24


def test_no_example_gives_no_step():
    assert steps([], 100) == []


def test_what_should_be_found_stands_in_the_input():
    documents = some_documents()
    examples = drawn(documents, negatives=2.0)
    batch = make_batch(documents, LAYOUT, examples)
    starts = np.cumsum(batch.length_B) - batch.length_B
    assert batch.length_B.sum() == len(batch.ids_N)
    for b, example in enumerate(examples):
        ids = batch.ids_N[starts[b] :][: batch.length_B[b]]
        question = documents[example.document].questions[example.question]
        assert ids[0] == 0
        assert ids[-1] == 2
        assert ids[1 : batch.num_prefix_tokens_B[b]].tolist() == question.token_ids.tolist()
        part = ids[batch.document_start_B[b] : batch.document_stop_B[b]]
        assert part.tolist() == list(range(100 + example.start, 100 + example.stop))
        said = sorted((first, last) for row, first, last in batch.answers.tolist() if row == b)
        texts = [ids[first : last + 1].tolist() for first, last in said]
        expected = sorted(list(range(100 + start, 100 + stop)) for start, stop in example.answers_A2.tolist())
        assert texts == (expected or [[0]])
