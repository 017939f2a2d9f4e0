"""Scores that come true: the slope and the intercept of Platt scaling, fitted to validation answers."""

import math

import numpy as np
import torch
from torch.nn import functional

from qa_ray.inference.answers import log_odds


def fit_scores(score_R: np.ndarray, is_right_R: np.ndarray) -> tuple[float, float]:
    """The slope and the intercept with which answers.calibrated makes scores frequencies: the likeliest ones.

    Their prior, a normal one round the scores as they are, weighs about as much as one question: both stay near 1 and 0
    where there is little to fit, and the slope, of which the logarithm is fitted, above 0: the order of scores stays.
    """
    logit_R = torch.tensor([log_odds(score) for score in score_R], dtype=torch.float64)
    goal_R = torch.as_tensor(is_right_R, dtype=torch.float64)
    found = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log slope, intercept
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        said_R = found[0].exp() * logit_R + found[1]
        total = functional.binary_cross_entropy_with_logits(said_R, goal_R, reduction="sum") + (found**2).sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    log_slope, intercept = found.tolist()
    return math.exp(log_slope), intercept
