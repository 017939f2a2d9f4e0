"""The resources that a run gets from its nodes, and the errors where they are too few."""

import os
from pathlib import Path

import pytest
from running import command_line, fill, small_disk, write_config, write_job

from qa_ray.config import RunnerSettings
from qa_ray.errors import ConfigError
from qa_ray.runtime.resources import allocate_on_nodes
from qa_ray.runtime.session import num_cores, warn_if_open

HEAD = {"CPU": 2.0, "memory": 8e9}
A100 = {"CPU": 8.0, "GPU": 4.0, "memory": 64e9, "accelerator_type:A100": 1.0}
T4 = {"CPU": 4.0, "GPU": 1.0, "memory": 16e9, "accelerator_type:T4": 1.0}


@pytest.mark.parametrize(("options", "reason"), [("ro", "Read-only file system"), ("rw", "No space left on device")])
def test_a_scratch_folder_that_ray_cannot_write_is_a_config_error(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
):
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"])), tmp_path / "log"
    with small_disk(tmp_path / "disk", options) as disk:
        if options == "rw":
            fill(disk)
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        with command_line(path, log) as process:
            assert process.wait(120) == 2
    message = " ".join(log.read_text().split())
    assert f"Ray's scratch folder '{disk}' cannot be written ({reason}); make room there, or set RAY_TMPDIR " in message


def test_a_cluster_that_cannot_be_reached_is_an_error_at_once(tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch):
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"])), tmp_path / "log"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with command_line(path, log) as process:
        assert process.wait(60) == 1
    message = " ".join(log.read_text().split())
    assert "Ray could not be reached at RAY_ADDRESS='127.0.0.1:1': [Errno 111] Connection refused; nothing " in message


@pytest.mark.parametrize(
    ("dashboard", "mode", "warns"),
    [
        ("10.0.0.1:8265", "", True),
        ("10.0.0.1:8265", "token", False),
        ("127.0.0.1:8265", "", False),
        ("[::1]:8265", "", False),
        ("", "", False),
    ],
)
def test_a_dashboard_that_others_can_reach_without_a_token_gives_a_warning(
    caplog: pytest.LogCaptureFixture, dashboard: str, mode: str, warns: bool
):
    warn_if_open(dashboard, {"RAY_AUTH_MODE": mode} if mode else {})
    assert ("anyone who can reach it can run programs on this cluster" in caplog.text) == warns


@pytest.mark.parametrize(("num_cpus", "expected"), [(3, 3), (None, 1)])
def test_without_an_affinity_mask_as_on_macos_all_cores_are_used(
    monkeypatch: pytest.MonkeyPatch, num_cpus: int | None, expected: int
):
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: num_cpus)
    assert num_cores() == expected


@pytest.mark.parametrize(
    ("settings", "nodes", "fewest", "most", "cpus"),
    [
        ({}, [HEAD, A100, T4], 1, 5, 1),
        ({"gpus_per_actor": 0.5}, [HEAD, A100, T4], 1, 10, 1),
        ({"resources_per_actor": {"accelerator_type:A100": 0.001}}, [HEAD, A100, T4], 1, 4, 1),
        ({"actors": (2, 6), "cpus_per_actor": 2}, [HEAD, T4, T4], 2, 6, 2),
        ({"device": "cpu"}, [HEAD, A100], 8, 8, 1),
        ({"device": "cpu", "actors": 2}, [HEAD, A100], 2, 2, 4),
        ({"device": "cpu"}, [{"CPU": 3.0, "memory": 1e9}], 1, 1, 1),
    ],
    ids=str,
)
def test_the_number_of_actors_follows_the_nodes(settings: dict, nodes: list[dict], fewest: int, most: int, cpus: int):
    resources = allocate_on_nodes(RunnerSettings(dtype="float32", **settings), nodes, num_windows=10_000)
    assert (resources.min_actors, resources.max_actors, resources.cpus_per_actor) == (fewest, most, cpus)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "runner.device=cuda: the Ray cluster has no GPU; "),
        (
            {"device": "cuda", "resources_per_actor": {"accelerator_type:H100": 0.001}},
            "the Ray cluster has no GPU on nodes with accelerator_type:H100; ",
        ),
        (
            {"device": "cpu", "actors": 3},
            "3 actors of 1 CPUs and 2 to read and tokenize need 5 CPUs, and Ray has 2, 0 for actors; ",
        ),
        (
            {"device": "cpu", "actors": 1, "resources_per_actor": {"big": 1}},
            "need 3 CPUs, and Ray has 2, 0 for actors on nodes with big; ",
        ),
    ],
    ids=str,
)
def test_a_cluster_that_is_too_small_is_an_error_with_the_numbers(settings: dict, message: str):
    with pytest.raises(ConfigError) as raised:
        allocate_on_nodes(RunnerSettings(**settings), [HEAD], num_windows=10_000)
    assert message in str(raised.value)
