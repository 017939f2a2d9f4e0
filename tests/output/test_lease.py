"""A lease lets only one live run write to an output; the lease of a dead run is taken over, wherever that run was."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from running import raises_error

from qa_ray.errors import OutputError
from qa_ray.io.listing import list_folder
from qa_ray.output import lease as lease_module
from qa_ray.output.lease import Lease, is_exclusive

NO_SUCH_PID = 2**22 + 1


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "WATCH_SECONDS", 1.0)


def holder_files(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "_run" / "leases").glob("*.json"))


def leave_a_lease(output: Path, **holder: Any) -> None:
    """Leaves the lease of a run that was killed; ``holder`` overrides fields of its holder."""
    lease = Lease(str(output))
    lease._released.set()
    lease._heartbeat_thread.join()
    file = output / "_run" / "leases" / "000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | holder))


def test_a_released_lease_leaves_no_files(tmp_path: Path):
    Lease(str(tmp_path)).release()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_lease_has_a_holder_file_and_a_heartbeat_that_changes(tmp_path: Path):
    lease = Lease(str(tmp_path))
    heartbeat = tmp_path / "_run" / "leases" / "000001.heartbeat"
    contents = set()
    while len(contents) < 4:  # one may be empty: read while it is written
        threading.Event().wait(0.02)
        contents |= {heartbeat.read_text()} if heartbeat.exists() else set()
    assert holder_files(tmp_path) == ["000001.json"]
    lease.release()


@pytest.mark.parametrize("holder", [{}, {"host": "another", "pid": 1}, {"pid": NO_SUCH_PID}])
def test_the_lease_of_a_dead_run_is_taken_over(tmp_path: Path, holder: dict[str, Any]):
    leave_a_lease(tmp_path, **holder)
    lease = Lease(str(tmp_path))
    assert holder_files(tmp_path) == ["000001.json", "000002.json"]
    lease.check()
    lease.release()


def test_a_lease_whose_holder_file_is_incomplete_is_taken_over(tmp_path: Path):
    leave_a_lease(tmp_path)
    (tmp_path / "_run" / "leases" / "000001.json").write_text("")
    Lease(str(tmp_path)).release()


def test_a_live_run_on_another_host_is_recognized_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lease = Lease(str(tmp_path))
    monkeypatch.setattr(lease_module, "_this_machine", lambda: "another")
    with raises_error(
        OutputError, f"is being written by a live run (process {os.getpid()} on {socket.gethostname()}); wait for it"
    ):
        Lease(str(tmp_path))
    lease.release()
    Lease(str(tmp_path)).release()


@pytest.fixture
def boot(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Boots this machine again, or another of its name: a function of the boot id."""

    def boot(boot_id: str) -> None:
        file = tmp_path_factory.mktemp("proc") / "boot_id"
        file.write_text(f"{boot_id}\n")
        monkeypatch.setattr(lease_module, "BOOT_ID", file)
        lease_module._this_machine.cache_clear()

    yield boot
    lease_module._this_machine.cache_clear()


