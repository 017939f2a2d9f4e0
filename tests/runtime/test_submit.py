"""Jobs for a cluster: their ids and commands; tests/cluster has real ones."""

import re
from pathlib import Path
from typing import Any

import pytest

from qa_ray.config import AnswerConfig, FinetuneConfig, check_config, read_config
from qa_ray.runtime import submit as module
from qa_ray.runtime.submit import new_id, submit

TABLES = {name: f"s3://lake/{name}" for name in ("documents", "questions")}
TIME = r"\d{8}T\d{6}-[0-9a-f]{4}"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("s3://lake/out/contracts", "qa-ray-answer-contracts-"),
        ("/mnt/out/2024-11-25/", "qa-ray-answer-2024-11-25-"),
        ("s3://lake/Verträge & mehr #2", "qa-ray-answer-Vertr-ge-mehr-2-"),
        ("", "qa-ray-answer-"),
        ("s3://lake/" + "x" * 300, f"qa-ray-answer-{'x' * 40}-"),
    ],
)
def test_a_job_is_recognized_by_its_id(output: str, expected: str):
    assert re.fullmatch(re.escape(expected) + TIME, new_id("answer", output))
    assert new_id("answer", output) != new_id("answer", output)
    assert new_id("answer", output, check=True).startswith("qa-ray-answer-check-")


class Client:
    """Records what is submitted, with the text of its config."""

    def __init__(self):
        self.jobs: list[dict[str, Any]] = []

    def submit_job(self, **job: Any) -> str:
        config = Path(job["runtime_env"]["working_dir"]) / module.CONFIG_FILE
        self.jobs.append(job | {"config": config.read_text(encoding="utf-8")})
        return job["submission_id"]


@pytest.mark.parametrize("check", [False, True])
def test_the_command_of_a_job_is_the_verb_or_its_check(monkeypatch: pytest.MonkeyPatch, check: bool):
    client = Client()
    monkeypatch.setattr(module, "_connect", lambda address: client)
    config = check_config(AnswerConfig, TABLES | {"output": "s3://lake/answers"}, "test")
    job = submit("answer", config, "http://127.0.0.1:8265", with_code=False, check=check)
    assert client.jobs[0]["entrypoint"] == "python -m qa_ray answer config.yaml" + " --check" * check
    assert job.id == client.jobs[0]["submission_id"]
    assert job.id.startswith("qa-ray-answer-check-answers-" if check else "qa-ray-answer-answers-")


def test_a_job_has_the_config_that_was_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "_connect", lambda address: client)
    client = Client()
    about = {"revision": "1e3", "mode": "0o17", "1": ["null", "no", 1e-5, None, "a\x85b"], "🦊": "Ørsted"}
    config = check_config(FinetuneConfig, TABLES | {"output": "s3://lake/model", "about": about}, "test")
    submit("finetune", config, "http://127.0.0.1:8265", with_code=False)
    (tmp_path / "config.yaml").write_text(client.jobs[0]["config"], encoding="utf-8")
    assert read_config(FinetuneConfig, f"{tmp_path}/config.yaml") == config
