"""The nodes of a Ray cluster, or of this machine -> the device, actors, CPUs and GPUs of a run."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray
import ray.data  # sets up its own logging, which is then turned down
from ray.autoscaler.sdk import request_resources

from qa_ray.config import AnswerConfig, RunnerSettings
from qa_ray.errors import ConfigError
from qa_ray.log import LOG
from qa_ray.model.device import resolve_dtype

# Besides its actors, a run needs one CPU to read and one to tokenize.
SPARE_CPUS = 2
# On a CPU: the peak memory of an actor with a base-size model, and the fewest windows that pay for its start.
BYTES_PER_ACTOR = 2 * 2**30
WINDOWS_PER_ACTOR = 200
WAIT_STEP_SECONDS = 2
TOKENIZERS_PER_ACTOR = {"cpu": 0.1, "cuda": 4}


@dataclass(frozen=True)
class Resources:
    """The actors of a run, and what each of them gets."""

    device: str
    dtype: str
    min_actors: int
    max_actors: int
    cpus_per_actor: int
    gpus_per_actor: float
    resources_per_actor: dict[str, float]

    @property
    def max_tokenizers(self) -> int:
        """The most CPU workers that tokenize, as far as the cluster has CPUs for them."""
        return max(1, round(self.max_actors * TOKENIZERS_PER_ACTOR[self.device]))


def allocate_resources(config: AnswerConfig, num_windows: int, *, wait: bool = False) -> Resources:
    """The resources that a job of ``num_windows`` windows uses on the running Ray cluster.

    With ``wait``, a cluster at RAY_ADDRESS has ``runner.wait_seconds`` to finish starting or to scale up.

    Raises:
        ConfigError: the cluster is too small for the run; the message has the numbers.
    """
    runner = config.runner
    if wait and os.environ.get("RAY_ADDRESS"):
        _wait_for_nodes(runner, num_windows)
    return allocate_on_nodes(runner, _nodes(), num_windows)


def _wait_for_nodes(runner: RunnerSettings, num_windows: int) -> None:
    """Waits until the cluster has room for the fewest actors, or ``runner.wait_seconds`` have passed."""
    deadline = time.monotonic() + runner.wait_seconds
    with suppress(ConfigError):
        allocate_on_nodes(runner, _nodes(), num_windows)
        return
    gpus = {"GPU": runner.gpus_per_actor or 1.0} if runner.device == "cuda" else {}
    fewest = runner.actors[0] if isinstance(runner.actors, tuple) else 1 if runner.actors == "auto" else runner.actors
    actor_bundle = {"CPU": runner.cpus_per_actor or 1} | gpus | runner.resources_per_actor
    bundles = [actor_bundle] * fewest + [{"CPU": 1}] * SPARE_CPUS
    LOG.info("waiting up to %d s for nodes with %d times %s", runner.wait_seconds, fewest, bundles[0])
    request_resources(bundles=bundles)  # an autoscaler adds nodes only on request
    try:
        while time.monotonic() < deadline:
            with suppress(ConfigError):
                allocate_on_nodes(runner, _nodes(), num_windows)
                return
            time.sleep(WAIT_STEP_SECONDS)
    finally:
        request_resources(bundles=[])  # from here on, the actors themselves are the request


def _nodes() -> list[dict[str, float]]:
    """The resources of each live node of the running cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def allocate_on_nodes(runner: RunnerSettings, nodes: Sequence[Mapping[str, float]], num_windows: int) -> Resources:
    """The resources that a job of ``num_windows`` windows uses on these nodes.

    Raises:
        ConfigError: the nodes are too small for the run; the message has the numbers.
    """
    custom = runner.resources_per_actor
    usable = _sum([node for node in nodes if all(node.get(name, 0) >= amount for name, amount in custom.items())])
    has_gpu = usable["GPU"] > 0
    where = f" on nodes with {', '.join(custom)}" if custom else ""
    if runner.device == "cuda" and not has_gpu:
        raise ConfigError(
            f"runner.device=cuda: the Ray cluster has no GPU{where}; add a GPU node or set runner.device=cpu"
        )
    device = "cuda" if runner.device != "cpu" and has_gpu else "cpu"
    gpus_per_actor = (runner.gpus_per_actor or 1.0) if device == "cuda" else 0.0
    cpus = int(_sum(nodes)["CPU"])
    free_cpus = int(min(usable["CPU"], cpus - SPARE_CPUS))
    fewest, most = _num_actors(runner, usable | {"CPU": free_cpus}, gpus_per_actor, num_windows)
    cpus_per_actor = runner.cpus_per_actor or (1 if device == "cuda" else max(1, free_cpus // most))
    if free_cpus < (needed := fewest * cpus_per_actor):
        raise ConfigError(
            f"runner: {fewest} actors of {cpus_per_actor} CPUs and {SPARE_CPUS} to read and tokenize "
            f"need {needed + SPARE_CPUS} CPUs, and Ray has {cpus}, {max(0, free_cpus)} for actors{where}; set "
            "fewer runner.actors or runner.cpus_per_actor, or add nodes"
        )
    if usable["GPU"] < fewest * gpus_per_actor:
        raise ConfigError(
            f"runner: {fewest} actors of {gpus_per_actor} GPUs need {fewest * gpus_per_actor}, and Ray has "
            f"{usable['GPU']:g}{where}; set fewer runner.actors or a smaller runner.gpus_per_actor"
        )
    dtype = resolve_dtype(runner.dtype, device)
    return Resources(device, dtype, fewest, most, cpus_per_actor, gpus_per_actor, custom)


def _sum(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}


def _num_actors(
    runner: RunnerSettings, free: Mapping[str, float], gpus_per_actor: float, num_windows: int
) -> tuple[int, int]:
    """The fewest and the most actors.

    On a CPU, actors of one thread each: two of them are 1.1 to 1.2 times as fast as one with two threads.
    """
    if isinstance(runner.actors, int):
        return runner.actors, runner.actors
    if isinstance(runner.actors, tuple):
        return runner.actors
    if gpus_per_actor:
        return 1, max(1, int(free["GPU"] / gpus_per_actor))
    by_cpus = int(free["CPU"]) // (runner.cpus_per_actor or 1)
    by_memory = int(free["memory"] / BYTES_PER_ACTOR)
    num_actors = max(1, min(by_cpus, by_memory, num_windows // WINDOWS_PER_ACTOR))
    return num_actors, num_actors
