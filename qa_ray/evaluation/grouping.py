"""Figures of groups of questions: by a column of the questions or answers, or by any other label."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from qa_ray.evaluation.outcomes import Figures, Outcome, mean_figures

NULL_GROUP = "null"  # rows whose column is null, or that have no answer row to take it from
MAX_NUMBER_GROUPS = 10  # a column of numbers with more distinct values is divided at its quartiles


def figures_by_group(outcomes: Sequence[Outcome], groups: Sequence[str]) -> dict[str, Figures]:
    """The figures of each group, largest group first, then by name; ``groups`` is the group of each outcome."""
    members = defaultdict(list)
    for group, outcome in zip(groups, outcomes, strict=True):
        members[group].append(outcome)
    names = sorted(members, key=lambda name: (-len(members[name]), name))
    return {name: mean_figures(members[name]) for name in names}


def column_groups(outcomes: Sequence[Outcome], column: int) -> list[str]:
    """The group of each outcome: its value of this column, or the quartile ("25 to 49") if there are many numbers."""
    values = [_value(outcome, column) for outcome in outcomes]
    present = [value for value in values if value is not None]
    if len(set(present)) <= MAX_NUMBER_GROUPS or not all(isinstance(value, int | float) for value in present):
        return [NULL_GROUP if value is None else str(value) for value in values]
    bounds = np.quantile(present, [0.25, 0.5, 0.75])
    quartiles = np.searchsorted(bounds, [0 if value is None else value for value in values]).tolist()
    ranges = {}
    for quartile, value in zip(quartiles, values, strict=True):
        if value is not None:
            low, high = ranges.get(quartile, (value, value))
            ranges[quartile] = min(low, value), max(high, value)
    names = {quartile: f"{low:,.6g} to {high:,.6g}" for quartile, (low, high) in ranges.items()}
    return [NULL_GROUP if value is None else names[quartile] for quartile, value in zip(quartiles, values, strict=True)]


def _value(outcome: Outcome, column: int) -> Any:
    sides = [outcome.gold.values, outcome.prediction.values if outcome.prediction else ()]
    return next((values[column] for values in sides if values and values[column] is not None), None)
