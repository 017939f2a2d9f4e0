"""A document that kills its process becomes a reject, and all others are answered."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import assert_nothing_lost, read_rows, told, write_job

from qa_ray.attempts import MAX_DEATHS, Attempts, read_block
from qa_ray.errors import JobError
from qa_ray.pipeline import answer_documents


class Local:
    """An Attempts that is called like an actor; ``ray.get`` is told of its results by the test."""

    def __init__(self):
        self._attempts = Attempts()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._attempts, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Died(BaseException):
    pass


@pytest.mark.parametrize("poison", [set(), {"c"}, {"a", "d"}, {"a", "b", "c", "d"}])
def test_a_block_is_read_again_until_only_its_poison_is_given_up(monkeypatch: pytest.MonkeyPatch, poison: set[str]):
    monkeypatch.setattr("ray.get", lambda result: result)
    attempts, ids = Local(), ["a", "b", "c", "d"]

    def read(rows: list[int]) -> list[str]:
        if any(ids[row] in poison for row in rows):
            raise Died
        return [f"read {ids[row]}" for row in rows]

    def once() -> list[str]:
        return read_block(
            attempts,
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


def test_documents_that_abort_the_process_are_rejected_and_their_neighbours_answered(tmp_path: Path, models):
    texts = ["Ada Vane built the lighthouse in 1871."] * 12
    texts[4], texts[9] = "This is deadly to read.", "And this is deadly to tokenise."
    documents = [{"document_id": f"d{i:02}", "text": text} for i, text in enumerate(texts)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    config = write_job(tmp_path, models["bert"], documents, questions, limits={"max_rejected_fraction": 0.2})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.model_dump()))
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, here / "poison.py", path], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 3, done.stderr
    manifest = answer_documents(config)  # done: only shown
    assert_nothing_lost(config, [(f"d{i:02}", "q") for i in range(12)], manifest)
    rejects = read_rows(config, "rejects")
    assert [(row["document_id"], row["stage"], row["reason"]) for row in rejects] == [
        ("d04", "logits", "process_died"),
        ("d09", "tokens", "process_died"),
    ]
    assert "the process that read document 'd04' died 3 times, reading nothing else" in rejects[0]["detail"]


@pytest.mark.usefixtures("ray_session")
def test_a_job_whose_rejects_are_too_many_already_ends_early_and_says_why(tmp_path: Path, models):
    documents = [{"document_id": f"d{i:03}", "text": "Ada Vane built it." if i % 2 else ""} for i in range(200)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    config = write_job(tmp_path, models["bert"], documents, questions)
    with told(
        JobError,
        " of 200 questions were rejected already (empty_text ",
        "), more than limits.max_rejected_fraction=0.05; the last one: document 'd",
        "' has an empty text; mend the input or raise the limit and start again: documents that are done stay done",
    ):
        answer_documents(config)