def test_a_live_run_on_another_host_of_the_same_name_is_not_taken_for_a_dead_process(
    tmp_path: Path, boot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    boot("one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: NO_SUCH_PID)  # as it is on the other host
        lease = Lease(str(tmp_path))
    boot("another")
    with raises_error(OutputError, f"is being written by a live run (process {NO_SUCH_PID} on {socket.gethostname()})"):
        Lease(str(tmp_path))
    boot("one")
    assert lease.holder.is_gone()
    lease.release()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_without_proc_a_process_is_recognized_where_the_hardware_has_an_address(
    tmp_path: Path, boot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, platform: str
):
    boot("one")
    monkeypatch.setattr(lease_module, "PID_NAMESPACE", tmp_path / "nothing")
    monkeypatch.setattr(sys, "platform", platform)
    machine = lease_module._this_machine()
    assert machine == lease_module._this_machine()
    lease_module._this_machine.cache_clear()  # in another process
    assert (machine == lease_module._this_machine()) == (platform == "darwin")


class HttpError(Exception):
    """What gcsfs raises is no OSError."""


@pytest.mark.parametrize(("name", "most"), [("write_text", 5), ("list_names", 1000)])
def test_the_heartbeat_survives_every_error_of_the_storage(
    tmp_path: Path, name: str, most: int, monkeypatch: pytest.MonkeyPatch
):
    lease, operation, failures = Lease(str(tmp_path)), getattr(lease_module, name), []

    def failing(*values: Any) -> Any:
        if threading.current_thread() is lease._heartbeat_thread and len(failures) < most:
            failures.append(HttpError("503 Service Unavailable"))
            raise failures[-1]
        return operation(*values)

    monkeypatch.setattr(lease_module, name, failing)
    for _ in range(600):
        lease._heartbeat_thread.join(timeout=0.1 if failures else 1)
        if failures:
            break
    assert failures
    assert lease._heartbeat_thread.is_alive()
    with raises_error(OutputError, "is being written by a live run"):  # by its heartbeat, as seen from another host
        monkeypatch.setattr(lease_module, "_this_machine", lambda: "another")
        Lease(str(tmp_path))
    lease.check()
    lease.release()


@pytest.fixture(params=["at a terminal", "in the background"])
def signal_handlers(request: pytest.FixtureRequest) -> Iterator[None]:
    """The command line turns SIGTERM into KeyboardInterrupt; a process in the background ignores SIGINT."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers: dict[int, Any] = {signal.SIGTERM: interrupt}
    if request.param == "in the background":
        handlers[signal.SIGINT] = signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signal_handlers")
def test_a_fenced_run_is_interrupted_and_may_not_write(tmp_path: Path):
    lease = Lease(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (outside this block it would end the test run)
        (tmp_path / "_run" / "leases" / "000002.json").write_text("{}")
        threading.Event().wait(600)
    with raises_error(
        OutputError, "was taken over by another run, because this run's heartbeat did not change for 1 s; let the other"
    ):
        lease.check()
    lease.release()
    assert holder_files(tmp_path) == ["000001.json", "000002.json"]  # a fenced run removes nothing


def acquire(output: str, barrier: Any, outcomes: Any) -> None:
    lease_module.HEARTBEAT_SECONDS, lease_module.WATCH_SECONDS = 0.1, 5.0
    barrier.wait()
    try:
        lease = Lease(output)
        outcomes.put("acquired")
        barrier.wait()
        lease.release()
    except OutputError as error:
        outcomes.put("refused" if "is being written by a live run" in str(error) else str(error))
        barrier.wait()


@pytest.mark.parametrize("round_", range(5))
def test_of_runs_that_start_at_the_same_moment_one_acquires_the_lease(tmp_path: Path, round_: int):
    if round_ % 2:
        leave_a_lease(tmp_path, pid=NO_SUCH_PID)
    fork = multiprocessing.get_context("fork")
    barrier, outcomes = fork.Barrier(4), fork.Queue()
    runs = [fork.Process(target=acquire, args=(str(tmp_path), barrier, outcomes)) for _ in range(4)]
    for run in runs:
        run.start()
    assert sorted(outcomes.get(timeout=600) for _ in runs) == ["acquired"] + ["refused"] * 3
    for run in runs:
        run.join()


class Overwriting(MemoryFileSystem):
    """An S3 server that ignores If-None-Match."""

    protocol = "overwriting"

    def pipe_file(self, path: Any, value: Any, mode: str = "overwrite", **options: Any) -> Any:
        return super().pipe_file(path, value, "overwrite", **options)


class Generic(MemoryFileSystem):
    """A file system that looks for a file, then writes it, as all do that do not override fsspec's pipe_file."""

    protocol = "generic"
    pipe_file = fsspec.AbstractFileSystem.pipe_file  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("LOCAL", True),
        ("memory://exclusive/out", True),
        ("overwriting://exclusive/out", False),
        ("generic://exclusive/out", False),
    ],
)
def test_storage_that_does_not_create_files_exclusively_is_recognized(tmp_path: Path, output: str, expected: bool):
    for filesystem in (Overwriting, Generic):
        fsspec.register_implementation(filesystem.protocol, filesystem, clobber=True)
    output = output.replace("LOCAL", str(tmp_path))
    assert is_exclusive(output) is expected
    assert list_folder(f"{output}/_run", "output").files == []  # the probe is removed
