"""The loss of each example agrees with its textbook definition."""

import math

import torch
from torch.nn.functional import cross_entropy

from qa_ray.training.loss import answer_loss

LENGTHS, STARTS, STOPS = torch.tensor([6, 9]), torch.tensor([3, 4]), torch.tensor([5, 8])


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(15), torch.randn(15)


def loss(*answers: tuple[int, int, int]) -> torch.Tensor:
    return answer_loss(*logits(), LENGTHS, STARTS, STOPS, torch.tensor(answers))


def test_one_answer_is_the_cross_entropy_of_start_and_end():
    start_N, end_N = logits()
    allowed = [0, 4, 5, 6, 7]  # of the second example: the first special token and the document
    start_loss = cross_entropy(start_N[6:][allowed][None], torch.tensor([2]))
    end_loss = cross_entropy(end_N[6:][allowed][None], torch.tensor([3]))
    torch.testing.assert_close(loss((0, 0, 0), (1, 5, 6))[1], start_loss + end_loss)


def test_the_probabilities_of_several_answers_are_added():
    first, second = loss((0, 3, 4), (1, 0, 0))[0], loss((0, 4, 4), (1, 0, 0))[0]
    both = loss((0, 3, 4), (0, 4, 4), (1, 0, 0))[0]
    assert math.isclose(math.exp(-both), math.exp(-first) + math.exp(-second), rel_tol=1e-5)


def test_question_and_special_tokens_do_not_affect_the_loss():
    start_N, end_N = (logits_N.requires_grad_() for logits_N in logits())
    answers = torch.tensor([(0, 3, 4), (1, 0, 0)])
    answer_loss(start_N, end_N, LENGTHS, STARTS, STOPS, answers).sum().backward()
    assert start_N.grad is not None
    assert start_N.grad.nonzero().flatten().tolist() == [0, 3, 4, 6, 10, 11, 12, 13]


def test_logits_after_the_last_example_are_ignored():
    start_N, end_N = logits()
    answers = torch.tensor([(0, 3, 4), (1, 5, 6)])
    padded = [torch.cat([logits_N, torch.full((3,), 50.0)]) for logits_N in (start_N, end_N)]
    torch.testing.assert_close(
        answer_loss(padded[0], padded[1], LENGTHS, STARTS, STOPS, answers), loss((0, 3, 4), (1, 5, 6))
    )


def test_extreme_logits_give_finite_losses_and_gradients():
    start_N = torch.full((15,), -1e4)
    start_N[0] = 1e4
    start_N.requires_grad_()
    answers = torch.tensor([(0, 3, 4), (0, 4, 4), (1, 5, 6)])
    loss_B = answer_loss(start_N, start_N, LENGTHS, STARTS, STOPS, answers)
    loss_B.sum().backward()
    assert loss_B.isfinite().all()
    assert start_N.grad is not None
    assert start_N.grad.isfinite().all()
