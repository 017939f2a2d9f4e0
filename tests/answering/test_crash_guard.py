"""A document that kills its process becomes a reject, and all others are answered."""

import os
from pathlib import Path
from typing import Any

import pytest
from running import assert_nothing_lost, changed, command_line, raises_error, read_rows, write_config, write_job

from qa_ray.answering.crash_guard import MAX_DEATHS, CrashGuard, run_guarded
from qa_ray.answering.job import answer_documents
from qa_ray.config import AnswerConfig
from qa_ray.errors import JobError


class Local:
    """An Attempts that is called like an actor; ``ray.get`` is told of its results by the test."""

    def __init__(self):
        self._crash_guard = CrashGuard()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._crash_guard, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Died(BaseException):
    pass


@pytest.mark.parametrize("poison", [set(), {"c"}, {"a", "d"}, {"a", "b", "c", "d"}])
def test_a_block_is_read_again_until_only_its_poison_is_given_up(monkeypatch: pytest.MonkeyPatch, poison: set[str]):
    monkeypatch.setattr("ray.get", lambda result: result)
    crash_guard, ids = Local(), ["a", "b", "c", "d"]

    def read(rows: list[int]) -> list[str]:
        if any(ids[row] in poison for row in rows):
            raise Died
        return [f"read {ids[row]}" for row in rows]

    def once() -> list[str]:
        return run_guarded(
            crash_guard,
            "logits",
            ids,
            together=lambda: read([0, 1, 2, 3]),
            alone=lambda row: read([row])[0],
            give_up=lambda row, detail: detail,
        )

    deaths = 0
    while True:
        try:
            found = once()
            break
        except Died:
            deaths += 1
    assert deaths == (1 + MAX_DEATHS * len(poison) if poison else 0)
    for id_, result in zip(ids, found, strict=True):
        assert result == f"read {id_}" or (id_ in poison and f"document {id_!r} died {MAX_DEATHS} times" in result)
    poison.clear()
    assert once() == ["read a", "read b", "read c", "read d"]  # nothing is held against them


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> AnswerConfig:
    """A finished job in which two documents killed their processes; a third is blank, and a fourth unknown."""
    folder = tmp_path_factory.mktemp("poisoned")
    texts = ["Ada Vane built the lighthouse in 1871."] * 12
    texts[4], texts[9], texts[10] = "This is deadly to read.", "And this is deadly to tokenize.", " "
    documents = [{"document_id": f"d{i:02}", "text": text, "nr": i} for i, text in enumerate(texts)]
    config = write_job(folder, models["bert"], documents, QUESTIONS, limits={"max_rejected_fraction": 0.5})
    path = write_config(folder, config)
    with command_line(path, folder / "log", "poison") as process:
        assert process.wait(500) == 3, (folder / "log").read_text()
    return config


QUESTIONS = [
    {"question_id": "q", "question": "Who built it?", "document_id": None},
    {"question_id": "who", "question": "Who?", "document_id": "nowhere"},
]
PAIRS = [*((f"d{i:02}", "q") for i in range(12)), ("nowhere", "who")]


def test_documents_that_abort_the_process_are_rejected_and_their_neighbours_answered(poisoned: AnswerConfig):
    assert_nothing_lost(poisoned, PAIRS, answer_documents(poisoned))
    rejects = read_rows(poisoned, "rejects")
    assert [(row["document_id"], row["stage"], row["reason"]) for row in rejects] == [
        ("d04", "logits", "process_died"),
        ("d09", "tokens", "process_died"),
        ("d10", "documents", "blank_text"),
        ("nowhere", "documents", "unknown_document"),
    ]
    assert "the process that read document 'd04' died 3 times, reading nothing else" in rejects[0]["detail"]


@pytest.mark.usefixtures("ray_session")
def test_rejects_are_tried_again_and_nothing_else_is_run(poisoned: AnswerConfig, monkeypatch: pytest.MonkeyPatch):
    """The processes of this session do not die: as if there were memory enough now."""
    first, before = answer_documents(poisoned), read_rows(poisoned, "answers")
    again = changed(poisoned, retry_rejects=True, limits={"max_rejected_fraction": 0})  # which counts not here
    with monkeypatch.context() as patch:
        patch.setattr(
            "qa_ray.answering.retry_rejects.write_text", interrupt
        )  # between the new answers and the manifest
        with pytest.raises(KeyboardInterrupt):
            answer_documents(again)
    assert answer_documents(poisoned) == first  # it still stands as it was
    manifest = answer_documents(again)
    assert_nothing_lost(poisoned, PAIRS, manifest)
    assert manifest["counts"]["rejects_by_reason"] == {"blank_text": 1, "unknown_document": 1}
    assert [retry["answers"] for retry in manifest["retries"]] == [2]
    answers = read_rows(poisoned, "answers")
    new = [row for row in answers if row["nr"] in (4, 9)]
    assert [row["document_id"] for row in new] == ["d04", "d09"]
    assert [row for row in answers if row not in new] == before
    files = ["_SUCCESS", "answers", "manifest.json", "rejects", "run.json", "run.log"]
    assert sorted(os.listdir(poisoned.output)) == files
    assert answer_documents(poisoned) == manifest


def interrupt(*values: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("ray_session")
def test_a_job_whose_rejects_are_too_many_already_ends_early_and_says_why(tmp_path: Path, models):
    documents = [{"document_id": f"d{i:03}", "text": "Ada Vane built it." if i % 2 else ""} for i in range(200)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    config = write_job(tmp_path, models["bert"], documents, questions)
    with raises_error(
        JobError,
        " of 200 questions were rejected already (empty_text ",
        "), more than limits.max_rejected_fraction=0.05; the last one: document 'd",
        "' has an empty text; mend the input or raise the limit and start again: documents that are done stay done",
    ):
        answer_documents(config)
