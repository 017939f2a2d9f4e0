import numpy as np

from qa_ray.evaluation.bootstrap import intervals


def test_documents_that_are_all_alike_leave_no_doubt():
    values = np.tile([0.0, 1.0], 50)  # each document has one of both
    of_what = np.repeat(np.arange(50), 2)
    ((low, high),) = intervals(of_what.tolist(), lambda times: [times @ values / times.sum()], resamples=100)
    assert low == high == 0.5


def test_questions_of_one_document_are_drawn_together():
    values = np.repeat(np.arange(20) % 2, 30)  # 20 documents, each all right or all wrong

    def width(of_what: np.ndarray) -> float:
        ((low, high),) = intervals(of_what.tolist(), lambda times: [times @ values / times.sum()], resamples=500)
        return high - low

    by_document, by_question = width(np.repeat(np.arange(20), 30)), width(np.arange(600))
    assert by_document > 3 * by_question  # √30 = 5.5 times as wide


def test_the_same_seed_gives_the_same_intervals():
    values = np.arange(30.0)
    drawn = [intervals(list(range(30)), lambda times: [times @ values / times.sum()], 50, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
