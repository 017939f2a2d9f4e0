import numpy as np
import pytest

from qa_ray.evaluation.calibration import Bin, calibration


def test_the_expected_error_is_the_mean_gap_between_score_and_accuracy():
    ones = np.ones(4)
    assert calibration(ones, ones).expected_error == 0
    assert calibration(ones, np.zeros(4)).expected_error == 1
    # Two bins: at 0.75 one of two is correct, at 0.25 none of two.
    assert calibration([0.75, 0.75, 0.25, 0.25], [1, 0, 0, 0]).expected_error == pytest.approx(0.25)


def test_without_answers_there_are_no_bins():
    assert calibration([], []).bins == []
    assert calibration([], []).expected_error == 0


def test_a_bin_has_the_count_mean_score_and_accuracy_of_its_answers():
    assert calibration([0.75, 0.75, 1.0], [True, False, True]).bins == [
        Bin(0.7, 0.8, 2, 0.75, 0.5),
        Bin(0.9, 1.0, 1, 1.0, 1.0),
    ]
