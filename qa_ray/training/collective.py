"""Sums and lists over all training workers; with one worker there is nothing to exchange."""

from typing import Any, TypeVar

import torch
import torch.distributed

T = TypeVar("T")


def sum_over_workers(value: float, num_workers: int, device: torch.device) -> float:
    """The sum of all workers' values."""
    if num_workers == 1:
        return value
    total = torch.tensor(value, device=device)
    torch.distributed.all_reduce(total)
    return float(total)


def gather_from_workers(rows: list[T], num_workers: int) -> list[T]:
    """The rows of all workers, in the order of the workers."""
    if num_workers == 1:
        return rows
    rows_by_worker: list[Any] = [None] * num_workers
    torch.distributed.all_gather_object(rows_by_worker, rows)
    return [row for worker_rows in rows_by_worker for row in worker_rows]
