"""Ray for a job: the session there is, a cluster's, or one on this machine."""

import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.data  # sets up its own logging, which is then turned down
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qa_ray.errors import ConfigError, JobError, QaRayError
from qa_ray.log import LOG
from qa_ray.runtime.resources import SPARE_CPUS

CONNECT_SECONDS = 20


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
    # Reading and tokenizing are light: they share the cores with the actors and take none away.
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
