"""Jobs on a cluster of real nodes: submit them, wait for them, read their status."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import TEXT
from ray_cluster import RayCluster
from running import write_job

from qa_ray.config import AnswerConfig

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [{"document_id": f"d{i}", "text": f"{TEXT} Page {i}. " * 4} for i in range(12)]
QUESTIONS = [{"question_id": "who", "question": "Who built the lighthouse?", "document_id": None}]
NUM_DOCUMENTS = 100


def job_in(folder: Path, models: dict[str, str], **settings: Any) -> AnswerConfig:
    return write_job(folder, models["longformer"], DOCUMENTS, QUESTIONS, **settings)


def long_job(folder: Path, model: str, **runner: Any) -> AnswerConfig:
    """A job of many small blocks, with one window per batch."""
    documents = [{"document_id": f"d{i:03}", "text": f"{TEXT} Page {i}. " * 40} for i in range(NUM_DOCUMENTS)]
    settings = {"device": "cpu", "dtype": "float32", "cpus_per_actor": 1, "batch_tokens": 1, **runner}
    return write_job(folder, model, documents, QUESTIONS, 1, runner=settings)


def wait_until(condition: Callable[[], Any], seconds: float = 900) -> Any:
    """The first true value of ``condition()``, polled for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.2)
    return value


def start(cluster: RayCluster, *arguments: str | Path) -> str:
    """Submits a job without waiting for it; returns its id."""
    done = submit(cluster, *arguments, "--no-wait")
    assert done.returncode == 0, done.stdout + done.stderr
    (id_,) = {word.strip(":") for word in done.stdout.split() if word.startswith("qa-ray-")}
    return id_


def ended(cluster: RayCluster, id_: str) -> str | None:
    """SUCCEEDED, or the log of a job that ended in any other way; None while it runs."""
    status = json.loads(cluster.get(f"/api/jobs/{id_}", cluster.token)[1])["status"]
    if status in ("PENDING", "RUNNING"):
        return None
    return status if status == "SUCCEEDED" else cluster.get(f"/api/jobs/{id_}/logs", cluster.token)[1]


def parts(job: AnswerConfig) -> int:
    """The number of finished blocks."""
    return len(list(Path(job.output).glob("_run/**/*.parquet")))


def run(cluster: RayCluster, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the cluster's token in the environment."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd="/",  # modules in the current folder would be imported first
        env=cluster.environment | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def submit(cluster: RayCluster, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "qa_ray", "submit", "--address", cluster.address, *arguments)
    return run(cluster, *command, **environment)


def report(config: AnswerConfig) -> dict[str, Any]:
    return json.loads((Path(config.output) / "run.json").read_text())


def copy_code(folder: Path, version: str) -> Path:
    """A copy of the package with another version number, which shows in the run report whose code ran."""
    for name in ("qa_ray", "jobs"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("models", "demo", "__pycache__")
        )
    (folder / "qa_ray" / "version.py").write_text(f'VERSION = "{version}"\n')
    return folder
