"""A Ray cluster of real ``ray start`` processes on this machine, with token authentication, and the Job API."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from running import kill_session
from s3_server import free_ports, wait_until_open

# Nodes of two CPUs, raylets on this machine, that Ray's autoscaler starts for those who ask, and ends when idle.
AUTOSCALING: dict[str, Any] = {
    "cluster_name": "qa-ray-tests", "max_workers": 3, "upscaling_speed": 10.0, "idle_timeout_minutes": 0.1,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    },
    "provider": {"type": "fake_multinode", "launch_multiple": True},
    "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
    "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
    "worker_start_ray_commands": [], "head_node": {}, "worker_nodes": {},
}  # fmt: skip


class Place(NamedTuple):
    """Where a node runs: its address, and what makes a command run there."""

    address: str = "127.0.0.1"
    command: tuple[str, ...] = ()


HERE = Place()


class RayCluster:
    """A head without CPUs, so without work, and the nodes that are added; all of it ends with the block.

    ``python`` is the nodes' own; with ``autoscales`` more nodes come as they are asked for; ``traced_by`` is Ray's
    startup hook for tracing.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        place: Place = HERE,
        python: str = "",
        autoscales: bool = False,
        traced_by: str = "",
    ):
        self._python = python or sys.executable
        # Sockets' paths must be short, so no test folder.
        self._folder = Path(tempfile.mkdtemp(prefix="qa-", dir="/tmp"))
        self.scratch = self._folder / "ray"
        token = self._folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.token = token.read_text()
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
            | {"PATH": f"{Path(self._python).parent}{os.pathsep}{os.environ['PATH']}", **environment}
        )
        self._port, self._dashboard_port = free_ports(2)
        self._head = place.address
        self.address = f"http://{place.address}:{self._dashboard_port}"
        self._nodes: list[subprocess.Popen] = []
        self._start(
            place, "--head", f"--port={self._port}", "--num-cpus=0", f"--dashboard-host={place.address}",
            f"--dashboard-port={self._dashboard_port}", f"--temp-dir={self.scratch}",
            *(self._autoscaling() if autoscales else ()),
            *([f"--tracing-startup-hook={traced_by}"] if traced_by else ()),
        )  # fmt: skip
        wait_until_open(self._dashboard_port, place.address)

    def add_node(
        self, num_cpus: int, place: Place = HERE, resources: Mapping[str, float] | None = None
    ) -> subprocess.Popen:
        """A node with so many CPUs, and resources of its own; its process may be killed."""
        has = f"--num-cpus={num_cpus}", f"--resources={json.dumps(resources or {})}"
        return self._start(place, f"--address={self._head}:{self._port}", *has)

    def _autoscaling(self) -> list[str]:
        """The head's options; Ray's stand-in for a cloud must be told where the cluster is."""
        provider = AUTOSCALING["provider"] | {"gcs_address": f"{self._head}:{self._port}"}
        config = self._folder / "autoscaling.yaml"
        config.write_text(json.dumps(AUTOSCALING | {"provider": provider}))
        self.environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        return [f"--autoscaling-config={config}"]

    def _start(self, place: Place, *options: str) -> subprocess.Popen:
        metrics, agent, grpc, runtime = free_ports(4)
        command = [
            *place.command, self._python, "-m", "ray.scripts.scripts", "start", "--block",
            f"--node-ip-address={place.address}", "--object-store-memory=200000000",
            f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime}", *options,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._nodes.append(process)
        return process

    def get(self, path: str, token: str | None) -> tuple[int, str]:
        """Status and body of a page of the dashboard."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def num_nodes(self) -> int:
        """How many are alive, the head among them."""
        status, body = self.get("/nodes?view=summary", self.token)
        return body.count('"ALIVE"') if status == 200 else 0

    def wait_for_nodes(self, number: int) -> None:
        """Until so many nodes are alive, the head among them."""
        for _ in range(240):
            if self.num_nodes() >= number:
                return
            time.sleep(0.5)
        raise TimeoutError((self._folder / "log").read_text())

    def close(self) -> None:
        for process in reversed(self._nodes):
            kill_session(process)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def ray_cluster(
    num_cpus: int = 3,
    *,
    places: Sequence[Place] = (HERE, HERE),
    python: str = "",
    autoscales: bool = False,
    traced_by: str = "",
    **environment: str,
) -> Iterator[RayCluster]:
    """A cluster of a head and one node, or of a head alone if that would have no CPUs."""
    cluster = RayCluster(environment, place=places[0], python=python, autoscales=autoscales, traced_by=traced_by)
    try:
        if num_cpus:
            cluster.add_node(num_cpus, places[1])
        cluster.wait_for_nodes(2 if num_cpus else 1)
        yield cluster
    finally:
        cluster.close()
