"""A real S3 server for tests: OpenStack Swift with its s3api, in a virtual environment of its own (make .swift)."""

import os
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
KINDS = ("account", "container", "object")

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
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
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
    """Four Swift processes over a folder; what was stored survives ``kill`` and ``start``."""

    def __init__(self, folder: Path):
        if not SWIFT.is_dir():
            missing = f"no S3 server in {SWIFT}: make .swift/installed"
            pytest.fail(missing) if "CI" in os.environ else pytest.skip(missing)
        self.folder = folder
        self.ports = dict(zip((*KINDS, "proxy"), free_ports(4), strict=True))
        self._processes: list[subprocess.Popen] = []
        self._configure()
        self.start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}
        self._processes = [
            subprocess.Popen(
                [SWIFT / f"swift-{kind}-server", self.folder / f"{kind}.conf"],
                stdout=(self.folder / f"{kind}.log").open("ab"),
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            for kind in (*KINDS, "proxy")
        ]
        for port in self.ports.values():
            wait_until_open(port)

    def kill(self) -> None:
        """SIGKILL for all its processes, by their ids."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes = []

    def _configure(self) -> None:
        (self.folder / "devices" / "d1").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = default\ndefault = yes\n"
        )
        names = {"folder": self.folder, "user": os.popen("id -un").read().strip()}
        for kind in KINDS:
            port = self.ports[kind]
            (self.folder / f"{kind}.conf").write_text(STORAGE_SERVER.format(kind=kind, port=port, **names))
            builder = [SWIFT / "swift-ring-builder", self.folder / f"{kind}.builder"]
            for words in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
                subprocess.run([*builder, *words], check=True, capture_output=True)
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
    """The server's file system, as the tests themselves look into it; makes the bucket."""
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
    """The server's file system, with a bucket 'lake' that holds the tables of ``job`` and its model."""
    filesystem = bucket(endpoint_url, "lake")
    for name in ("documents", "questions", "model"):
        filesystem.put(getattr(job, name), f"lake/{name}", recursive=True)
    return filesystem


def on_s3(job: AnswerConfig, endpoint_url: str, output: str, **storage: Any) -> AnswerConfig:
    """The job with all its places in that bucket."""
    places = {name: f"s3://lake/{name}" for name in ("documents", "questions", "model")}
    how = {"endpoint_url": endpoint_url, "addressing_style": "path", **storage}
    return changed(job, **places, output=f"s3://lake/{output}", storage=how)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until_open(port: int, host: str = "127.0.0.1") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"port {port} is still closed")
