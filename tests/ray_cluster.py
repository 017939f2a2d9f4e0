"""A Ray cluster of real ``ray start`` processes on this machine, with token authentication, and the Job API."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from running import kill_session
from s3_server import free_ports, wait_until_open

RAY = Path(sys.executable).parent / "ray"


class RayCluster:
    """A head without CPUs, so without work, and the nodes that are added; all of it ends with the block."""

    def __init__(self, environment: Mapping[str, str]):
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
            | {"PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}", **environment}
        )
        self._port, self._dashboard_port = free_ports(2)
        self.address = f"http://127.0.0.1:{self._dashboard_port}"
        self._nodes: list[subprocess.Popen] = []
        self._start(
            "--head", f"--port={self._port}", "--num-cpus=0", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard_port}", f"--temp-dir={self.scratch}",
        )  # fmt: skip
        wait_until_open(self._dashboard_port)

    def add_node(self, num_cpus: int) -> subprocess.Popen:
        """A node with so many CPUs; its process may be killed."""
        return self._start(f"--address=127.0.0.1:{self._port}", f"--num-cpus={num_cpus}")

    def _start(self, *options: str) -> subprocess.Popen:
        metrics, agent, grpc, runtime = free_ports(4)
        command = [
            RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000",
            f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime}", *options,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
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

    def wait_for_nodes(self, number: int) -> None:
        """Until so many nodes are alive, the head among them."""
        for _ in range(240):
            status, body = self.get("/nodes?view=summary", self.token)
            if status == 200 and body.count('"ALIVE"') >= number:
                return
            time.sleep(0.5)
        raise TimeoutError((self._folder / "log").read_text())

    def close(self) -> None:
        for process in reversed(self._nodes):
            kill_session(process)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def ray_cluster(num_cpus: int = 3, **environment: str) -> Iterator[RayCluster]:
    """A cluster of a head and one node."""
    cluster = RayCluster(environment)
    try:
        cluster.add_node(num_cpus)
        cluster.wait_for_nodes(2)
        yield cluster
    finally:
        cluster.close()
