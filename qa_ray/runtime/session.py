"""A Ray session for a job: the current one, the cluster at RAY_ADDRESS, or a new one on this machine."""

import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.data  # sets up its own logging, which is then turned down
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qa_ray.errors import ConfigError, JobError, QaRayError
from qa_ray.log import DETAILS, LOG
from qa_ray.process import let_threads_sleep, num_cores
from qa_ray.runtime.failures import first_line
from qa_ray.runtime.resources import SPARE_CPUS

CONNECT_SECONDS = 20
# A Unix socket's path has so many bytes at most; Ray adds this to its scratch folder.
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
LONGEST_SOCKET = "/ray/session_2024-12-31_23-59-59_999999_4194304/sockets/plasma_store"


@contextmanager
def ray_started() -> Iterator[None]:
    """Connects to Ray, or starts it on this machine, for the block; a session that exists already is used and kept.

    Raises:
        ConfigError: Ray's scratch folder cannot be written.
        JobError: Ray cannot be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    # Ray logs its plans and settings at length; its errors reach the user through ours (failures.explained).
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    let_threads_sleep()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS")
    try:
        LOG.info(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
        with stderr_in_details():
            _connect(address) if address else _start()
    except QaRayError:
        raise
    except Exception as error:  # Ray raises many types
        DETAILS.error("Ray raised: %s", error)
        attempt = f"be reached at RAY_ADDRESS={address!r}" if address else "start on this machine"
        raise JobError(
            f"Ray could not {attempt}: {first_line(error)}; nothing is lost: fix the cause and run the same command "
            "again"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler would abort this process
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def stderr_in_details() -> Iterator[None]:
    """Keeps what native code writes to standard error in the block for run.log.

    Ray's own code does so once it starts: a line on the level of its log, whatever that level is.
    """
    if sys.stderr is None:  # closed by whoever started this process
        yield
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                DETAILS.info("Ray: %s", line)


def _connect(address: str) -> None:
    # Ray itself would retry for many minutes.
    if host_port := re.fullmatch(r"(?:ray://)?\[?([\w.:-]+?)\]?:(\d+)", address):
        socket.create_connection((host_port[1], int(host_port[2])), timeout=CONNECT_SECONDS).close()
    # Workers' output stays in Ray's logs; the driver reports for the job.
    context = ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    warn_if_open(context.dashboard_url or "", os.environ)


def warn_if_open(dashboard: str, environment: Mapping[str, str]) -> None:
    """Logs a warning if the dashboard at ``host:port`` is reachable from other machines and needs no token."""
    host = dashboard.rpartition(":")[0].strip("[]")
    if host and environment.get("RAY_AUTH_MODE") != "token" and host not in ("localhost", "127.0.0.1", "::1"):
        LOG.warning(
            "Ray's dashboard at %s needs no token: anyone who can reach it can run programs on this cluster; start it "
            "with RAY_AUTH_MODE=token (cluster/SECURITY.md)",
            dashboard,
        )


def _start() -> None:
    on_linux = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    _check_scratch(os.environ.get("RAY_TMPDIR") or on_linux or "/tmp")  # as Ray chooses it
    # Reading and tokenizing are light: they get CPUs of their own in Ray's count and share the actors' cores.
    start_ray(num_cores() + SPARE_CPUS)


def start_ray(num_cpus: int, **options: Any) -> None:
    """Starts Ray on this machine; ``options`` go to ``ray.init``."""
    for is_last in (False, True):
        try:
            ray.init(
                address="local",  # not a cluster that happens to run on this machine
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
            return
        except Exception:  # under load, starting may take longer than the 30 seconds that Ray waits
            ray.shutdown()
            if is_last:
                raise


def _check_scratch(folder: str) -> None:
    """Raises a ConfigError if Ray cannot use ``folder``: Ray itself waits long, then reports something else."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise ConfigError(
            f"Ray's scratch folder {folder!r} cannot be written ({error.strerror or error}); make room there, or set "
            "RAY_TMPDIR to another folder"
        ) from error
    longest = MAX_SOCKET_BYTES - len(LONGEST_SOCKET)
    if len(os.fsencode(folder)) > longest:
        raise ConfigError(
            f"Ray's scratch folder {folder!r} has a path of {len(os.fsencode(folder))} bytes, and with more than "
            f"{longest} its sockets' names are too long; set RAY_TMPDIR to a folder with a short path"
        )


def run_on_driver_node(actor_class: type) -> Any:
    """The class as a remote actor class on the driver's node with 0 CPUs: it survives the loss of any other node."""
    node: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(actor_class)
