"""How many actors have room on nodes, what errors say of nodes, and waiting for them."""

from typing import Any

import pytest

from qa_ray.errors import ConfigError
from qa_ray.runtime import nodes
from qa_ray.runtime.nodes import describe, describe_nodes, how_many_fit, num_cpus, wait_for_room


@pytest.mark.parametrize(
    ("cluster", "bundle", "expected"),
    [
        ([{"CPU": 4.0}] * 3, {"CPU": 10}, 0),
        ([{"CPU": 4.0}] * 3, {"CPU": 3}, 3),
        ([{"CPU": 4.0}] * 3, {"CPU": 2}, 6),
        ([{"CPU": 1.9}, {"CPU": 0.5}, {}], {"CPU": 1}, 1),
        ([{"CPU": 16.0}, {"CPU": 2.0, "GPU": 8.0}], {"CPU": 1, "GPU": 1}, 2),
        ([{"CPU": 8.0}, {"GPU": 8.0}], {"CPU": 1, "GPU": 1}, 0),
        ([{"CPU": 8.0, "GPU": 2.0}], {"CPU": 1, "GPU": 0.5}, 4),
        ([{"CPU": 8.0, "GPU": 2.0}], {"CPU": 1, "GPU": 0.6}, 2),  # a share is one of a single GPU
        ([{"CPU": 8.0, "GPU": 1.0}], {"CPU": 0.1, "GPU": 0.1}, 10),
        ([{"CPU": 8.0, "GPU": 3.0}], {"CPU": 1, "GPU": 2}, 1),
        ([{"CPU": 8.0, "good": 0.3}, {"CPU": 8.0}], {"CPU": 1, "good": 0.1}, 3),  # exact: 0.3 / 0.1 is below 3
        ([{"CPU": 8.0, "memory": 5e9}, {"CPU": 1.0, "memory": 5e9}], {"CPU": 1, "memory": 2e9}, 3),
        ([], {"CPU": 1}, 0),
    ],
    ids=str,
)
def test_an_actor_has_room_where_all_that_it_needs_is_on_one_node(cluster: list[dict], bundle: dict, expected: int):
    assert how_many_fit(cluster, bundle) == expected


def test_tasks_of_one_cpu_run_on_whole_cpus_of_single_nodes():
    assert num_cpus([{"CPU": 2.5}, {"CPU": 0.5}, {"GPU": 1.0}]) == 2
    assert num_cpus([]) == 0


def test_nodes_are_described_by_what_an_actor_needs():
    assert describe({"CPU": 4, "GPU": 0.5, "accelerator_type:A100": 0.001}) == (
        "4 CPUs, 0.5 GPUs and 0.001 accelerator_type:A100"
    )
    assert describe_nodes([], {"CPU": 1}) == "no node"
    assert describe_nodes([{"CPU": 1.0, "memory": 8e9}], {"CPU": 2}) == "1 CPU on one node"
    cluster = [{"CPU": 64.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    expected = "70 CPUs and 2 GPUs on 3 nodes, the largest with 4 CPUs and 1 GPU"
    assert describe_nodes(cluster, {"CPU": 1, "GPU": 1}) == expected


class Cluster:
    """A cluster whose autoscaler adds nodes of two CPUs, one each time that somebody looks, while they are asked for.

    ``requests`` has the bundles of each request.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_nodes: int = 9):
        self.nodes: list[dict[str, float]] = [{"memory": 8e9}]  # a head without CPUs
        self.max_nodes = max_nodes
        self.requests: list[list[dict[str, float]]] = []
        self.missing = 0
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        monkeypatch.setattr(nodes, "WAIT_STEP_SECONDS", 0.01)
        monkeypatch.setattr(nodes, "request_resources", self.request)

    def request(self, bundles: list[dict[str, float]]) -> None:
        self.requests.append(bundles)
        self.missing = sum(int(bundle["CPU"]) for bundle in bundles) - num_cpus(self.nodes)

    def live_nodes(self) -> list[dict[str, float]]:
        if self.missing > 0 and len(self.nodes) <= self.max_nodes:
            self.nodes.append({"CPU": 2.0})
            self.missing -= 2
        return self.nodes

    def allocate(self, number: int) -> Any:
        if how_many_fit(cluster := self.live_nodes(), {"CPU": 2}) < number:
            raise ConfigError("too small")
        return len(cluster) - 1


def test_nodes_are_asked_for_and_awaited_until_there_is_room(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(monkeypatch)
    bundles = [{"CPU": 2}] * 3
    assert wait_for_room(lambda: cluster.allocate(3), bundles, 60) == 3
    assert cluster.requests == [bundles, []]  # the request ends with the wait
    assert wait_for_room(lambda: cluster.allocate(3), bundles, 60) == 3
    assert len(cluster.requests) == 2  # there was room at once


def test_after_the_wait_the_error_has_the_numbers(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(monkeypatch, max_nodes=2)
    with pytest.raises(ConfigError, match="too small"):
        wait_for_room(lambda: cluster.allocate(3), [{"CPU": 2}] * 3, 0.2)
    assert cluster.requests[-1] == []
    assert len(cluster.nodes) == 3


def test_a_ray_of_this_machine_is_not_awaited(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match="too small"):
        wait_for_room(lambda: cluster.allocate(1), [{"CPU": 2}], 60)
    assert not cluster.requests
