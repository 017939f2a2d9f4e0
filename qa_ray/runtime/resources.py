"""What a run gets of a cluster, or of this machine: devices, actors, threads."""

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.data  # sets up its own logging, which is then turned down
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qa_ray.config import AnswerConfig, RunnerSettings
from qa_ray.errors import ConfigError, JobError, QaRayError
from qa_ray.model.runner import find_dtype
from qa_ray.runtime.progress import LOG

# Beside its actors a run needs one CPU each to read and to tokenise.
SPARE_CPUS = 2
# On a CPU: what an actor holds at most, with a model of usual size, and the work that pays for its start.
BYTES_PER_ACTOR = 2 * 2**30
WINDOWS_PER_ACTOR = 200
CONNECT_SECONDS = 20
WAIT_STEP_SECONDS = 2
TOKENISERS_PER_ACTOR = {"cpu": 0.1, "cuda": 4}


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
    def max_tokenisers(self) -> int:
        """How many CPU workers tokenise, if the cluster has CPUs for them."""
        return max(1, round(self.max_actors * TOKENISERS_PER_ACTOR[self.device]))


@contextmanager
def ray_started() -> Iterator[None]:
    """Ray for the block: the session there is, the cluster that RAY_ADDRESS names, or one on this machine."""
    if ray.is_initialized():
        yield
        return
    # Ray tells of its plans and settings at length; what matters of its errors reaches people through ours.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS")
    try:
        _connect(address) if address else _start()
    except QaRayError:
        raise
    except Exception as error:  # Ray raises all kinds
        place = f"be reached at RAY_ADDRESS={address!r}" if address else "start on this machine"
        raise JobError(f"Ray could not {place}: {error}; nothing is lost: mend the cause and start again") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would abort this process
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    if found := re.fullmatch(r"(?:ray://)?\[?([\w.:-]+?)\]?:(\d+)", address):  # Ray would try for many minutes
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT_SECONDS).close()
    # What workers print stays in Ray's logs: ours is told by the driver.
    context = ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    warn_if_open(context.dashboard_url or "", os.environ)


def warn_if_open(dashboard: str, environment: Mapping[str, str]) -> None:
    """Says so where the dashboard at ``host:port`` can be reached from elsewhere and asks for no token."""
    host = dashboard.rpartition(":")[0].strip("[]")
    if host and environment.get("RAY_AUTH_MODE") != "token" and host not in ("localhost", "127.0.0.1", "::1"):
        LOG.warning(
            "Ray's dashboard at %s asks for no token: whoever reaches it can run programs on this cluster; start it "
            "with RAY_AUTH_MODE=token (cluster/SECURITY.md)",
            dashboard,
        )


def _start() -> None:
    _check_scratch(os.environ.get("RAY_TMPDIR") or "/tmp")  # Ray's own choice
    # Reading and tokenising are light: they share the cores with the actors and take none away.
    start_ray(num_cores() + SPARE_CPUS)


def start_ray(num_cpus: int, **options: Any) -> None:
    """Starts Ray on this machine, with ``ray.init``'s further options."""
    for is_last in (False, True):
        try:
            ray.init(
                address="local",  # not a cluster that happens to run here
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
            return
        except Exception:  # a machine under load may take longer than the 30 seconds that Ray waits
            ray.shutdown()
            if is_last:
                raise


def _check_scratch(folder: str) -> None:
    """Where Ray cannot write, it waits long, and then tells of something else."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise ConfigError(
            f"Ray's scratch folder {folder!r} cannot be written ({error.strerror or error}); make room there, or set "
            "RAY_TMPDIR to another folder"
        ) from error


def beside_driver(kind: type) -> Any:
    """The class as a light actor on the driver's own node: it lives as long as the driver, whatever node is lost."""
    node: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(kind)


def num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


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
            f"runner: {fewest} actors of {cpus_per_actor} CPUs and {SPARE_CPUS} to read and tokenise "
            f"need {needed + SPARE_CPUS} CPUs, and Ray has {cpus}, {max(0, free_cpus)} for actors{where}; set "
            "fewer runner.actors or runner.cpus_per_actor, or add nodes"
        )
    if able["GPU"] < fewest * gpus_per_actor:
        raise ConfigError(
            f"runner: {fewest} actors of {gpus_per_actor} GPUs need {fewest * gpus_per_actor}, and Ray has "
            f"{able['GPU']:g}{where}; set fewer runner.actors or a smaller runner.gpus_per_actor"
        )
    dtype = find_dtype(runner.dtype, device)
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
