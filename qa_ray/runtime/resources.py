"""What a run gets of a cluster, or of this machine: devices, actors, threads."""

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

# Beside its actors a run needs one CPU each to read and to tokenize.
SPARE_CPUS = 2


# On a CPU: what an actor holds at most, with a model of usual size, and the work that pays for its start.
BYTES_PER_ACTOR = 2 * 2**30


WINDOWS_PER_ACTOR = 200


WAIT_STEP_SECONDS = 2


TOKENIZERS_PER_ACTOR = {"cpu": 0.1, "cuda": 4}


@dataclass(frozen=True)
class Resources:
    """What the actors get."""

    device: str
    dtype: str
    min_actors: int
    max_actors: int
    cpus_per_actor: int
    gpus_per_actor: float
    resources_per_actor: dict[str, float]

    @property
    def max_tokenizers(self) -> int:
        """How many CPU workers tokenize, if the cluster has CPUs for them."""
        return max(1, round(self.max_actors * TOKENIZERS_PER_ACTOR[self.device]))


def find_resources(config: AnswerConfig, num_windows: int, *, waits: bool = False) -> Resources:
    """The actors' share of the running Ray, for a job of so many windows.

    A cluster that RAY_ADDRESS names may be starting still, or may grow when it is asked to: ``waits`` gives it
    ``runner.wait_seconds`` for that.

    Raises:
        ConfigError: the cluster is too small for the run; the message has the numbers.
    """
    runner = config.runner
    if waits and os.environ.get("RAY_ADDRESS"):
        _wait_for_nodes(runner, num_windows)
    return share(runner, _nodes(), num_windows)


def _wait_for_nodes(runner: RunnerSettings, num_windows: int) -> None:
    """Until the cluster has what the fewest actors need, or for as long as the config says."""
    deadline = time.monotonic() + runner.wait_seconds
    with suppress(ConfigError):
        share(runner, _nodes(), num_windows)
        return
    gpus = {"GPU": runner.gpus_per_actor or 1.0} if runner.device == "cuda" else {}
    fewest = runner.actors[0] if isinstance(runner.actors, tuple) else 1 if runner.actors == "auto" else runner.actors
    of_actor = {"CPU": runner.cpus_per_actor or 1} | gpus | runner.resources_per_actor
    bundles = [of_actor] * fewest + [{"CPU": 1}] * SPARE_CPUS
    LOG.info("waiting up to %d s for nodes with %d times %s", runner.wait_seconds, fewest, bundles[0])
    request_resources(bundles=bundles)  # an autoscaler brings nodes only to those who ask
    try:
        while time.monotonic() < deadline:
            with suppress(ConfigError):
                share(runner, _nodes(), num_windows)
                return
            time.sleep(WAIT_STEP_SECONDS)
    finally:
        request_resources(bundles=[])  # from here on the actors do


def _nodes() -> list[dict[str, float]]:
    """What each node of the running Ray has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share(runner: RunnerSettings, nodes: Sequence[Mapping[str, float]], num_windows: int) -> Resources:
    """The actors' share of these nodes.

    Raises:
        ConfigError: as find_resources.
    """
    wanted = runner.resources_per_actor
    able = _sum([node for node in nodes if all(node.get(name, 0) >= amount for name, amount in wanted.items())])
    has_gpu = able["GPU"] > 0
    where = f" on nodes with {', '.join(wanted)}" if wanted else ""
    if runner.device == "cuda" and not has_gpu:
        raise ConfigError(
            f"runner.device=cuda: the Ray cluster has no GPU{where}; add a GPU node or set runner.device=cpu"
        )
    device = "cuda" if runner.device != "cpu" and has_gpu else "cpu"
    gpus_per_actor = (runner.gpus_per_actor or 1.0) if device == "cuda" else 0.0
    cpus = int(_sum(nodes)["CPU"])
    free_cpus = int(min(able["CPU"], cpus - SPARE_CPUS))
    fewest, most = _num_actors(runner, able | {"CPU": free_cpus}, gpus_per_actor, num_windows)
    cpus_per_actor = runner.cpus_per_actor or (1 if device == "cuda" else max(1, free_cpus // most))
    if free_cpus < (needed := fewest * cpus_per_actor):
        raise ConfigError(
            f"runner: {fewest} actors of {cpus_per_actor} CPUs and {SPARE_CPUS} to read and tokenize "
            f"need {needed + SPARE_CPUS} CPUs, and Ray has {cpus}, {max(0, free_cpus)} for actors{where}; set "
            "fewer runner.actors or runner.cpus_per_actor, or add nodes"
        )
    if able["GPU"] < fewest * gpus_per_actor:
        raise ConfigError(
            f"runner: {fewest} actors of {gpus_per_actor} GPUs need {fewest * gpus_per_actor}, and Ray has "
            f"{able['GPU']:g}{where}; set fewer runner.actors or a smaller runner.gpus_per_actor"
        )
    dtype = resolve_dtype(runner.dtype, device)
    return Resources(device, dtype, fewest, most, cpus_per_actor, gpus_per_actor, wanted)


def _sum(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}


def _num_actors(
    runner: RunnerSettings, free: Mapping[str, float], gpus_per_actor: float, num_windows: int
) -> tuple[int, int]:
    """The fewest and the most actors. On a CPU, one thread each: two actors do 1.1 to 1.2 times what two threads do."""
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
