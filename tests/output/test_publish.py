"""Publication survives every interleaving: a run killed or suspended before any of its storage operations.

For every operation n of a run, of a retry of rejects, and of the end of a fine-tuning: killed there and started again;
suspended there, as a laptop is, until another run has finished, then resumed. The table is the same, always.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from fsspec import asyn
from parts import part_of, plan_of
from s3_server import S3Server, bucket, s3_server
from stepped import FENCED, FINISHED, SteppedProcess

from qa_ray.answering.commit import commit, commit_retry
from qa_ray.answering.part_files import finished_documents, list_parts, write_part
from qa_ray.answering.retry_rejects import rejected_questions
from qa_ray.config.sections import StorageSettings
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids, is_in
from qa_ray.io.storage import configure_s3, join, open_filesystem, read_text, write_text
from qa_ray.output.acquire import acquire_output
from qa_ray.output.publish import uncommitted
from qa_ray.output.read import read_answers
from qa_ray.output.verify import verify
from qa_ray.training.job import finish

REJECTED = "d3"  # until it is retried
IDENTITY = {"model": "m"}
IDS = [f"d{i}" for i in range(6)]
SETTINGS = (
    '{"epoch": 1, "fitted": {"before": {}, "after": {"score_slope": 1}, "kept": {"score_slope": "few"}}}'  # of a model
)
PAIRS = [*IDS, "nowhere"]  # the documents of the questions


def answer_unfinished(output: Any, ids: list[str], rejected: str | None) -> list[Any]:
    """Writes part files of two documents each for those that have none; one document is in two of them."""
    parts = list_parts(output.parts, "document_id", HASH_KEYS[0])
    finished = finished_documents(parts)
    unfinished = [id_ for id_ in ids if not is_in(hash_ids(pa.array([id_]), HASH_KEYS[0]), finished)]
    for i in range(0, len(unfinished), 2):
        write_part(output.parts, part_of(unfinished[max(0, i - 1) : i + 2], rejected))
    return parts


@dataclass(frozen=True)
class Place:
    """Where the outputs of a test are."""

    uri: str
    storage: StorageSettings
    heartbeat_s: float

    def run(self, output: str) -> None:
        """The answer job."""
        with acquire_output(output, IDENTITY) as acquired:
            if not acquired.finished:
                parts = answer_unfinished(acquired, IDS, REJECTED)
                commit(plan_of(IDS, PAIRS, self.storage), acquired, {}, parts)

    def retry(self, output: str) -> None:
        """The answer job with retry_rejects, on a finished output."""
        with acquire_output(output, IDENTITY, retry=True) as acquired:
            if not rejected_questions(acquired).num_bound:
                acquired.complete()
                return
            answer_unfinished(acquired, [REJECTED], None)
            commit_retry(plan_of(IDS, PAIRS[3:4], self.storage), acquired, {})

    def finetune(self, output: str) -> None:
        """The end of a fine-tuning: its best checkpoint is there."""
        with acquire_output(output, IDENTITY) as acquired:
            if acquired.finished:
                return
            checkpoint = join(output, "_run", "train", "checkpoint_1", "model")
            for name, content in {"qa_ray.json": SETTINGS, "config.json": "{}", "weights": "x" * 1000}.items():
                if read_text(join(checkpoint, name)) is None:
                    write_text(join(checkpoint, name), content)
            data = SimpleNamespace(counts={}, rejects=Counter(), reject_files=[])
            best = SimpleNamespace(path=open_filesystem(join(output, "_run", "train", "checkpoint_1"))[1])
            plan = SimpleNamespace(config=SimpleNamespace(about={}), inputs={})
            finish(plan, acquired, data, best, [{"epoch": 1, "f1": 1.0}])  # pyright: ignore


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(str(tmp_path), StorageSettings(), heartbeat_s=0.05)


@pytest.fixture(scope="module")
def on_s3(server: S3Server) -> Place:
    storage = StorageSettings(endpoint_url=server.endpoint_url, addressing_style="path")
    configure_s3(**storage.model_dump())
    bucket(server.endpoint_url, "publish")
    return Place("s3://publish", storage, heartbeat_s=0.05)


def rows(output: str) -> list[tuple[Any, ...]]:
    table = read_answers(output).to_table(columns=["document_id", "question_id", "answer"])
    return sorted(tuple(row.values()) for row in table.to_pylist())


def answered(*ids: str) -> list[tuple[Any, ...]]:
    return [(id_, "q", "Ada") for id_ in sorted(ids)]


def check_answers(output: str) -> None:
    assert rows(output) == answered(*(id_ for id_ in IDS if id_ != REJECTED))


def check_retried(output: str) -> None:
    assert rows(output) == answered(*IDS)


def check_model(output: str) -> None:
    assert read_text(join(output, "model", "weights")) == "x" * 1000
    assert read_text(join(output, "model", "qa_ray.json")) == SETTINGS


@dataclass(frozen=True)
class Case:
    """What is done to an output that ``prepare`` made, and what must be there afterwards."""

    name: str
    prepare: Callable[[Place, str], object]
    work: Callable[[Place, str], object]
    check: Callable[[str], None]


CASES = [
    Case("run", lambda place, output: None, Place.run, check_answers),
    Case("retry", Place.run, Place.retry, check_retried),
    Case("finetune", lambda place, output: None, Place.finetune, check_model),
]
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def problems_that_a_reader_meets(output: str) -> list[str]:
    return [problem for problem in verify(output).problems if not problem.startswith("_run")]


def finish_and_check(case: Case, place: Place, output: str, log: Path) -> None:
    """The same command again brings the output to a tidy end."""
    again = SteppedProcess(lambda: case.work(place, output), log, place.heartbeat_s)
    assert again.stopped_or_exit_code() == FINISHED, again.log
    case.check(output)
    assert verify(output).problems == [], log
    filesystem, path = open_filesystem(output)
    names = {str(name).rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)}
    assert not {name for name in names if name.startswith(("_run", "."))}


def killed_before(number: int, case: Case, place: Place, folder: Path) -> bool:
    """Whether there is an operation of this number; the run is killed before it, and started again."""
    output = join(place.uri, f"{case.name}-kill-{number}")
    case.prepare(place, output)
    log = folder / f"{case.name}-kill-{number}.log"
    process = SteppedProcess(lambda: case.work(place, output), log, place.heartbeat_s, number, signal.SIGKILL)
    outcome = process.stopped_or_exit_code()
    assert outcome in (-signal.SIGKILL, FINISHED), process.log
    if is_published(output):
        assert problems_that_a_reader_meets(output) == [], process.log
    finish_and_check(case, place, output, folder / "again.log")
    return outcome != FINISHED


def suspended_before(number: int, case: Case, place: Place, folder: Path) -> bool:
    """Whether there is an operation of this number; the run is suspended before it until another one has finished."""
    output = join(place.uri, f"{case.name}-stop-{number}")
    case.prepare(place, output)
    log = folder / f"{case.name}-stop-{number}.log"
    process = SteppedProcess(lambda: case.work(place, output), log, place.heartbeat_s, number, signal.SIGSTOP)
    outcome = process.stopped_or_exit_code()
    if outcome == FINISHED:
        return False
    assert outcome == -signal.SIGSTOP, process.log
    try:
        other = SteppedProcess(lambda: case.work(place, output), folder / "other.log", place.heartbeat_s)
        assert other.stopped_or_exit_code() == FINISHED, process.log + other.log
        case.check(output)
        assert problems_that_a_reader_meets(output) == [], process.log
    finally:
        process.resume()
        outcome = process.stopped_or_exit_code()
    assert outcome in (FINISHED, FENCED), process.log
    case.check(output)
    assert problems_that_a_reader_meets(output) == [], process.log
    finish_and_check(case, place, output, folder / "again.log")
    return True


def is_published(output: str) -> bool:
    """Whether a reader would take the results for complete."""
    return open_filesystem(output)[0].exists(join(open_filesystem(output)[1], "_SUCCESS"))


def for_every_operation(stop: Callable[..., bool], case: Case, place: Place, folder: Path, every: int = 1) -> int:
    number = 0
    while stop(number, case, place, folder):
        number += every
    return number


@by_name
def test_a_run_killed_before_any_operation_is_finished_by_the_same_command(case: Case, local: Place, tmp_path: Path):
    assert for_every_operation(killed_before, case, local, tmp_path) > 20


@by_name
def test_a_run_suspended_before_any_operation_cannot_damage_what_another_run_finished(
    case: Case, local: Place, tmp_path: Path
):
    assert for_every_operation(suspended_before, case, local, tmp_path) > 20


def test_a_file_that_is_being_written_when_a_run_is_fenced_is_removed(tmp_path: Path):
    output = acquire_output(str(tmp_path / "out"), IDENTITY)
    file = tmp_path / "out" / "answers" / f"part-00000-{output.attempt}.parquet"

    async def write() -> None:
        await asyncio.sleep(0.3)
        file.parent.mkdir()
        file.touch()

    def interrupted() -> None:
        with output, uncommitted(output):
            asyncio.run_coroutine_threadsafe(write(), asyn.get_loop())  # as a request to object storage
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.parent.is_dir()
    assert not file.exists()


# On the server an operation takes some 20 ms, and a case some seconds. CI draws a line through all of them.
on_every_operation_or_some = pytest.mark.parametrize(
    "every", [pytest.param(29, id="some"), pytest.param(1, id="every", marks=pytest.mark.slow)]
)


@by_name
@on_every_operation_or_some
@pytest.mark.parametrize("stop", [killed_before, suspended_before])
def test_the_same_holds_on_s3(stop: Callable[..., bool], every: int, case: Case, on_s3: Place, tmp_path: Path):
    assert for_every_operation(stop, case, on_s3, tmp_path, every) > 20
