"""Machines of a network, each a network namespace of this one: addresses of their own, and cables that can be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ray_cluster import Place


def ip(*words: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *words], check=check, capture_output=True).returncode == 0


def can_be_made() -> bool:
    if not shutil.which("ip") or os.geteuid():
        return False
    made = ip("link", "add", "qa-try", "type", "bridge", check=False)
    return made and ip("link", "del", "qa-try", check=False)


class Network:
    """A bridge, on which this machine has the address .254, and namespaces behind it."""

    def __init__(self, number: int):
        self._bridge = f"qa{os.getpid()}"
        self.places = [
            Place(f"10.213.7.{i}", ("ip", "netns", "exec", f"{self._bridge}-{i}")) for i in range(1, number + 1)
        ]

    def make(self) -> None:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("address", "add", "10.213.7.254/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for place in self.places:
            namespace, cable = place.command[-1], self._cable(place)
            ip("netns", "add", namespace)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("link", "set", cable, "master", self._bridge, "up")
            ip("-netns", namespace, "address", "add", f"{place.address}/24", "dev", "eth0")
            for name in ("lo", "eth0"):
                ip("-netns", namespace, "link", "set", name, "up")

    def cut(self, place: Place) -> None:
        """From now on nobody hears of this machine, which works on."""
        ip("link", "set", self._cable(place), "down")

    def remove(self) -> None:
        for place in self.places:
            ip("netns", "del", place.command[-1], check=False)
        ip("link", "del", self._bridge, check=False)

    def _cable(self, place: Place) -> str:
        return f"{self._bridge}v{place.address.rpartition('.')[2]}"


@contextmanager
def network(number: int) -> Iterator[Network]:
    """So many machines."""
    made = Network(number)
    try:
        made.make()
        yield made
    finally:
        made.remove()
