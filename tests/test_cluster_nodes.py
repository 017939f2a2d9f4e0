"""Nodes that come and go, training on several, and Prometheus itself watching: make test-cluster."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import TEXT, save_model
from ray_cluster import RayCluster, ray_cluster
from running import kill_session, read_rows, write_config, write_job
from s3_server import free_ports
from test_cluster import QUESTIONS, report, submit
from test_finetune import TEXTS, VOCABULARY, stories, write_tables

from qa_ray.config import AnswerConfig, FinetuneConfig, check_config

pytestmark = pytest.mark.slow

NUM_DOCUMENTS = 100
MONITORING = Path(__file__).parents[1] / "cluster" / "monitoring"


def long_job(folder: Path, model: str, **runner: Any) -> AnswerConfig:
    """A job of many small blocks, one window at a time."""
    documents = [{"document_id": f"d{i:03}", "text": f"{TEXT} Page {i}. " * 40} for i in range(NUM_DOCUMENTS)]
    own = {"device": "cpu", "dtype": "float32", "cpus_per_actor": 1, "batch_tokens": 1, **runner}
    return write_job(folder, model, documents, QUESTIONS, 1, runner=own)


def wait_until(what: Callable[[], Any], seconds: float = 240) -> Any:
    """What ``what()`` gives, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.2)
    return found


def start(cluster: RayCluster, *words: str | Path) -> str:
    """The id of a job that was submitted and runs on."""
    done = submit(cluster, *words, "--no-wait")
    assert done.returncode == 0, done.stdout + done.stderr
    (id_,) = {word.strip(":") for word in done.stdout.split() if word.startswith("raysubmit_")}
    return id_


def ended(cluster: RayCluster, id_: str) -> str | None:
    """How a job ended, and its log if that is not well; None while it runs."""
    status = json.loads(cluster.get(f"/api/jobs/{id_}", cluster.token)[1])["status"]
    if status in ("PENDING", "RUNNING"):
        return None
    return status if status == "SUCCEEDED" else cluster.get(f"/api/jobs/{id_}/logs", cluster.token)[1]


def parts(job: AnswerConfig) -> int:
    """How many blocks are done."""
    return len(list(Path(job.output).glob("_run/**/*.parquet")))


def test_a_node_that_comes_in_mid_run_gets_work(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with ray_cluster() as cluster:
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job))
        cluster.add_node(1)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS
    busy = {name: share for name, share in report(job)["busy_share"].items() if name.startswith("answer-")}
    assert len(busy) == 2
    assert all(busy.values())


def test_a_node_that_goes_in_mid_run_costs_nothing_but_time(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=[1, 2])
    with ray_cluster() as cluster:
        node = cluster.add_node(1)
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job) > 2)
        kill_session(node)
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
    assert len({row["document_id"] for row in read_rows(job, "answers")}) == NUM_DOCUMENTS


def lesson(folder: Path, **runner: Any) -> FinetuneConfig:
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


def learnt(config: FinetuneConfig) -> dict[str, Any]:
    return json.loads((Path(config.output) / "manifest.json").read_text())


def test_workers_on_several_nodes_learn_together(tmp_path: Path):
    config = lesson(tmp_path, workers=2)
    with ray_cluster(num_cpus=1) as cluster:  # a worker takes the only CPU of a node
        for number in (3, 4):  # one by one, or two might choose the same port
            cluster.add_node(1)
            cluster.wait_for_nodes(number)
        done = submit(cluster, "--job", "finetune", write_config(tmp_path, config))
        assert done.returncode == 0, done.stdout + done.stderr
    assert learnt(config)["best"]["f1"] == 100
    assert learnt(config)["counts"]["questions to learn from"] == 3 * len(TEXTS)


def test_elastic_workers_go_on_when_a_node_goes(tmp_path: Path):
    config = lesson(tmp_path, workers=(1, 3))
    longer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 30})})
    with ray_cluster(num_cpus=2) as cluster:
        node = cluster.add_node(1)
        cluster.wait_for_nodes(3)
        id_ = start(cluster, "--job", "finetune", write_config(tmp_path, longer))
        wait_until(lambda: list(Path(config.output).glob("_run/train/checkpoint_*")))
        kill_session(node)
        assert wait_until(lambda: ended(cluster, id_), 400) == "SUCCEEDED"
    assert learnt(config)["best"]["f1"] == 100
    assert len(learnt(config)["epochs"]) == 30


@contextmanager
def prometheus(folder: Path, targets: str) -> Iterator[Callable[[str], list[Any]]]:
    """Prometheus with the alerts, on what this file lists; gives a function from a query to its rows."""
    (port,) = free_ports(1)
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["file_sd_configs"] = [{"files": [targets], "refresh_interval": "1s"}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yaml", folder)
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def ask(path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}") as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def is_ready() -> bool:
        with suppress(urllib.error.URLError):
            return bool(ask("rules")["groups"])
        return False

    def query(expression: str) -> list[Any]:
        return ask("query?" + urllib.parse.urlencode({"query": expression}))["result"]

    try:
        wait_until(is_ready, 60)  # with the alerts
        yield query
    finally:
        kill_session(process)


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus")
def test_prometheus_sees_a_run_and_every_query_of_the_dashboard_gives_data(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=1)
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    wanted = {target["expr"] for panel in panels for target in panel["targets"]}
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    alarms = {rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    # There is no GPU here, and no reject.
    absent = {"ray_node_gpus_utilization", "sum by (reason) (ray_qa_rejects_total)"}
    with (
        ray_cluster() as cluster,
        prometheus(tmp_path, f"{cluster.scratch}/prom_metrics_service_discovery.json") as ask,
    ):
        id_ = start(cluster, write_config(tmp_path, job))
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(expression for expression in wanted - seen if ask(expression))
            return seen >= wanted - absent

        wait_until(lambda: all_seen() or ended(cluster, id_))
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
        with suppress(AssertionError):
            wait_until(all_seen, 60)
        assert wanted - absent <= seen, f"no data for {wanted - absent - seen}"
        for expression in alarms | absent:
            ask(expression)  # valid, whatever it gives
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS
