"""Start logits, end logits and gold answers -> the training loss.

For each example, one softmax over the start logits and one over the end logits of the allowed tokens: the document's
and the first special token, which represents no answer. An answer's probability is the product; the loss is the
negative logarithm of its sum over all gold answers in the window, so the model may prefer any of them (Clark & Gardner
2018, section 3.2, "summed objective"). With one answer it is the cross-entropy of start plus that of end.

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

    The logits are packed (concatenated without padding); logits after the last example are ignored. A row of
    ``answers`` [_, 3] is the example, first and last token of a gold answer, as in sampling.Batch.
    """
    position_L = torch.arange(int(length_B.max()), device=start_N.device)
    is_input_BL = position_L < length_B[:, None]
    is_allowed_BL = (position_L >= document_start_B[:, None]) & (position_L < document_stop_B[:, None]) | (
        position_L == 0
    )
    example, first, last = answers.T
    log_p = (
        _log_softmax(start_N.float(), is_input_BL, is_allowed_BL)[example, first]
        + _log_softmax(end_N.float(), is_input_BL, is_allowed_BL)[example, last]
    )
    return -_log_sum_exp_by(example, log_p, len(length_B))


def _log_softmax(logits_N: Tensor, is_input_BL: Tensor, is_allowed_BL: Tensor) -> Tensor:
    """Log probabilities over each example's allowed tokens, [B, L]."""
    lowest = torch.finfo(logits_N.dtype).min
    num_tokens = int(is_input_BL.sum())
    logits_BL = logits_N.new_full(is_input_BL.shape, lowest).masked_scatter(is_input_BL, logits_N[:num_tokens])
    return logits_BL.masked_fill(~is_allowed_BL, lowest).log_softmax(dim=1)


def _log_sum_exp_by(group: Tensor, x: Tensor, num_groups: int) -> Tensor:
    """Log Σ exp(x) over the members of each group, [num_groups]."""
    largest = x.detach().new_full((num_groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    total = torch.zeros_like(largest).index_add(0, group, (x - largest[group]).exp())
    return total.log() + largest
