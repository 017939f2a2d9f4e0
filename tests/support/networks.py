"""A network of machines, each a network namespace of this machine, with its own address and a link that can be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ray_cluster import Host


def ip(*arguments: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode == 0


def can_create_namespaces() -> bool:
    if not shutil.which("ip") or os.geteuid():
        return False
    created = ip("link", "add", "qa-try", "type", "bridge", check=False)
    return created and ip("link", "del", "qa-try", check=False)


class Network:
    """A bridge, on which this machine has the address .254, with ``number`` namespaces connected to it."""

    def __init__(self, number: int):
        self._bridge = f"qa{os.getpid()}"
        self.hosts = [
            Host(f"10.213.7.{i}", ("ip", "netns", "exec", f"{self._bridge}-{i}")) for i in range(1, number + 1)
        ]

    def create(self) -> None:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("address", "add", "10.213.7.254/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for host in self.hosts:
            namespace, link = host.command[-1], self._link(host)
            ip("netns", "add", namespace)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("link", "set", link, "master", self._bridge, "up")
            ip("-netns", namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for name in ("lo", "eth0"):
                ip("-netns", namespace, "link", "set", name, "up")

    def cut(self, host: Host) -> None:
        """Cuts a machine off from the network; its processes keep running."""
        ip("link", "set", self._link(host), "down")

    def remove(self) -> None:
        for host in self.hosts:
            ip("netns", "del", host.command[-1], check=False)
        ip("link", "del", self._bridge, check=False)

    def _link(self, host: Host) -> str:
        return f"{self._bridge}v{host.address.rpartition('.')[2]}"


@contextmanager
def network(number: int) -> Iterator[Network]:
    """A network of ``number`` machines, removed with the block."""
    network = Network(number)
    try:
        network.create()
        yield network
    finally:
        network.remove()
