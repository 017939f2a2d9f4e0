"""Nodes that are added and lost during a run, autoscaling, and training on several nodes."""

import json
from pathlib import Path
from typing import Any

import networks
import pytest
from cluster_jobs import NUM_DOCUMENTS, ended, long_job, parts, report, start, submit, wait_until
from models import save_model
from ray_cluster import ray_cluster
from running import kill_session, read_rows, write_config
from stories import TEXTS, VOCABULARY, stories, write_tables

from qa_ray.config import AnswerConfig, FinetuneConfig, check_config

pytestmark = pytest.mark.slow


def busy_actors(job: AnswerConfig) -> int:
    """The number of actors with the model that did some work."""
    return sum(share > 0 for name, share in report(job)["busy_share"].items() if name.startswith("answer-"))


def test_a_node_added_during_a_run_gets_work(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with ray_cluster() as cluster:
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job))
        cluster.add_node(1)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS
    assert busy_actors(job) == 2


def test_a_node_lost_during_a_run_loses_no_answers(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with ray_cluster() as cluster:
        node = cluster.add_node(1)
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job) > 2)
        kill_session(node)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert len({row["document_id"] for row in read_rows(job, "answers")}) == NUM_DOCUMENTS


def test_actors_run_only_on_nodes_with_the_resources_that_they_need(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2], resources_per_actor={"good": 1})
    with ray_cluster() as cluster:
        path = write_config(tmp_path, job)
        refused = submit(cluster, path, "runner.wait_seconds=0")
        message = "Ray has 3 CPUs and 0 good on 2 nodes, the largest with 3 CPUs and 0 good, with room for 0 actors"
        assert message in " ".join(refused.stdout.split())
        cluster.add_node(2, resources={"good": 1})
        cluster.wait_for_nodes(3)
        done = submit(cluster, path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS
    assert busy_actors(job) == 1


def test_the_autoscaler_adds_nodes_for_a_job_and_removes_them_after_it(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with ray_cluster(num_cpus=0, autoscales=True) as cluster:
        assert cluster.num_nodes() == 1
        done = submit(cluster, write_config(tmp_path, job))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "waiting up to 600 s for nodes" in done.stdout
        wait_until(lambda: cluster.num_nodes() == 1)
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS
    assert busy_actors(job) == 2


@pytest.mark.skipif(not networks.can_create_namespaces(), reason="needs the permission to create network namespaces")
def test_a_machine_cut_off_from_the_network_loses_no_answers(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with networks.network(3) as network, ray_cluster(hosts=network.hosts) as cluster:
        assert "127.0.0.1" not in cluster.address
        cluster.add_node(1, network.hosts[2])
        cluster.wait_for_nodes(3)
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job) > 2)
        network.cut(network.hosts[2])
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert len({row["document_id"] for row in read_rows(job, "answers")}) == NUM_DOCUMENTS
    assert busy_actors(job) >= 2  # a third one may have replaced a lost one


def training_job(folder: Path, **runner: Any) -> FinetuneConfig:
    tables = write_tables(folder, *stories())
    settings = {"max_tokens": 64, "overlap_tokens": 8, "max_question_tokens": 24}
    values = {
        **tables,
        "output": str(folder / "output"),
        "model": save_model("bert", folder / "model", text=VOCABULARY, std=0.2, settings=settings),
        "validation": {**tables, "metric": "cmrc"},
        "training": {
            "epochs": 6, "learning_rate": 3e-3, "dropout": 0.0, "step_tokens": 40, "checkpoint_steps": 8,
            "dtype": "float32",
        },
        "runner": {"device": "cpu", "cpus_per_worker": 1, "max_failures": 3, **runner},
    }  # fmt: skip
    return check_config(FinetuneConfig, values, "test")


def manifest(config: FinetuneConfig) -> dict[str, Any]:
    return json.loads((Path(config.output) / "manifest.json").read_text())


def test_workers_on_several_nodes_train_one_model(tmp_path: Path):
    config = training_job(tmp_path, workers=2)
    with ray_cluster(num_cpus=1) as cluster:  # each worker takes the only CPU of a node
        for number in (3, 4):  # one after the other, or two may choose the same port
            cluster.add_node(1)
            cluster.wait_for_nodes(number)
        done = submit(cluster, "--job", "finetune", write_config(tmp_path, config))
        assert done.returncode == 0, done.stdout + done.stderr
    assert manifest(config)["best"]["f1"] == 100
    assert manifest(config)["counts"]["training_questions"] == 3 * len(TEXTS)


def test_workers_get_no_more_cpus_than_one_node_has(tmp_path: Path):
    training = training_job(tmp_path, cpus_per_worker=None)
    with ray_cluster(num_cpus=4) as cluster:
        for number in (3, 4):
            cluster.add_node(4)
            cluster.wait_for_nodes(number)
        done = submit(cluster, "--job", "finetune", write_config(tmp_path, training))
        assert done.returncode == 0, done.stdout + done.stderr
    assert manifest(training)["best"]["f1"] == 100


def test_fine_tuning_waits_for_the_nodes_that_an_autoscaler_adds(tmp_path: Path):
    config = training_job(tmp_path, workers=2)
    with ray_cluster(num_cpus=0, autoscales=True) as cluster:
        done = submit(cluster, "--job", "finetune", write_config(tmp_path, config))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "waiting up to 600 s for nodes with room for 2 × 1 CPU" in done.stdout
    assert manifest(config)["best"]["f1"] == 100


def test_elastic_training_continues_when_a_node_is_lost(tmp_path: Path):
    config = training_job(tmp_path, workers=(1, 3))
    longer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 30})})
    with ray_cluster(num_cpus=2) as cluster:
        node = cluster.add_node(1)
        cluster.wait_for_nodes(3)
        id_ = start(cluster, "--job", "finetune", write_config(tmp_path, longer))
        wait_until(lambda: list(Path(config.output).glob("_run/train/checkpoint_*")))
        kill_session(node)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert manifest(config)["best"]["f1"] == 100
    assert len(manifest(config)["epochs"]) == 30
