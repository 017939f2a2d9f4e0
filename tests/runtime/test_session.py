"""Where Ray runs: on this machine, with its scratch folder and cores, or on a cluster that must be reached."""

import os
import re
import sys
from pathlib import Path

import pytest
from ray._private.utils import validate_socket_filepath
from running import command_line, fill, raises_error, small_disk, write_config, write_job

from qa_ray import process
from qa_ray.errors import ConfigError
from qa_ray.log import logged_to
from qa_ray.process import num_cores
from qa_ray.runtime import session
from qa_ray.runtime.session import LONGEST_SOCKET, MAX_SOCKET_BYTES, stderr_in_details, warn_if_open


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
            assert process.wait(900) == 2
    message = " ".join(log.read_text().split())
    assert f"Ray's scratch folder '{disk}' cannot be written ({reason}); make room there, or set RAY_TMPDIR " in message


def test_a_cluster_that_cannot_be_reached_is_an_error_at_once(tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch):
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"])), tmp_path / "log"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with command_line(path, log) as process:
        assert process.wait(900) == 1
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
    monkeypatch.setattr(process, "CPU_QUOTA", "nowhere")
    assert num_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000\n", 2), ("20000 100000\n", 1), ("max 100000\n", 8)])
def test_a_container_has_as_many_cores_as_its_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(process, "CPU_QUOTA", str(tmp_path / "cpu.max"))
    (tmp_path / "cpu.max").write_text(quota)
    assert num_cores() == expected


def test_what_native_code_writes_while_ray_starts_is_kept_for_the_log_file(
    tmp_path: Path, capfd: pytest.CaptureFixture
):
    with logged_to(str(tmp_path / "run.log")):
        with stderr_in_details():
            os.write(2, b"[2026-11-28 18:50:40,712 I 1 1] logging.cc:303: Set ray log level from\n")
        os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
    assert "Ray: [2026-11-28 18:50:40,712 I 1 1] logging.cc:303" in (tmp_path / "run.log").read_text()


def test_a_run_and_its_failure_print_no_word_of_rays(tmp_path: Path, models):
    documents = [{"document_id": f"d{i}", "text": None if i else "Ada Vane built it."} for i in range(60)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    path, log = write_config(tmp_path, write_job(tmp_path, models["bert"], documents, questions)), tmp_path / "log"
    with command_line(path, log) as process:
        assert process.wait(900) == 1
    lines = log.read_text().splitlines()
    assert re.match(r"failed: \d+ of 60 questions were rejected already \(null_text \d+\), more than limits", lines[-1])
    assert lines[-1].endswith("because another input is another run")
    words = "\n".join(lines)
    assert not re.search(r"\x1b|ray::|attempts|logging\.cc|Traceback|The above exception", words)
    phases = ["planning: ", "starting Ray on this machine", "answering 60 questions in about "]
    assert [phase for phase in phases if phase not in words] == []


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_scratch_folder_whose_path_is_too_long_for_sockets_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
):
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr(sys, "platform", "linux")
    with raises_error(ConfigError, f"Ray's scratch folder '{folder}' has a path of ", "set RAY_TMPDIR to a folder"):
        session._start()


def test_the_longest_scratch_folder_that_is_allowed_has_room_for_ray(tmp_path: Path):
    longest = MAX_SOCKET_BYTES - len(LONGEST_SOCKET)
    assert longest > len("/var/folders/tmp")
    validate_socket_filepath("/" + "x" * (longest - 1) + LONGEST_SOCKET)
    with pytest.raises(OSError, match="AF_UNIX path length"):
        validate_socket_filepath("/" + "x" * longest + LONGEST_SOCKET)
