"""Jobs submitted to a cluster of real nodes with a token: with the nodes' code, with uploaded code, from a folder."""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_jobs import (
    DOCUMENTS,
    QUESTIONS,
    REPOSITORY,
    copy_code,
    ended,
    job_in,
    report,
    run,
    start,
    submit,
    wait_until,
)
from ray_cluster import RayCluster, ray_cluster
from running import assert_same_answers, read_rows, write_config, write_job

from qa_ray.answering.job import answer_documents
from qa_ray.config import CONFIGS, check_config
from qa_ray.errors import ConfigError
from qa_ray.runtime.submit import submit as submit_job


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> list[Any]:
    """The answers of a run on this machine."""
    job = job_in(tmp_path_factory.mktemp("local"), models)
    answer_documents(job)
    return read_rows(job, "answers")


def test_a_submitted_job_is_followed_and_gives_the_answers_of_a_local_run(
    cluster: RayCluster, models, tmp_path: Path, expected
):
    job = job_in(tmp_path, models)
    # In Ray's own client, RAY_ADDRESS takes precedence over --address.
    done = submit(cluster, write_config(tmp_path, job), "answers.n_best=5", RAY_ADDRESS="http://127.0.0.1:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cluster.address}/#/jobs/qa-ray-answer-output-" in done.stdout
    assert all(f"ray job {verb} " in done.stdout for verb in ("logs", "status", "stop"))
    assert "12/12 documents" in done.stdout
    assert "SUCCEEDED" in done.stdout
    assert_same_answers(read_rows(job, "answers"), expected)
    assert cluster.token not in done.stdout + done.stderr


def test_a_submitted_check_prints_the_plan_and_runs_nothing(cluster: RayCluster, models, tmp_path: Path):
    job = job_in(tmp_path, models)
    done = submit(cluster, write_config(tmp_path, job), "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/#/jobs/qa-ray-answer-check-output-" in done.stdout
    assert "all checks passed; nothing was run" in done.stdout
    assert not Path(job.output).exists()


@pytest.mark.slow
def test_with_code_the_local_installation_is_uploaded(cluster: RayCluster, models, tmp_path: Path, expected):
    code = copy_code(tmp_path / "code", "0.0.1+uploaded")
    job = job_in(tmp_path, models)
    done = submit(cluster, write_config(tmp_path, job), "--with-code", PYTHONPATH=str(code))
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(job)["qa_ray"] == "0.0.1+uploaded"
    assert_same_answers(read_rows(job, "answers"), expected)


@pytest.mark.slow
def test_a_folder_can_be_submitted_with_ray_job_submit(cluster: RayCluster, models, tmp_path: Path, expected):
    code = copy_code(tmp_path / "code", "0.0.1+folder")
    job = job_in(tmp_path, models)
    write_config(code, job)
    ray = Path(sys.executable).parent / "ray"
    command = ("job", "submit", "--address", cluster.address, "--working-dir", code, "--", "python", "jobs/answer.py")
    done = run(cluster, ray, *command, "config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(job)["qa_ray"] == "0.0.1+folder"
    assert_same_answers(read_rows(job, "answers"), expected)


def install_wheel(folder: Path, version: str) -> str:
    """The Python of a new environment with a wheel of qa-ray, and all other packages as here."""
    code = copy_code(folder / "code", version)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, code)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python, pip = str(environment / "bin" / "python"), [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, code], check=True)
    (wheel,) = folder.glob("qa_ray-*.whl")
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", wheel], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.mark.slow
def test_nodes_with_an_installed_wheel_need_no_upload(models, tmp_path: Path, expected):
    python = install_wheel(tmp_path / "wheel", "0.0.1+wheel")
    job = job_in(tmp_path, models)
    with ray_cluster(python=python) as cluster:
        done = submit(cluster, write_config(tmp_path, job))
        assert done.returncode == 0, done.stdout + done.stderr
    assert report(job)["qa_ray"] == "0.0.1+wheel"
    assert_same_answers(read_rows(job, "answers"), expected)


@pytest.mark.slow
def test_a_job_with_some_rejects_succeeds_and_one_with_too_many_fails(cluster: RayCluster, models, tmp_path: Path):
    documents = [*DOCUMENTS[:1], {"document_id": "empty", "text": ""}]
    few = write_job(tmp_path / "few", models["bert"], documents, QUESTIONS, limits={"max_rejected_fraction": 1})
    done = submit(cluster, write_config(tmp_path / "few", few))
    assert (done.returncode, read_rows(few, "rejects")[0]["reason"]) == (0, "empty_text"), done.stdout
    documents.append({"document_id": "empty too", "text": ""})
    many = write_job(tmp_path / "many", models["bert"], documents, QUESTIONS)
    done = submit(cluster, write_config(tmp_path / "many", many))
    assert done.returncode == 1
    assert "more than limits.max_rejected_fraction=0.05" in done.stdout
    assert report(many)["rejects_by_reason"]["empty_text"] >= 1


def test_without_the_token_the_cluster_refuses_everything(cluster: RayCluster, models, tmp_path: Path):
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/actors"):
        assert cluster.get(path, None)[0] == 401
        assert cluster.get(path, "wrong")[0] == 403
    config = write_config(tmp_path, job_in(tmp_path, models))
    done = submit(cluster, config, RAY_AUTH_MODE="disabled")
    assert done.returncode == 1
    assert "cannot reach Ray's dashboard there" in done.stderr
    assert "RAY_AUTH_MODE=token is set with the cluster's token" in " ".join(done.stderr.split())


def test_paths_that_no_node_can_read_are_errors_before_anything_is_uploaded(tmp_path: Path, models):
    no_cluster = type("None", (), {"address": "http://127.0.0.1:1", "environment": {}})
    config = write_config(tmp_path, job_in(tmp_path, models))
    done = submit(no_cluster, config, "documents=data/documents")  # pyright: ignore[reportArgumentType]
    assert done.returncode == 2
    assert "documents='data/documents' is a path on this machine; a cluster needs one that all of its nodes" in (
        " ".join(done.stderr.split())
    )
    done = submit(no_cluster, config, "--address", "127.0.0.1:8265")  # pyright: ignore[reportArgumentType]
    assert done.returncode == 2
    assert "--address '127.0.0.1:8265' is not the dashboard's URL" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("verb", "settings", "named"),
    [
        (
            "finetune",
            {"validation": {"documents": "local/documents", "questions": "s3://lake/validation"}},
            "validation.documents='local/",
        ),
        (
            "finetune",
            {"training": {"averaged_with": ["default", "org/on-the-hub", "second"]}},
            "training.averaged_with='second'",
        ),
        ("answer", {"windows": {"gate": "gate", "read": {"most": 8}}}, "windows.gate='gate'"),
        ("answer", {"previous": ["s3://lake/monday", "out/tuesday"]}, "previous='out/tuesday'"),
    ],
)
def test_paths_within_a_section_are_checked_too(
    verb: str, settings: dict, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path)
    tables = {name: f"s3://lake/{name}" for name in ("documents", "questions", "output")}
    config = check_config(CONFIGS[verb], tables | settings, "test")
    with pytest.raises(ConfigError, match=f"{named}.* is a path on this machine; a cluster needs one that all"):
        submit_job(verb, config, "http://127.0.0.1:1", with_code=False)


@pytest.mark.slow
def test_a_job_waits_for_nodes_that_are_added_later(models, tmp_path: Path):
    with ray_cluster(num_cpus=1) as cluster:
        job = job_in(tmp_path, models)
        config = write_config(tmp_path, job)
        done = submit(cluster, config, "runner.wait_seconds=1")
        assert done.returncode == 1
        assert "need 3 CPUs, and Ray has 1" in done.stdout
        id_ = start(cluster, config)
        wait_until(lambda: "waiting up to 600 s for nodes" in cluster.get(f"/api/jobs/{id_}/logs", cluster.token)[1])
        cluster.add_node(3)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
        assert len(read_rows(job, "answers")) == 12
