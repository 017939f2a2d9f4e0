"""The resources that a run gets from its nodes, and the errors where they are too few."""

from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from placement import Places
from running import raises_error

from qa_ray.config import RunnerSettings, WorkerSettings
from qa_ray.errors import ConfigError
from qa_ray.process import num_cores
from qa_ray.runtime.resources import (
    SPARE_CPUS,
    Resources,
    allocate_on_nodes,
    allocate_workers,
    allocate_workers_on_nodes,
    cores_explained,
)

NO_CPU = {"memory": 8e9}
HEAD = {"CPU": 2.0, "memory": 8e9}
FOUR = {"CPU": 4.0, "memory": 16e9}
A100 = {"CPU": 8.0, "GPU": 4.0, "memory": 64e9, "accelerator_type:A100": 1.0}
T4 = {"CPU": 4.0, "GPU": 1.0, "memory": 16e9, "accelerator_type:T4": 1.0}


@pytest.mark.parametrize(
    ("settings", "nodes", "fewest", "most", "cpus"),
    [
        ({}, [HEAD, A100, T4], 1, 5, 1),
        ({"gpus_per_actor": 0.5}, [HEAD, A100, T4], 1, 10, 1),
        ({"gpus_per_actor": 0.6}, [HEAD, A100, T4], 1, 5, 1),
        ({"resources_per_actor": {"accelerator_type:A100": 0.001}}, [HEAD, A100, T4], 1, 4, 1),
        ({"actors": (2, 6), "cpus_per_actor": 2}, [HEAD, T4, T4], 2, 6, 2),
        ({}, [{"CPU": 16.0}, {"CPU": 2.0, "GPU": 8.0}], 1, 2, 1),  # a GPU without a CPU beside it is no room
        ({"device": "cpu"}, [HEAD, A100], 8, 8, 1),
        ({"device": "cpu", "actors": 2}, [HEAD, A100], 2, 2, 1),
        ({"device": "cpu"}, [{"CPU": 3.0, "memory": 1e9}], 1, 1, 1),
        ({"device": "cpu"}, [{"CPU": 9.0, "memory": 1e9}, {"CPU": 9.0, "memory": 5e9}], 2, 2, 1),
        ({"actors": 1}, [FOUR] * 3, 1, 1, 1),
        ({"actors": 2}, [NO_CPU, *[FOUR] * 3], 2, 2, 1),
        ({"actors": (1, 5)}, [FOUR] * 3, 1, 5, 1),
        ({"cpus_per_actor": 3}, [FOUR] * 3, 3, 3, 3),
        ({"actors": 1, "resources_per_actor": {"good": 1}}, [FOUR, {"CPU": 2.0, "good": 1.0}], 1, 1, 1),
    ],
    ids=str,
)
def test_the_number_of_actors_follows_the_nodes(settings: dict, nodes: list[dict], fewest: int, most: int, cpus: int):
    resources = allocate_on_nodes(RunnerSettings(dtype="float32", **settings), nodes, num_windows=10_000)
    assert (resources.min_actors, resources.max_actors, resources.cpus_per_actor) == (fewest, most, cpus)


def test_a_small_job_has_one_actor_of_one_thread():
    resources = allocate_on_nodes(RunnerSettings(dtype="float32"), [FOUR] * 3, num_windows=100)
    assert (resources.max_actors, resources.cpus_per_actor) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "nodes", "messages"),
    [
        ({"device": "cuda"}, [HEAD], ["runner.device=cuda: the Ray cluster has no GPU; add a GPU node or "]),
        (
            {"device": "cuda", "resources_per_actor": {"accelerator_type:H100": 0.001}},
            [A100],
            ["the Ray cluster has no GPU on nodes with accelerator_type:H100; "],
        ),
        (
            {"device": "cpu", "actors": 3},
            [HEAD],
            [
                "runner: 3 actors of 1 CPU and 2 CPUs to read and tokenize need 5 CPUs, and Ray has 2 CPUs on one ",
                "node, with room for 0 actors; set fewer runner.actors or smaller ones (runner.cpus_per_actor, ",
            ],
        ),
        (
            {"actors": 1, "cpus_per_actor": 5},
            [FOUR] * 3,
            ["need 7 CPUs, and Ray has 12 CPUs on 3 nodes, the largest with 4 CPUs, with room for 0 actors; "],
        ),
        (
            {"actors": 1, "resources_per_actor": {"big": 1}},
            [HEAD],
            ["1 actor of 1 CPU and 1 big and ", "need 3 CPUs and 1 big, and Ray has 2 CPUs and 0 big on one node, "],
        ),
        (
            {"actors": 5, "gpus_per_actor": 0.6},
            [HEAD, A100],
            ["need 7 CPUs and 3 GPUs, and Ray has 10 CPUs and 4 GPUs on 2 nodes, the ", "with room for 4 actors; "],
        ),
        ({}, [], ["1 actor of 1 CPU and 2 CPUs to read and tokenize need 3 CPUs, and Ray has no node, with room for "]),
        ({}, [NO_CPU], ["need 3 CPUs, and Ray has 0 CPUs on one node, with room for 0 actors; "]),
        (
            {},
            [{"CPU": 8.0}, {"GPU": 4.0}],
            ["and Ray has 8 CPUs and 4 GPUs on 2 nodes, the largest with 0 CPUs and 4 GPUs, with room for 0 actors; "],
        ),
    ],
    ids=str,
)
def test_a_cluster_that_is_too_small_is_an_error_with_the_numbers(
    settings: dict, nodes: list[dict], messages: list[str]
):
    with raises_error(ConfigError, *messages):
        allocate_on_nodes(RunnerSettings(dtype="float32", **settings), nodes, num_windows=10_000)


