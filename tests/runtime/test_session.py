"""Where Ray runs: on this machine, with its scratch folder and cores, or on a cluster that must be reached."""

import os
from pathlib import Path

import pytest
from running import command_line, fill, small_disk, write_config, write_job

from qa_ray.runtime.session import num_cores, warn_if_open


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
