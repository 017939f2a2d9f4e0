import numpy as np
import pytest

from qa_ray.evaluation.calibration import Bin, calibration


def test_the_error_is_the_mean_distance_of_scores_from_frequencies():
    always = np.ones(4)
    assert calibration(always, always).expected_error == 0
    assert calibration(always, np.zeros(4)).expected_error == 1
    # Two bins: 0.75 is said where 1 of 2 is right, 0.25 where none of 2 is.
    assert calibration([0.75, 0.75, 0.25, 0.25], [1, 0, 0, 0]).expected_error == pytest.approx(0.25)


def test_of_no_answers_there_are_no_bins():
    assert calibration([], []).bins == []
    assert calibration([], []).expected_error == 0


def test_bins_say_what_lies_in_them():
    assert calibration([0.75, 0.75, 1.0], [True, False, True]).bins == [
        Bin(0.7, 0.8, 2, 0.75, 0.5),
        Bin(0.9, 1.0, 1, 1.0, 1.0),
    ]