def node(**amounts: float) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if amount}


NODES = st.lists(
    st.builds(
        node,
        CPU=st.integers(0, 12).map(float) | st.sampled_from([0.5, 1.5]),
        GPU=st.sampled_from([0.0, 0.0, 1.0, 4.0]),
        memory=st.sampled_from([0.0, 1e9, 3e9, 64e9]),
        good=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0]),
    ),
    max_size=5,
)
PAIRS = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
RUNNERS = st.builds(
    RunnerSettings,
    dtype=st.just("float32"),
    device=st.sampled_from(["auto", "cpu"]),
    actors=st.just("auto") | st.integers(1, 6) | PAIRS,
    cpus_per_actor=st.just(1) | st.just(1) | st.integers(1, 5),
    gpus_per_actor=st.sampled_from([None, 0.3, 0.5, 2.0]),
    resources_per_actor=st.sampled_from([{}, {}, {"good": 0.5}, {"good": 1.0}]),
)
WORKERS = st.builds(
    WorkerSettings,
    device=st.sampled_from(["auto", "cpu"]),
    workers=st.integers(1, 6) | PAIRS,
    cpus_per_worker=st.none() | st.integers(1, 5),
)


def bundle_of(resources: Resources) -> dict[str, float]:
    gpus = {"GPU": resources.gpus_per_actor} if resources.gpus_per_actor else {}
    return {"CPU": resources.cpus_per_actor} | gpus | resources.resources_per_actor


def have_room(nodes: list[dict], bundle: dict, number: int, first: Iterable[int] = ()) -> bool:
    """Whether so many actors are placed, and the tasks that read and tokenize, one of them ``first`` on these nodes."""
    places = Places(nodes)
    return (
        all(places.place({"CPU": 1}, on=[index]) for index in first)
        and places.place(bundle, number)
        and places.place({"CPU": 1}, SPARE_CPUS - len([*first]))
    )


@given(RUNNERS, NODES, st.integers(0, 4_000))
def test_all_actors_that_are_allocated_have_room_beside_reading_and_tokenizing(
    runner: RunnerSettings, nodes: list[dict], num_windows: int
):
    resources = allocated(runner, nodes, num_windows) or reject()
    bundle = bundle_of(resources)
    assert have_room(nodes, bundle, resources.min_actors)
    if runner.actors == "auto":
        assert have_room(nodes, bundle, resources.max_actors)


@given(RUNNERS, NODES, st.integers(0, 4_000))
def test_nodes_are_refused_only_if_the_fewest_and_smallest_actors_have_no_room(
    runner: RunnerSettings, nodes: list[dict], num_windows: int
):
    assume(not allocated(runner, nodes, num_windows))
    custom = runner.resources_per_actor
    has_gpu = any(node.get("GPU") and all(node.get(name, 0) >= custom[name] for name in custom) for node in nodes)
    gpus = {"GPU": runner.gpus_per_actor or 1.0} if runner.device == "auto" and has_gpu else {}
    fewest = 1 if runner.actors == "auto" else runner.actors if isinstance(runner.actors, int) else runner.actors[0]
    assert not have_room(nodes, {"CPU": runner.cpus_per_actor} | gpus | custom, fewest)


def allocated(runner: RunnerSettings, nodes: list[dict], num_windows: int) -> Resources | None:
    with suppress(ConfigError):
        return allocate_on_nodes(runner, nodes, num_windows)


@pytest.mark.parametrize(
    ("settings", "nodes", "use_gpu", "cpus"),
    [
        ({}, [FOUR] * 3, False, 4),
        ({"workers": 3}, [FOUR] * 3, False, 3),
        ({"workers": (1, 8)}, [FOUR] * 3, False, 1),
        ({"workers": (2, 3)}, [NO_CPU, *[FOUR] * 2], False, 2),
        ({"workers": 2, "cpus_per_worker": 2}, [{"CPU": 2.0}] * 2, False, 2),  # all CPUs, if told to
        ({}, [{"CPU": 2.0}], False, 1),
        ({"workers": 2}, [{"CPU": 1.0}] * 3, False, 1),
        ({}, [HEAD, A100], True, 1),
        ({"workers": 5}, [HEAD, A100, T4], True, 1),
        ({"workers": (2, 6), "cpus_per_worker": 3}, [A100], True, 3),
        ({"device": "cpu"}, [A100], False, 6),
    ],
    ids=str,
)
def test_workers_of_fine_tuning_follow_the_nodes(settings: dict, nodes: list[dict], use_gpu: bool, cpus: int):
    assert allocate_workers_on_nodes(WorkerSettings(**settings), nodes) == (use_gpu, cpus)


