"""A real S3 server for tests: OpenStack Swift with its s3api, in its own environment (make .swift/installed)."""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from running import changed

from qa_ray.config import AnswerConfig

SWIFT = Path(__file__).parents[2] / ".swift" / "bin"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-tests"}
SERVICES = ("account", "container", "object")

STORAGE_SERVER = """
[DEFAULT]
devices = {folder}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
log_level = ERROR
container_update_timeout = 30
[pipeline:main]
pipeline = {service}-server
[app:{service}-server]
use = egg:swift#{service}
"""
PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors like_aws gatekeeper s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:like_aws]
paste.filter_factory = s3_filter:filter_factory
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
user_test_reader = {secret}
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


class S3Server:
    """Four Swift processes that store in a folder; objects survive ``kill`` and ``start``."""

    def __init__(self, folder: Path):
        if not SWIFT.is_dir():
            missing = f"no S3 server in {SWIFT}; run: make .swift/installed"
            pytest.fail(missing) if "CI" in os.environ else pytest.skip(missing)
        self.folder = folder
        self.ports = dict(zip((*SERVICES, "proxy"), free_ports(4), strict=True))
        self._processes: list[subprocess.Popen] = []
        self._configure()
        self.start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}
        for service in (*SERVICES, "proxy"):
            if service == "proxy":  # without the others it would say that there is no such bucket
                for storage_server in SERVICES:
                    wait_until_open(self.ports[storage_server])
            command = [SWIFT / f"swift-{service}-server", self.folder / f"{service}.conf"]
            with (self.folder / f"{service}.log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                    )
                )
        wait_until_open(self.ports["proxy"])

    def kill(self) -> None:
        """Sends SIGKILL to its processes, by id: the proxy first, which would say that there is no such bucket."""
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes = []

    def _configure(self) -> None:
        (self.folder / "devices" / "d1").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = default\ndefault = yes\n"
        )
        names = {"folder": self.folder, "user": pwd.getpwuid(os.geteuid()).pw_name}
        for service in SERVICES:
            port = self.ports[service]
            (self.folder / f"{service}.conf").write_text(STORAGE_SERVER.format(service=service, port=port, **names))
            builder = [SWIFT / "swift-ring-builder", self.folder / f"{service}.builder"]
            for arguments in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
                subprocess.run([*builder, *arguments], check=True, capture_output=True)
        secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        (self.folder / "proxy.conf").write_text(PROXY.format(port=self.ports["proxy"], secret=secret, **names))


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    server = S3Server(folder)
    try:
        yield server
    finally:
        server.kill()


def bucket(endpoint_url: str, name: str) -> Any:
    """Creates a bucket; returns the server's file system, for the test's own reads and writes."""
    filesystem = fsspec.filesystem(
        "s3",
        key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=endpoint_url,
        config_kwargs={"s3": {"addressing_style": "path"}},
        use_listings_cache=False,
    )
    filesystem.mkdir(name)
    return filesystem


def lake_with(job: AnswerConfig, endpoint_url: str) -> Any:
    """Uploads the tables and the model of ``job`` to a bucket 'lake'; returns the server's file system."""
    filesystem = bucket(endpoint_url, "lake")
    for name in ("documents", "questions", "model"):
        filesystem.put(getattr(job, name), f"lake/{name}", recursive=True)
    return filesystem


def on_s3(job: AnswerConfig, endpoint_url: str, output: str, **storage: Any) -> AnswerConfig:
    """The job with all its paths in the bucket 'lake'."""
    paths = {name: f"s3://lake/{name}" for name in ("documents", "questions", "model")}
    storage = {"endpoint_url": endpoint_url, "addressing_style": "path", **storage}
    return changed(job, **paths, output=f"s3://lake/{output}", storage=storage)


def free_ports(num_ports: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num_ports)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_open(port: int, host: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"port {port} is still closed")
