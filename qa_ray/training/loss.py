"""Start and end logits, and what should have been found -> the loss to train on.

Of each example a softmax over the start logits of all tokens that can be said, which are the document's and the first
special token (no answer here), and one over the end logits; an answer's probability is the product, and the loss is
the negative logarithm of the sum over all gold answers in the window: whichever the model prefers is right (Clark &
Gardner 2018, section 3.2, "summed objective"). With one answer it is the cross-entropy of start and end.

Shapes: B examples, N tokens of all of them, L tokens of the longest.
"""

import torch
from torch import Tensor


def answer_loss(
    start_N: Tensor,
    end_N: Tensor,
    length_B: Tensor,
    document_start_B: Tensor,
    document_stop_B: Tensor,
    answers: Tensor,
) -> Tensor:
    """The loss of each example, [B], in nats.

    The logits are those of inputs that lie end to end, ``answers`` [_, 3] the example, first and last token of every
    gold answer, as examples.Batch has them.
    """
    position_L = torch.arange(int(length_B.max()), device=start_N.device)
    real_BL = position_L < length_B[:, None]
    said_BL = (position_L >= document_start_B[:, None]) & (position_L < document_stop_B[:, None]) | (position_L == 0)
    example, first, last = answers.T
    log_p = (
        _log_softmax(start_N.float(), real_BL, said_BL)[example, first]
        + _log_softmax(end_N.float(), real_BL, said_BL)[example, last]
    )
    return -_log_sum_exp_by(example, log_p, len(length_B))


def _log_softmax(logits_N: Tensor, real_BL: Tensor, said_BL: Tensor) -> Tensor:
    lowest = torch.finfo(logits_N.dtype).min
    logits_BL = logits_N.new_full(real_BL.shape, lowest).masked_scatter(real_BL, logits_N[: int(real_BL.sum())])
    return logits_BL.masked_fill(~said_BL, lowest).log_softmax(dim=1)


def _log_sum_exp_by(group: Tensor, x: Tensor, num_groups: int) -> Tensor:
    """Log Σ exp(x) over the members of each group, [num_groups]."""
    largest = x.detach().new_full((num_groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    total = torch.zeros_like(largest).index_add(0, group, (x - largest[group]).exp())
    return total.log() + largest
