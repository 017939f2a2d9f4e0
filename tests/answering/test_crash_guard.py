"""A document that crashes its worker becomes a reject, and all others are answered."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from running import assert_nothing_lost, changed, command_line, raises_error, read_rows, write_config, write_job

from qa_ray.answering.crash_guard import MAX_CRASHES, CrashGuard, run_guarded
from qa_ray.answering.job import answer_documents
from qa_ray.config import AnswerConfig
from qa_ray.errors import JobError
from qa_ray.output import publish


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
            "logits",
            ids,
            batched=lambda: read([0, 1, 2, 3]),
            one_by_one=lambda row: read([row])[0],
            on_crash=lambda row, detail: detail,
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
        detail = f"the worker process died {MAX_CRASHES} times while it processed document {id_!r} alone"
        assert result == f"read {id_}" or (id_ in deadly and detail in result)
    deadly.clear()
    assert attempt() == ["read a", "read b", "read c", "read d"]  # the crashes are forgotten


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> AnswerConfig:
    """A finished job in which two documents crashed their workers; a third is blank, and a fourth unknown."""
    folder = tmp_path_factory.mktemp("poisoned")
    texts = ["Ada Vane built the lighthouse in 1871."] * 12
    texts[4], texts[9], texts[10] = "This is deadly to read.", "And this is deadly to tokenize.", " "
    documents = [{"document_id": f"d{i:02}", "text": text, "nr": i} for i, text in enumerate(texts)]
    config = write_job(
        folder, models["bert"], documents, QUESTIONS, limits={"max_rejected_fraction": 0.5}, export=["jsonl"]
    )
    path = write_config(folder, config)
    with command_line(path, folder / "log", "poison") as process:
        assert process.wait(500) == 3, (folder / "log").read_text()
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
        patch.setattr(publish, "write_text", interrupt)  # between the new answers and the manifest
        with pytest.raises(KeyboardInterrupt):
            answer_documents(again)
    assert answer_documents(poisoned) == first  # the manifest is unchanged
    manifest = answer_documents(again)
    assert_nothing_lost(poisoned, PAIRS, manifest)
    assert manifest["counts"]["rejects_by_reason"] == {"blank_text": 1, "unknown_document": 1}
    assert [retry["answers"] for retry in manifest["retries"]] == [2]
    answers = read_rows(poisoned, "answers")
    new = [row for row in answers if row["nr"] in (4, 9)]
    assert [row["document_id"] for row in new] == ["d04", "d09"]
    assert [row for row in answers if row not in new] == before
    names = ["_SUCCESS", "answers", "exports", "manifest.json", "rejects", "run.json", "run.log"]
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
        "' has an empty text; fix the input or raise the limit and run the same command again: finished documents are "
        "kept",
    ):
        answer_documents(config)
