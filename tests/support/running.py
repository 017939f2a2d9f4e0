"""Helpers for tests of jobs: write tables and configs, run the command line, read and compare the output."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_ray.config import AnswerConfig, Section, check_config

T = TypeVar("T")
File = pa.Table | list[dict[str, Any]] | bytes

DOCUMENT = {"document_id": "a", "text": "Ada Vane built the lighthouse in 1871."}
QUESTION = {"question_id": "q", "document_id": "a", "question": "Who built it?"}


def write_job(
    folder: Path,
    model: str,
    documents: File | tuple[File, ...] | None = None,
    questions: File | tuple[File, ...] | None = None,
    row_group_size: int = 8,
    **settings: Any,
) -> AnswerConfig:
    """The config of a job on these tables. A table, rows or raw bytes are one file; a tuple of them is several."""
    documents = [DOCUMENT] if documents is None else documents
    questions = [QUESTION] if questions is None else questions
    for name, files in (("documents", documents), ("questions", questions)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, file in enumerate(files if isinstance(files, tuple) else (files,)):
            write_file(folder / name / f"part-{i}.parquet", file, row_group_size)
    paths = {name: str(folder / name) for name in ("documents", "questions", "output")}
    runner = {"device": "cpu", "dtype": "float32", "actors": 1, "cpus_per_actor": 1}
    return check_config(AnswerConfig, {**paths, "model": model, "runner": runner, **settings}, "test")


def write_file(path: Path, content: File, row_group_size: int) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    table = content if isinstance(content, pa.Table) else pa.Table.from_pylist(content)
    pq.write_table(table, path, row_group_size=row_group_size)


@contextmanager
def raises_error(error_class: type[Exception], *messages: str) -> Iterator[None]:
    """The block must raise this error, and its message must be one line that contains each of these."""
    with pytest.raises(error_class) as error:
        yield
    for message in messages:
        assert message in str(error.value)
    assert "\n" not in str(error.value)


def one_of(names: Iterable[str]) -> str:
    """The names as an error lists them: "'a', 'b' or 'c'"."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


def changed(config: AnswerConfig, **settings: Any) -> AnswerConfig:
    """The same job with other settings."""
    return check_config(AnswerConfig, config.model_dump() | settings, "test")


def not_utf8(*values: bytes | None) -> pa.Array:
    """A string column with these bytes, which Arrow does not validate, as careless writers produce them."""
    return pa.array(values, pa.binary()).view(pa.string())


def read_rows(config: AnswerConfig, name: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of ``answers`` or ``rejects``, sorted by id."""
    folder = Path(config.output) / name
    rows = pq.read_table(folder, columns=columns).to_pylist() if folder.is_dir() else []
    return sorted(rows, key=lambda row: (row["document_id"], row["question_id"]))


def assert_nothing_lost(config: AnswerConfig, pairs: Sequence[tuple[str, str]], manifest: dict[str, Any]) -> None:
    """Every (document, question) is answered or rejected exactly once, and the output is complete."""
    written = [
        (row["document_id"], row["question_id"])
        for name in ("answers", "rejects")
        for row in read_rows(config, name, ["document_id", "question_id"])
    ]
    assert sorted(written) == sorted(pairs)
    assert manifest["counts"]["answers"] + manifest["counts"]["rejects"] == len(pairs)
    assert (Path(config.output) / "_SUCCESS").is_file()
    assert not (Path(config.output) / "_run").exists()


def assert_same_answers(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The rows are equal one by one, their scores to 1e-6, whichever run answered them."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert _without_scores(a) == _without_scores(b)
        assert _scores(a) == pytest.approx(_scores(b), abs=1e-6)


def _without_scores(row: dict[str, Any]) -> dict[str, Any]:
    spans = [{name: value for name, value in span.items() if name != "score"} for span in row["n_best"]]
    return {name: value for name, value in row.items() if "score" not in name and name != "run_id"} | {"n_best": spans}


def _scores(row: dict[str, Any]) -> list[float]:
    return [row["score"], row["no_answer_score"], *(span["score"] for span in row["n_best"])]


def write_config(folder: Path, config: Section) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(config.model_dump()))
    return path


@contextmanager
def command_line(config: Path, log: Path, hook: str | None = None, verb: str = "answer") -> Iterator[subprocess.Popen]:
    """``qa-ray answer CONFIG``, or another verb, with its output in ``log``; the block's end kills what is left of it.

    ``hook`` is the function of hooked.py that patches the workers.
    """
    here = Path(__file__).parent
    command = [here / "hooked.py", hook, config] if hook else ["-m", "qa_ray", verb, config]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
        )
    try:
        yield process
    finally:
        kill_session(process)


def kill_session(process: subprocess.Popen) -> None:
    """Sends SIGKILL to the command and every process that it started, by id, and waits until they are gone."""
    pids = [process.pid, *descendants(process.pid)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The ids of the children of ``pid``, of their children, and so on."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = int(fields[1])
    children = [child for child, parent in parents.items() if parent == pid]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def title(pid: int) -> str:
    """The command line of the process, which Ray's workers replace by a title."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(condition: Callable[[], T], process: subprocess.Popen, log: Path, seconds: float = 900) -> T:
    """The value of ``condition()`` once it is true; fails if the process ends before that.

    The limit only ends what hangs: on a busy machine Ray alone can take minutes to start.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return value


@contextmanager
def small_disk(folder: Path, options: str = "rw") -> Iterator[Path]:
    """A file system of 1 MB in memory; skips the test unless it runs as root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=1m,{options}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Writes a file until the file system is full."""
    path = folder / "filler"
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        while os.write(file, b"x" * 4096):
            pass
    except OSError:
        pass
    finally:
        os.close(file)
    return path
