"""The nodes of a Ray cluster, or of this machine -> the device, processes, CPUs and GPUs of a run.

allocate_resources    the actors of the answer job
allocate_workers      the workers of fine-tuning

Each has a function of the nodes alone beside it. All errors are a ConfigError with the numbers: the cluster is too
small for the run.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qa_ray.config import AnswerConfig, RunnerSettings, WorkerSettings
from qa_ray.errors import ConfigError
from qa_ray.model.device import resolve_dtype
from qa_ray.process import num_cores
from qa_ray.runtime.nodes import (
    Bundle,
    describe,
    describe_nodes,
    how_many_fit,
    live_nodes,
    loses_room,
    num_cpus,
    wait_for_room,
)
from qa_ray.wording import counted

# Besides its actors, a run needs one CPU to read and one to tokenize, on any node.
SPARE_CPUS = 2
# On a CPU: the peak memory of an actor with a base-size model, and the fewest windows that pay for its start.
BYTES_PER_ACTOR = 2 * 2**30
WINDOWS_PER_ACTOR = 200
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
    """
    runner = config.runner

    def allocate() -> Resources:
        nodes = live_nodes()
        with cores_explained(nodes):
            return allocate_on_nodes(runner, nodes, num_windows)

    if not wait:
        return allocate()
    fewest = runner.actors[0] if isinstance(runner.actors, tuple) else 1 if runner.actors == "auto" else runner.actors
    gpus = {"GPU": runner.gpus_per_actor or 1.0} if runner.device == "cuda" else {}
    bundle = {"CPU": runner.cpus_per_actor} | gpus | runner.resources_per_actor
    return wait_for_room(allocate, [bundle] * fewest + [{"CPU": 1}] * SPARE_CPUS, runner.wait_seconds)


def allocate_on_nodes(runner: RunnerSettings, nodes: Sequence[Bundle], num_windows: int) -> Resources:
    """The resources that a job of ``num_windows`` windows uses on these nodes.

    Actors have one thread each unless told otherwise: two are 1.1 to 1.2 times as fast as one with two threads, and
    threads of one actor wait for each other, which beside other processes costs a multiple.
    """
    custom = runner.resources_per_actor
    device = _device(runner.device, nodes, custom)
    gpus_per_actor = (runner.gpus_per_actor or 1.0) if device == "cuda" else 0.0
    bundle = {"CPU": runner.cpus_per_actor} | ({"GPU": gpus_per_actor} if gpus_per_actor else {}) | custom
    fewest, most = _num_actors(runner, nodes, bundle, num_windows)
    if (room := _room(nodes, bundle)) < fewest:
        needed = {name: fewest * amount for name, amount in bundle.items()}
        needed["CPU"] += SPARE_CPUS
        raise ConfigError(
            f"runner: {counted(fewest, 'actor')} of {describe(bundle)} and {SPARE_CPUS} CPUs to read and tokenize need "
            f"{describe(needed)}, and Ray has {describe_nodes(nodes, bundle)}, with room for {counted(room, 'actor')}; "
            "set fewer runner.actors or smaller ones (runner.cpus_per_actor, runner.gpus_per_actor), or add nodes"
        )
    dtype = resolve_dtype(runner.dtype, device)
    return Resources(device, dtype, fewest, most, int(bundle["CPU"]), gpus_per_actor, custom)


