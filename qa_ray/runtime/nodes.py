"""The nodes of a Ray cluster: how many actors have room on them, and waiting for nodes that are still to come.

Nodes and bundles are amounts by Ray's names of resources, such as ``{"CPU": 4, "GPU": 1}``. A bundle is what an actor
needs, all of it on one node: three nodes of four CPUs have no room for an actor of ten.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import ray
import ray.data  # sets up its own logging, which is then turned down
from ray.autoscaler.sdk import request_resources

from qa_ray.errors import ConfigError
from qa_ray.log import LOG

Bundle = Mapping[str, float]
T = TypeVar("T")

WAIT_STEP_SECONDS = 2
UNITS = 10_000  # Ray counts each resource in ten-thousandths


def live_nodes() -> list[dict[str, float]]:
    """The resources of each live node of the running cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_cpus(nodes: Sequence[Bundle]) -> int:
    """How many tasks of one CPU these nodes run at a time."""
    return how_many_fit(nodes, {"CPU": 1})


def how_many_fit(nodes: Sequence[Bundle], bundle: Bundle) -> int:
    """How many actors with this bundle these nodes run at a time."""
    return sum(_how_many_fit(node, bundle) for node in nodes)


def _how_many_fit(node: Bundle, bundle: Bundle) -> int:
    return min(_times(name, round(node.get(name, 0) * UNITS), round(bundle[name] * UNITS) or 1) for name in bundle)


def _times(name: str, units: int, units_each: int) -> int:
    if name == "GPU" and units_each < UNITS:  # a share is one of a single GPU: two GPUs have room for 0.6 twice
        return units // UNITS * (UNITS // units_each)
    return units // units_each


def loses_room(node: Bundle, bundle: Bundle) -> bool:
    """Whether a task of one CPU on this node takes the room of an actor."""
    busy = {**node, "CPU": max(0.0, node.get("CPU", 0) - 1)}
    return _how_many_fit(busy, bundle) < _how_many_fit(node, bundle)


def describe(bundle: Bundle) -> str:
    """Such as ``4 CPUs, 1 GPU and 0.001 accelerator_type:A100``."""
    amounts = [
        f"{amount:.10g} {name}s" if name in ("CPU", "GPU") and amount != 1 else f"{amount:.10g} {name}"
        for name, amount in bundle.items()
    ]
    *others, last = amounts
    return f"{', '.join(others)} and {last}" if others else last


def describe_nodes(nodes: Sequence[Bundle], bundle: Bundle) -> str:
    """What these nodes have of the bundle's resources, and what the one has that is closest to running an actor."""

    def closeness(node: Bundle) -> tuple[float, ...]:
        return sum(node.get(name, 0) >= bundle[name] for name in bundle), node.get("GPU", 0), node.get("CPU", 0)

    if not nodes:
        return "no node"
    total = describe({name: sum(node.get(name, 0) for node in nodes) for name in bundle})
    closest = max(nodes, key=closeness)
    largest = describe({name: closest.get(name, 0) for name in bundle})
    return f"{total} on one node" if len(nodes) == 1 else f"{total} on {len(nodes)} nodes, the largest with {largest}"


def wait_for_room(allocate: Callable[[], T], bundles: Sequence[Bundle], wait_seconds: float) -> T:
    """``allocate()``, for which a cluster at RAY_ADDRESS has ``wait_seconds`` to start or to scale up.

    An autoscaler is asked for ``bundles``: all that ``allocate`` needs, and nothing else, because for a request that it
    can meet only in part it starts no node at all.

    Raises:
        ConfigError: that of ``allocate``, when the time is over.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return allocate()
    with suppress(ConfigError):
        return allocate()
    deadline = time.monotonic() + wait_seconds
    counts = Counter(map(describe, bundles))
    wanted = ", ".join(f"{count} × {bundle}" for bundle, count in counts.items())
    LOG.info("waiting up to %d s for nodes with room for %s", wait_seconds, wanted)
    request_resources(bundles=[dict(bundle) for bundle in bundles])  # an autoscaler adds nodes only on request
    try:
        while time.monotonic() < deadline:
            with suppress(ConfigError):
                return allocate()
            time.sleep(WAIT_STEP_SECONDS)
    finally:
        request_resources(bundles=[])  # from here on, the actors themselves are the request
    return allocate()