@pytest.mark.parametrize(
    ("settings", "nodes", "message"),
    [
        ({"device": "cuda"}, [HEAD], "runner.device=cuda: the Ray cluster has no GPU; add a GPU node or set "),
        (
            {},
            [],
            "runner: 1 worker of 1 CPU, and before that 2 CPUs to read and tokenize, need 2 CPUs, and Ray has no node",
        ),
        ({}, [NO_CPU], "need 2 CPUs, and Ray has 0 CPUs on one node, with room for 0 workers; "),
        ({}, [{"CPU": 1.0}], "need 2 CPUs, and Ray has 1 CPU on one node, with room for 1 worker; "),
        (
            {"workers": 2, "cpus_per_worker": 5},
            [FOUR] * 3,
            "need 10 CPUs, and Ray has 12 CPUs on 3 nodes, the largest with 4 CPUs, with room for 0 workers; set fewer "
            "runner.workers or a smaller runner.cpus_per_worker, or add nodes",
        ),
        (
            {"workers": (3, 6), "cpus_per_worker": 4},
            [HEAD, A100],
            "need 12 CPUs and 3 GPUs, and Ray has 10 CPUs and 4 GPUs on 2 nodes, the largest with 8 CPUs and 4 GPUs, "
            "with room for 2 workers; ",
        ),
    ],
    ids=str,
)
def test_a_cluster_too_small_for_fine_tuning_is_an_error_with_the_numbers(
    settings: dict, nodes: list[dict], message: str
):
    with raises_error(ConfigError, message):
        allocate_workers_on_nodes(WorkerSettings(**settings), nodes)


@given(WORKERS, NODES)
def test_workers_have_room_on_the_nodes_and_are_refused_only_without_room(runner: WorkerSettings, nodes: list[dict]):
    fewest, most = (runner.workers, runner.workers) if isinstance(runner.workers, int) else runner.workers
    has_gpu = runner.device == "auto" and any(node.get("GPU") for node in nodes)
    bundle = {"CPU": runner.cpus_per_worker or 1, **({"GPU": 1} if has_gpu else {})}
    if not runner.cpus_per_worker and not has_gpu:
        options = [count for count in range(1, 13) if have_room(nodes, {"CPU": count}, most)]
        bundle["CPU"] = max(options, default=1)
    if Places(nodes).place(bundle, fewest) and Places(nodes).place({"CPU": 1}, SPARE_CPUS):
        assert allocate_workers_on_nodes(runner, nodes) == (has_gpu, bundle["CPU"])
    else:
        with pytest.raises(ConfigError):
            allocate_workers_on_nodes(runner, nodes)


@pytest.mark.parametrize(
    ("settings", "bundles"),
    [
        ({}, [{"CPU": 1}] * 2),  # one of them for reading, before the worker starts
        ({"workers": (3, 8)}, [{"CPU": 1}] * 3),
        ({"cpus_per_worker": 8, "device": "cuda"}, [{"CPU": 8, "GPU": 1}]),
    ],
    ids=str,
)
def test_fine_tuning_waits_for_the_nodes_of_its_fewest_workers(
    monkeypatch: pytest.MonkeyPatch, settings: dict, bundles: list[dict]
):
    cluster: list[dict[str, float]] = [NO_CPU]
    requests = []

    def request_resources(bundles: list[dict]) -> None:
        requests.append(bundles)
        cluster.append(A100)

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("qa_ray.runtime.nodes.request_resources", request_resources)
    monkeypatch.setattr("qa_ray.runtime.resources.live_nodes", lambda: cluster)
    runner = WorkerSettings(wait_seconds=60, **settings)
    use_gpu, _ = allocate_workers(runner)
    assert use_gpu
    assert requests == [bundles, []]


@pytest.mark.parametrize(("address", "cpus", "is_explained"), [("", 2, True), ("", 5, False), ("10.0.0.1:1", 2, False)])
def test_cpus_beyond_the_cores_of_this_machine_are_explained(
    monkeypatch: pytest.MonkeyPatch, address: str, cpus: int, is_explained: bool
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError) as raised, cores_explained([{"CPU": float(num_cores() + cpus)}]):
        raise ConfigError("too small")
    cores = "1 core" if num_cores() == 1 else f"{num_cores()} cores"
    note = f"too small (Ray counts 2 CPUs more than this machine's {cores}: to read and tokenize)"
    assert str(raised.value) == (note if is_explained else "too small")
