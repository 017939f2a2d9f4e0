"""A document that crashes or blocks its worker becomes a reject, and all others are answered."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.data import DataContext
from running import assert_nothing_lost, changed, command_line, raises_error, read_rows, write_config, write_job
from stuck_file import stuck_file

from qa_ray.answering import job
from qa_ray.answering.crash_guard import MAX_CRASHES, CrashGuard, run_guarded
from qa_ray.answering.job import answer_documents
from qa_ray.answering.part_files import list_parts
from qa_ray.answering.watchdog import Watchdog
from qa_ray.config import AnswerConfig, Limits
from qa_ray.errors import InputError, JobError
from qa_ray.output import publish
from qa_ray.output.folder import inspect_output
from qa_ray.output.verify import verify
from qa_ray.runtime import datasource


class LocalActor:
    """A CrashGuard in this process that is called like an actor; the test replaces ``ray.get``."""

    def __init__(self):
        self._crash_guard = CrashGuard()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._crash_guard, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Crash(BaseException):
    pass


@pytest.mark.parametrize("deadly", [set(), {"c"}, {"a", "d"}, {"a", "b", "c", "d"}])
def test_a_block_is_retried_until_only_the_documents_that_crash_are_rejected(
    monkeypatch: pytest.MonkeyPatch, deadly: set[str]
):
    monkeypatch.setattr("ray.get", lambda result: result)
    guard, ids = LocalActor(), ["a", "b", "c", "d"]

    def read(rows: list[int]) -> list[str]:
        if any(ids[row] in deadly for row in rows):
            raise Crash
        return [f"read {ids[row]}" for row in rows]

    def attempt() -> list[str]:
        return run_guarded(
            guard,
            Watchdog(None),
            "logits",
            ids,
            batched=lambda: read([0, 1, 2, 3]),
            one_by_one=lambda row: read([row])[0],
            on_failure=lambda row, reason, detail: f"{reason}: {detail}",
        )

    num_crashes = 0
    while True:
        try:
            results = attempt()
            break
        except Crash:
            num_crashes += 1
    assert num_crashes == (1 + MAX_CRASHES * len(deadly) if deadly else 0)
    for id_, result in zip(ids, results, strict=True):
        detail = f"process_died: the worker process died {MAX_CRASHES} times while it processed document {id_!r} alone"
        assert result == f"read {id_}" or (id_ in deadly and detail in result)
    deadly.clear()
    assert attempt() == ["read a", "read b", "read c", "read d"]  # the crashes are forgotten


def test_the_error_for_which_a_process_ended_itself_is_in_the_reject(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.get", lambda result, timeout=None: result)
    guard, error = LocalActor(), "CUDA error: an illegal memory access was encountered"

    def fail(row: int) -> str:
        guard.add_error.remote("logits", "bad", error)
        raise Crash

    def attempt() -> list[str]:
        return run_guarded(
            guard,
            Watchdog(None),
            "logits",
            ["bad"],
            batched=lambda: [fail(0)],
            one_by_one=fail,
            on_failure=lambda row, reason, detail: detail,
        )

    for _ in range(1 + MAX_CRASHES):
        with pytest.raises(Crash):
            attempt()
    detail = f"the worker process died {MAX_CRASHES} times while it processed document 'bad' alone; its last error: "
    assert attempt() == [detail + error]


class StoppingWatchdog:
    """Reports and ends the "process" as soon as a block with a document called "stuck" is watched."""

    timeout_s = 600.0

    def __init__(self):
        self.is_stuck = False

    @contextmanager
    def watching(self, report: Callable[[], object] = lambda: None) -> Iterator[None]:
        self.is_stuck = False
        yield
        if self.is_stuck:
            report()
            raise Crash


def test_a_document_that_times_out_alone_is_rejected_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.get", lambda result, timeout=None: result)
    guard, watchdog, ids = LocalActor(), StoppingWatchdog(), ["a", "stuck", "b"]

    def read(rows: list[int]) -> list[str]:
        watchdog.is_stuck = any(ids[row] == "stuck" for row in rows)
        return [f"read {ids[row]}" for row in rows]

    def attempt() -> list[str]:
        return run_guarded(
            guard,
            watchdog,  # pyright: ignore[reportArgumentType]
            "logits",
            ids,
            batched=lambda: read([0, 1, 2]),
            one_by_one=lambda row: read([row])[0],
            on_failure=lambda row, reason, detail: f"{reason}: {detail}",
        )

    for _ in range(2):  # in its block, then alone
        with pytest.raises(Crash):
            attempt()
    detail = (
        "timed_out: document 'stuck' made no progress for limits.block_timeout_s=600 seconds while it was processed "
        "alone; if it is only slow, raise the limit and retry the rejects"
    )
    assert attempt() == ["read a", detail, "read b"]
    ids[1] = "c"
    assert attempt() == ["read a", "read c", "read b"]  # in one batch again


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> AnswerConfig:
    """A finished job in which three documents crashed their workers; a fourth is blank, and a fifth unknown."""
    folder = tmp_path_factory.mktemp("poisoned")
    texts = ["Ada Vane built the lighthouse in 1871."] * 12
    texts[4], texts[9], texts[10] = "This is deadly to read.", "And this is deadly to tokenize.", " "
    texts[6] = "This is deadly to the GPU."
    documents = [{"document_id": f"d{i:02}", "text": text, "nr": i} for i, text in enumerate(texts)]
    config = write_job(
        folder, models["bert"], documents, QUESTIONS, limits={"max_rejected_fraction": 0.5}, export=["jsonl"]
    )
    path = write_config(folder, config)
    with command_line(path, folder / "log", "poison") as process:
        assert process.wait(900) == 3, (folder / "log").read_text()
    return config


QUESTIONS = [
    {"question_id": "q", "question": "Who built it?", "document_id": None},
    {"question_id": "who", "question": "Who?", "document_id": "nowhere"},
]
PAIRS = [*((f"d{i:02}", "q") for i in range(12)), ("nowhere", "who")]


def test_documents_that_abort_the_process_are_rejected_and_their_neighbors_answered(poisoned: AnswerConfig):
    assert_nothing_lost(poisoned, PAIRS, answer_documents(poisoned))
    rejects = read_rows(poisoned, "rejects")
    assert [(row["document_id"], row["stage"], row["reason"]) for row in rejects] == [
        ("d04", "logits", "process_died"),
        ("d06", "logits", "process_died"),
        ("d09", "tokens", "process_died"),
        ("d10", "documents", "blank_text"),
        ("nowhere", "documents", "unknown_document"),
    ]
    assert "the worker process died 3 times while it processed document 'd04' alone" in rejects[0]["detail"]


@pytest.mark.usefixtures("ray_session")
def test_a_retry_answers_the_rejects_and_runs_nothing_else(poisoned: AnswerConfig, monkeypatch: pytest.MonkeyPatch):
    """The workers of this session do not crash: as if there were enough memory now."""
    first, before = answer_documents(poisoned), read_rows(poisoned, "answers")
    again = changed(poisoned, retry_rejects=True, limits={"max_rejected_fraction": 0})  # does not apply to a retry
    with monkeypatch.context() as patch:
        patch.setattr(publish, "create_text", interrupt)  # between the new answers and the manifest
        with pytest.raises(KeyboardInterrupt):
            answer_documents(again)
    assert answer_documents(poisoned) == first  # nothing changed, and what was not committed is removed
    assert verify(poisoned.output).problems == []
    manifest = answer_documents(again)
    assert_nothing_lost(poisoned, PAIRS, manifest)
    assert manifest["counts"]["rejects_by_reason"] == {"blank_text": 1, "unknown_document": 1}
    assert [retry["answers"] for retry in manifest["retries"]] == [3]
    answers = read_rows(poisoned, "answers")
    new = [row for row in answers if row["nr"] in (4, 6, 9)]
    assert [row["document_id"] for row in new] == ["d04", "d06", "d09"]
    assert [row for row in answers if row not in new] == before
    names = ["_SUCCESS", "answers", "exports", "manifest-2.json", "manifest-3.json", "manifest.json", "rejects"]
    names += ["run.json", "run.log"]
    assert sorted(os.listdir(poisoned.output)) == names
    exported = Path(poisoned.output) / "exports" / "jsonl"
    assert sorted(os.listdir(exported)) == [file["name"] for file in manifest["files"]["exports/jsonl"]]
    rows = [json.loads(line) for file in exported.iterdir() for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted(rows, key=lambda row: row["document_id"]) == answers
    assert answer_documents(poisoned) == manifest


def interrupt(*values: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("ray_session")
def test_a_job_with_too_many_rejects_ends_early_with_the_reason(tmp_path: Path, models):
    documents = [{"document_id": f"d{i:03}", "text": "Ada Vane built it." if i % 2 else ""} for i in range(200)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    config = write_job(tmp_path, models["bert"], documents, questions)
    with raises_error(
        JobError,
        " of 200 questions were rejected already (empty_text ",
        "), more than limits.max_rejected_fraction=0.05; the last one: document 'd",
        "' has an empty text; raise the limit and run the same command again: finished documents are kept; or fix the "
        "input and give a new output folder, because another input is another run",
    ):
        answer_documents(config)


def test_documents_that_block_the_process_are_rejected_and_slow_ones_answered(tmp_path: Path, models: dict[str, str]):
    texts = ["Ada Vane built the lighthouse in 1871."] * 12
    texts[1], texts[5] = "This is stuck while it is read.", "This is frozen while it is tokenized."
    texts[7] = "This is slow: the model takes a second for each of its windows. " + "Ada Vane built it. " * 60
    documents = [{"document_id": f"d{i:02}", "text": text} for i, text in enumerate(texts)]
    config = write_job(
        tmp_path, models["bert"], documents, QUESTIONS[:1], limits={"block_timeout_s": 4, "max_rejected_fraction": 0.5}
    )
    config = changed(config, runner=config.runner.model_dump() | {"batch_tokens": 1})  # a window a batch
    with command_line(write_config(tmp_path, config), tmp_path / "log", "stall") as process:
        assert process.wait(900) == 3, (tmp_path / "log").read_text()
    assert_nothing_lost(config, PAIRS[:12], manifest := json.loads((tmp_path / "output/manifest.json").read_text()))
    assert manifest["counts"]["rejects_by_reason"] == {"timed_out": 1, "process_died": 1}
    rejects = [(row["document_id"], row["stage"], row["reason"], row["detail"]) for row in read_rows(config, "rejects")]
    assert rejects == [
        (
            "d01",
            "logits",
            "timed_out",
            "document 'd01' made no progress for limits.block_timeout_s=4 seconds while it was processed alone; if it "
            "is only slow, raise the limit and retry the rejects",
        ),
        ("d05", "tokens", "process_died", rejects[1][3]),
    ]
    assert "or native code that kept Python from running for limits.block_timeout_s=4 seconds" in rejects[1][3]
    slow = next(row for row in read_rows(config, "answers") if row["document_id"] == "d07")
    assert slow["num_windows"] > 6


@pytest.mark.usefixtures("ray_session")
def test_a_stuck_file_fails_the_job_with_its_name_once_all_others_are_answered(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    files = tuple([{"document_id": f"d{i}", "text": "Ada Vane built it."}] for i in range(3))
    config = write_job(tmp_path, models["bert"], files, QUESTIONS[:1], limits={"block_timeout_s": 3})
    monkeypatch.setattr(datasource, "TASK_BYTES", 1)  # a task a file
    path = tmp_path / "documents" / "part-1.parquet"
    with ExitStack() as stack, monkeypatch.context() as patch:
        make_plan = job.make_plan

        def plan_then_stick(config: AnswerConfig) -> Any:
            plan = make_plan(config)
            stack.enter_context(stuck_file(path))
            return plan

        patch.setattr(job, "make_plan", plan_then_stick)
        with raises_error(InputError, f"row group 0 of '{path}' gave no row for limits.block_timeout_s=3 seconds"):
            answer_documents(config)
    parts = inspect_output(config.output, make_plan(config).identity).parts
    finished = list_parts(parts, "document_id", make_plan(config).documents.hash_key)
    assert sorted(part.first_id for part in finished) == ["d0", "d2"]  # its neighbors are answered
    assert_nothing_lost(config, [(f"d{i}", "q") for i in range(3)], answer_documents(config))


@pytest.mark.usefixtures("ray_session")
def test_a_block_may_take_longer_than_the_time_that_ray_waits_for_a_block(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """Only loading the model takes longer than a second here."""
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1)
    assert answer_documents(write_job(tmp_path, models["bert"]))["counts"]["answers"] == 1


@pytest.mark.usefixtures("ray_session")
def test_a_retry_has_the_time_out_of_the_config(poisoned: AnswerConfig, monkeypatch: pytest.MonkeyPatch):
    limits: list[Limits] = []

    def answer_unfinished(plan: Any, *_: object) -> None:
        limits.append(plan.config.limits)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "answer_unfinished", answer_unfinished)
    with pytest.raises(KeyboardInterrupt):
        answer_documents(changed(poisoned, retry_rejects=True, limits={"block_timeout_s": 7}))
    assert limits == [Limits(max_rejected_fraction=1, block_timeout_s=7)]
