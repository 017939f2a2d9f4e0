"""A Ray cluster of real ``ray start`` processes on this machine, with token authentication and the Job API."""

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

# Ray's autoscaler starts nodes of two CPUs (raylets on this machine) on request, and stops them when idle.
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


class Host(NamedTuple):
    """Where a node runs: its address, and the prefix of commands that run there."""

    address: str = "127.0.0.1"
    command: tuple[str, ...] = ()


LOCALHOST = Host()


class RayCluster:
    """A head without CPUs, so without work, and the nodes added to it.

    ``python`` is the nodes' interpreter; with ``autoscales`` Ray adds nodes on request; ``traced_by`` is Ray's startup
    hook for tracing.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        host: Host = LOCALHOST,
        python: str = "",
        autoscales: bool = False,
        traced_by: str = "",
    ):
        self._python = python or sys.executable
        # Paths of sockets must be short, so not in pytest's temporary folder.
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
        self._head = host.address
        self.address = f"http://{host.address}:{self._dashboard_port}"
        self._nodes: list[subprocess.Popen] = []
        self._start(
            host, "--head", f"--port={self._port}", "--num-cpus=0", f"--dashboard-host={host.address}",
            f"--dashboard-port={self._dashboard_port}", f"--temp-dir={self.scratch}",
            *(self._autoscaling() if autoscales else ()),
            *([f"--tracing-startup-hook={traced_by}"] if traced_by else ()),
        )  # fmt: skip
        wait_until_open(self._dashboard_port, host.address)

    def add_node(
        self, num_cpus: int, host: Host = LOCALHOST, resources: Mapping[str, float] | None = None
    ) -> subprocess.Popen:
        """Starts a node with these CPUs and custom resources; returns its process, which may be killed."""
        options = f"--num-cpus={num_cpus}", f"--resources={json.dumps(resources or {})}"
        return self._start(host, f"--address={self._head}:{self._port}", *options)

    def _autoscaling(self) -> list[str]:
        """The head's options for autoscaling; Ray's fake cloud provider needs the cluster's address."""
        provider = AUTOSCALING["provider"] | {"gcs_address": f"{self._head}:{self._port}"}
        config = self._folder / "autoscaling.yaml"
        config.write_text(json.dumps(AUTOSCALING | {"provider": provider}))
        self.environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        return [f"--autoscaling-config={config}"]

    def _start(self, host: Host, *options: str) -> subprocess.Popen:
        metrics, agent, grpc, runtime = free_ports(4)
        command = [
            *host.command, self._python, "-m", "ray.scripts.scripts", "start", "--block",
            f"--node-ip-address={host.address}", "--object-store-memory=200000000",
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
            with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=headers)) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def num_nodes(self) -> int:
        """The number of live nodes, including the head."""
        status, body = self.get("/nodes?view=summary", self.token)
        return body.count('"ALIVE"') if status == 200 else 0

    def wait_for_nodes(self, number: int) -> None:
        """Waits until ``number`` nodes are alive, including the head."""
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
    hosts: Sequence[Host] = (LOCALHOST, LOCALHOST),
    python: str = "",
    autoscales: bool = False,
    traced_by: str = "",
    **environment: str,
) -> Iterator[RayCluster]:
    """A cluster of a head and one node with ``num_cpus``, or of the head alone if that is 0."""
    cluster = RayCluster(environment, host=hosts[0], python=python, autoscales=autoscales, traced_by=traced_by)
    try:
        if num_cpus:
            cluster.add_node(num_cpus, hosts[1])
        cluster.wait_for_nodes(2 if num_cpus else 1)
        yield cluster
    finally:
        cluster.close()