def _num_actors(runner: RunnerSettings, nodes: Sequence[Bundle], bundle: Bundle, num_windows: int) -> tuple[int, int]:
    """The fewest and the most actors."""
    if isinstance(runner.actors, int):
        return runner.actors, runner.actors
    if isinstance(runner.actors, tuple):
        return runner.actors
    if "GPU" in bundle:
        return 1, max(1, _room(nodes, bundle))
    by_memory = how_many_fit(nodes, {**bundle, "memory": BYTES_PER_ACTOR})
    num_actors = max(1, min(_safe_room(nodes, bundle), by_memory, num_windows // WINDOWS_PER_ACTOR))
    return num_actors, num_actors


def allocate_workers(runner: WorkerSettings) -> tuple[bool, int]:
    """Whether workers use a GPU each, and how many CPUs each of them gets, on the running Ray cluster.

    A cluster at RAY_ADDRESS has ``runner.wait_seconds`` to finish starting or to scale up.
    """
    fewest = _fewest_and_most(runner)[0]
    bundle = {"CPU": runner.cpus_per_worker or 1} | ({"GPU": 1} if runner.device == "cuda" else {})
    to_label = max(0, SPARE_CPUS - fewest * bundle["CPU"])

    def allocate() -> tuple[bool, int]:
        nodes = live_nodes()
        with cores_explained(nodes):
            return allocate_workers_on_nodes(runner, nodes)

    return wait_for_room(allocate, [bundle] * fewest + [{"CPU": 1}] * to_label, runner.wait_seconds)


@contextmanager
def cores_explained(nodes: Sequence[Bundle]) -> Iterator[None]:
    """Adds to a ConfigError why Ray counts more CPUs than this machine has cores, if qa-ray started it here."""
    try:
        yield
    except ConfigError as error:
        is_started_here = [node.get("CPU") for node in nodes] == [num_cores() + SPARE_CPUS]
        if os.environ.get("RAY_ADDRESS") or not is_started_here:
            raise
        raise ConfigError(
            f"{error} (Ray counts {SPARE_CPUS} CPUs more than this machine's {counted(num_cores(), 'core')}: to read "
            "and tokenize)"
        ) from error


def allocate_workers_on_nodes(runner: WorkerSettings, nodes: Sequence[Bundle]) -> tuple[bool, int]:
    """Whether workers use a GPU each, and how many CPUs each of them gets, on these nodes.

    Documents are read and tokenized before the workers start, so they may take all CPUs if told to.
    """
    fewest, most = _fewest_and_most(runner)
    use_gpu = _device(runner.device, nodes) == "cuda"
    bundle = {"CPU": runner.cpus_per_worker or 1} | ({"GPU": 1} if use_gpu else {})
    if not runner.cpus_per_worker and not use_gpu:
        bundle["CPU"] = _most_cpus(nodes, bundle, most)
    room = how_many_fit(nodes, bundle)
    if room < fewest or num_cpus(nodes) < SPARE_CPUS:
        needed = {name: fewest * amount for name, amount in bundle.items()}
        needed["CPU"] = max(SPARE_CPUS, needed["CPU"])
        raise ConfigError(
            f"runner: {counted(fewest, 'worker')} of {describe(bundle)}, and before that {SPARE_CPUS} CPUs to read and "
            f"tokenize, need {describe(needed)}, and Ray has {describe_nodes(nodes, bundle)}, with room for "
            f"{counted(room, 'worker')}; set fewer runner.workers or a smaller runner.cpus_per_worker, or add nodes"
        )
    return use_gpu, int(bundle["CPU"])


def _fewest_and_most(runner: WorkerSettings) -> tuple[int, int]:
    return (runner.workers, runner.workers) if isinstance(runner.workers, int) else runner.workers


def _device(device: str, nodes: Sequence[Bundle], custom: Mapping[str, float] | None = None) -> str:
    """``cuda`` or ``cpu``: what ``device`` means on those nodes that have the custom resources."""
    custom = custom or {}
    has_gpu = any(node.get("GPU", 0) and all(node.get(name, 0) >= custom[name] for name in custom) for node in nodes)
    if device == "cuda" and not has_gpu:
        where = f" on nodes with {', '.join(custom)}" if custom else ""
        raise ConfigError(
            f"runner.device=cuda: the Ray cluster has no GPU{where}; add a GPU node or set runner.device=cpu"
        )
    return "cuda" if device != "cpu" and has_gpu else "cpu"


def _room(nodes: Sequence[Bundle], bundle: Bundle) -> int:
    """How many actors run beside SPARE_CPUS tasks of one CPU, if Ray places them well."""
    by_cpus = (num_cpus(nodes) - SPARE_CPUS) // int(bundle["CPU"])
    return max(0, min(how_many_fit(nodes, bundle), by_cpus))


def _safe_room(nodes: Sequence[Bundle], bundle: Bundle) -> int:
    """As ``_room``, wherever Ray places the one that tokenizes: it starts before the actors and stays to the end."""
    is_lost = any(loses_room(node, bundle) for node in nodes)
    return max(0, min(how_many_fit(nodes, bundle) - is_lost, _room(nodes, bundle)))


def _most_cpus(nodes: Sequence[Bundle], bundle: Bundle, number: int) -> int:
    """The most CPUs for each of this number of workers, at least 1."""
    largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
    options = range(min(largest, num_cpus(nodes) // number), 1, -1)
    return next((cpus for cpus in options if _room(nodes, {**bundle, "CPU": cpus}) >= number), 1)
