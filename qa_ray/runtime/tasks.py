"""Runs a function on many arguments in Ray tasks, and on a single one in this process."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from qa_ray.runtime.failures import explained
from qa_ray.runtime.session import ray_started

Result = TypeVar("Result")


def run_tasks(function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
    """The results of ``function(*arguments)``, in order; each task has a CPU.

    If one fails, or the caller is interrupted, the others are killed: none of them writes anything after that.
    An argument that is a reference to an object in Ray's store is replaced by that object.

    Raises:
        QaRayError: the error that a task raised.
        JobError: another error in a task, or Ray failed.
    """
    if len(arguments) <= 1:
        with explained():
            values = [[ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in each] for each in arguments]
        return [function(*each) for each in values]
    with ray_started(), explained():
        task = ray.remote(num_cpus=1)(function)
        results = [task.remote(*each) for each in arguments]
        try:
            return ray.get(results)  # pyright: ignore[reportReturnType]
        except BaseException:
            for result in results:
                ray.cancel(result, force=True)
            ray.wait(results, num_returns=len(results), timeout=60)
            raise
