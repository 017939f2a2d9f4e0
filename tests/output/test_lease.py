"""Only one live run may write to an output; a dead one's claim is taken over, wherever it ran."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import raises_error

from qa_ray.errors import OutputError
from qa_ray.output import lease as claims
from qa_ray.output.lease import Lease


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 1.0)


def numbers(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "_run" / "leases").glob("*.json"))


def leave_a_claim(output: Path, **owner: Any) -> None:
    """The claim of a run that ended without a word."""
    lease = Lease(str(output))
    lease._ended.set()
    lease._beats.join()
    file = output / "_run" / "leases" / "000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | owner))


def test_a_claim_that_was_released_leaves_nothing(tmp_path: Path):
    Lease(str(tmp_path)).release()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("owner", [{}, {"machine": "another", "process": 1}, {"process": 2**22 + 1}])
def test_the_claim_of_a_dead_run_is_taken_over(tmp_path: Path, owner: dict[str, Any]):
    leave_a_claim(tmp_path, **owner)
    lease = Lease(str(tmp_path))
    assert numbers(tmp_path) == ["000001.json", "000002.json"]
    lease.check()
    lease.release()


def test_a_claim_that_was_not_written_to_its_end_is_taken_over(tmp_path: Path):
    leave_a_claim(tmp_path)
    (tmp_path / "_run" / "leases" / "000001.json").write_text("")
    Lease(str(tmp_path)).release()


def test_a_live_run_on_another_machine_is_known_by_its_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lease = Lease(str(tmp_path))
    monkeypatch.setattr(claims, "_machine", lambda: "another")
    with raises_error(OutputError, f"is being written by a live run (process {os.getpid()} on "):
        Lease(str(tmp_path))
    lease.release()
    Lease(str(tmp_path)).release()


@pytest.fixture(params=["at a terminal", "in the background"])
def started(request: pytest.FixtureRequest) -> Iterator[None]:
    """The command line makes a KeyboardInterrupt of SIGTERM; in the background SIGINT is ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers: dict[int, Any] = {signal.SIGTERM: interrupt}
    if request.param == "in the background":
        handlers[signal.SIGINT] = signal.SIG_IGN
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("started")
def test_a_run_that_was_taken_for_dead_is_interrupted_and_may_write_no_more(tmp_path: Path):
    lease = Lease(str(tmp_path))
    (tmp_path / "_run" / "leases" / "000002.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(30)
    with raises_error(OutputError, "was taken over by another run, because this one gave no sign of life for 1 s"):
        lease.check()
    lease.release()
    assert numbers(tmp_path) == ["000001.json", "000002.json"]  # not ours to remove


def start(output: str, barrier: Any, outcome: Any) -> None:
    claims.HEARTBEAT_SECONDS, claims.WATCH_SECONDS = 0.1, 5.0
    barrier.wait()
    try:
        lease = Lease(output)
        outcome.put("runs")
        barrier.wait()
        lease.release()
    except OutputError as error:
        outcome.put("refused" if "is being written by a live run" in str(error) else str(error))
        barrier.wait()


@pytest.mark.parametrize("round_", range(5))
def test_of_runs_that_start_at_the_same_moment_one_runs(tmp_path: Path, round_: int):
    if round_ % 2:
        leave_a_claim(tmp_path, process=2**22 + 1)
    fork = multiprocessing.get_context("fork")
    barrier, outcome = fork.Barrier(4), fork.Queue()
    starters = [fork.Process(target=start, args=(str(tmp_path), barrier, outcome)) for _ in range(4)]
    for starter in starters:
        starter.start()
    assert sorted(outcome.get(timeout=60) for _ in starters) == ["refused"] * 3 + ["runs"]
    for starter in starters:
        starter.join()
