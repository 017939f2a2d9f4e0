"""What a run gets of a machine, and what it says where it gets nothing."""

from pathlib import Path

import pytest
from running import command_line, fill, small_disk, write_config, write_job

from qa_ray.resources import warn_if_open


@pytest.mark.parametrize(("options", "reason"), [("ro", "Read-only file system"), ("rw", "No space left on device")])
def test_a_scratch_folder_that_ray_cannot_write_is_told(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
):
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"])), tmp_path / "log"
    with small_disk(tmp_path / "disk", options) as disk:
        if options == "rw":
            fill(disk)
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        with command_line(path, log) as process:
            assert process.wait(120) == 2
    told = " ".join(log.read_text().split())
    assert f"Ray's scratch folder '{disk}' cannot be written ({reason}); make room there, or set RAY_TMPDIR " in told


def test_a_cluster_that_cannot_be_reached_is_told_at_once(tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch):
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"])), tmp_path / "log"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with command_line(path, log) as process:
        assert process.wait(60) == 1
    told = " ".join(log.read_text().split())
    assert "Ray could not be reached at RAY_ADDRESS='127.0.0.1:1': [Errno 111] Connection refused; nothing " in told


@pytest.mark.parametrize(
    ("dashboard", "mode", "is_told"),
    [
        ("10.0.0.1:8265", "", True),
        ("10.0.0.1:8265", "token", False),
        ("127.0.0.1:8265", "", False),
        ("[::1]:8265", "", False),
        ("", "", False),
    ],
)
def test_a_dashboard_that_is_open_to_others_is_told(
    caplog: pytest.LogCaptureFixture, dashboard: str, mode: str, is_told: bool
):
    warn_if_open(dashboard, {"RAY_AUTH_MODE": mode} if mode else {})
    assert ("whoever reaches it can run programs on this cluster" in caplog.text) == is_told
