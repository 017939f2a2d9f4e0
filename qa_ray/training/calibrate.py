"""Validation scores and their outcomes -> the slope and intercept of Platt scaling (Platt 1999).

Shapes: R answers.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from qa_ray.inference.answers import log_odds


def fit_scores(score_R: np.ndarray, is_right_R: np.ndarray) -> tuple[float, float]:
    """The slope and intercept with which answers.calibrated turns scores in [0, 1] into frequencies of being right.

    Maximum a posteriori of a logistic regression on the log odds, with a standard normal prior on log slope and
    intercept, which weighs about as much as one question: with few answers both stay near 1 and 0. Fitting the
    logarithm keeps the slope above 0, so the order of scores does not change.
    """
    logit_R = torch.tensor([log_odds(score) for score in score_R], dtype=torch.float64)
    target_R = torch.as_tensor(is_right_R, dtype=torch.float64)
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log slope, intercept
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        calibrated_R = parameters[0].exp() * logit_R + parameters[1]
        loss = functional.binary_cross_entropy_with_logits(calibrated_R, target_R, reduction="sum")
        loss = loss + (parameters**2).sum() / 2
        loss.backward()
        return loss

    optimizer.step(compute_loss)
    log_slope, intercept = parameters.tolist()
    return math.exp(log_slope), intercept
