"""The longest window that a model has positions for, read from the tables that it looks positions up in.

A family's config does not say it: RoBERTa and its relatives count from the padding's id + 1, BART from 2, and LED's
decoder has fewer positions than its encoder. So a short window is run, and every embedding table that is asked for
consecutive rows is one of positions: it has room for its number of rows less the first row that was asked for.
"""

import inspect
import sys
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NUM_TOKENS = 5  # of the window that is run; a token type or a bucket of distances is not 5 consecutive numbers


class _PositionTables(TorchFunctionMode):
    """Records (rows, first row) of each embedding table that is asked for consecutive rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.embedding:
            rows, weight = args[:2]
            # Longformer and LED pad their input to a multiple of their attention window.
            first = rows.reshape(-1)[:NUM_TOKENS].tolist()
            if rows.numel() == rows.shape[-1] and first == [*range(first[0], first[0] + NUM_TOKENS)]:
                self.tables.append((weight.shape[0], first[0]))
        return func(*args, **(kwargs or {}))


def max_positions(model: Any) -> int:
    """The tokens of the longest window that the transformers ``model`` has positions for.

    Without a table of positions (rotary or relative ones) it is the config's max_position_embeddings.
    """
    if tables := _tables(model):
        return min(num_rows - first for num_rows, first in tables)
    limit = getattr(model.config, "max_position_embeddings", None) or 0
    return limit if limit > 0 else sys.maxsize  # XLNet's is -1


def first_position(model: Any) -> int:
    """The row of the table of positions that belongs to a window's first token."""
    return max((first for _, first in _tables(model)), default=0)


@torch.no_grad()
def _tables(model: Any) -> list[tuple[int, int]]:
    embeddings = model.get_input_embeddings().weight
    last_id = embeddings.shape[0] - 1  # no padding, which positions may skip; MPNet takes 1 for it, whatever it is
    token_id = last_id if model.config.pad_token_id != last_id else last_id - 1
    ids = torch.full((1, NUM_TOKENS), token_id, device=embeddings.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "global_attention_mask" in inspect.signature(model.forward).parameters:
        inputs["global_attention_mask"] = torch.ones_like(ids)  # or Longformer would look for separators
    was_training = model.training
    model.eval()  # or dropout would draw random numbers
    try:
        with _PositionTables() as recorded:
            model(**inputs)
    finally:
        model.train(was_training)
    return recorded.tables
