"""``qa-ray finetune --check``: all checks and a plan, and nothing is left behind."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from running import raises_error

from qa_ray.cli.plans import show_finetuning_plan
from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, UserError
from qa_ray.training.job import check_job

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def job(folder: Any, models: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    rows = [{"document_id": f"d{i}", "text": "Ada Vane built it."} for i in range(4)]
    gold = {"question_id": "q", "question": "Who built it?", "answers": [{"text": "Ada Vane", "start_char": 0}]}
    return {
        "documents": folder.table("documents", rows),
        "questions": folder.table("questions", [{"document_id": row["document_id"], **gold} for row in rows]),
        "output": str(tmp_path / "out"),
        "model": models["bert"],
        "training": {"dtype": "float32", "epochs": 2},
        "runner": {"device": "cpu", "cpus_per_worker": 1},
    }


def check(job: dict[str, Any], **settings: Any) -> str:
    config = check_config(FinetuneConfig, job | settings, "test")
    console = Console(file=io.StringIO(), width=160)
    show_finetuning_plan(*check_job(config), console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_plan_is_shown_and_nothing_is_written(job: dict[str, Any]):
    shown = check(job)
    for words in (
        "training │ 4 questions in 1 file; documents: 4 with less than 0.1 MB of text, in 1 file",
        "validation │ held out: ",
        "epochs │ 2 epochs of windows of 64 tokens",
        "state │ new",
        "workers │ 1 on cpu, each 1 CPU │",
        "all checks passed; nothing was run",
    ):
        assert words in shown
    assert not Path(job["output"]).exists()


def test_calibration_is_called_so(job: dict[str, Any]):
    assert "none: calibrates the model as it is" in check(job, training={"epochs": 0})


def test_what_a_run_would_refuse_is_refused(job: dict[str, Any]):
    with raises_error(ConfigError, "training.window_tokens: 5 is not between "):
        check(job, training={"window_tokens": [5]})
    with raises_error(ConfigError, "runner: 99 workers "):
        check(job, runner=job["runner"] | {"workers": 99})
    with raises_error(UserError, "no such file or folder"):
        check(job, documents="/nowhere")
    assert not Path(job["output"]).exists()
