import numpy as np

from qa_ray.evaluation.bootstrap import confidence_intervals


def test_identical_documents_give_an_interval_of_width_0():
    values = np.tile([0.0, 1.0], 50)  # each document has one of each
    documents = np.repeat(np.arange(50), 2).tolist()
    ((low, high),) = confidence_intervals(documents, lambda counts: [counts @ values / counts.sum()], 100)
    assert low == high == 0.5


def test_questions_of_one_document_are_resampled_together():
    values = np.repeat(np.arange(20) % 2, 30)  # 20 documents, each all correct or all wrong

    def width(documents: np.ndarray) -> float:
        ((low, high),) = confidence_intervals(documents.tolist(), lambda counts: [counts @ values / counts.sum()], 500)
        return high - low

    by_document, by_question = width(np.repeat(np.arange(20), 30)), width(np.arange(600))
    assert by_document > 3 * by_question  # √30 = 5.5 times as wide


def test_the_same_seed_gives_the_same_intervals():
    values = np.arange(30.0)
    first, second, other = (
        confidence_intervals(list(range(30)), lambda counts: [counts @ values / counts.sum()], 50, seed)
        for seed in (0, 0, 1)
    )
    assert first == second != other
