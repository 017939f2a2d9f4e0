"""Monitoring of a run: in Prometheus, in Ray's dashboard, and in traces."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import read_page
from cluster_jobs import NUM_DOCUMENTS, ended, job_in, long_job, parts, start, submit, wait_until
from ray_cluster import ray_cluster
from running import kill_session, read_rows, write_config
from s3_server import free_ports

pytestmark = pytest.mark.slow

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"


@contextmanager
def prometheus(folder: Path, targets: str) -> Iterator[Callable[[str], list[Any]]]:
    """Prometheus with the alerts, scraping the targets in this file; yields a function from a query to its rows."""
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

    def get(path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}") as response:
            body = json.load(response)
        assert body["status"] == "success"
        return body["data"]

    def is_ready() -> bool:
        with suppress(urllib.error.URLError):
            return bool(get("rules")["groups"])
        return False

    def query(expression: str) -> list[Any]:
        return get("query?" + urllib.parse.urlencode({"query": expression}))["result"]

    try:
        wait_until(is_ready)
        yield query
    finally:
        kill_session(process)


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus")
def test_every_query_of_the_grafana_dashboard_gives_data_during_a_run(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=1)
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    queries = {target["expr"] for panel in panels for target in panel["targets"]}
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    alert_queries = {rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    # There is no GPU here, and no reject.
    absent = {"ray_node_gpus_utilization", "sum by (reason) (ray_qa_rejects_total)"}
    with (
        ray_cluster() as cluster,
        prometheus(tmp_path, f"{cluster.scratch}/prom_metrics_service_discovery.json") as query,
    ):
        id_ = start(cluster, write_config(tmp_path, job))
        seen: set[str] = set()

        def all_seen() -> bool:
            seen.update(expression for expression in queries - seen if query(expression))
            return seen >= queries - absent

        wait_until(lambda: all_seen() or ended(cluster, id_))
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"
        with suppress(AssertionError):
            wait_until(all_seen)
        assert queries - absent <= seen, f"no data for {queries - absent - seen}"
        for expression in alert_queries | absent:
            query(expression)  # valid, whether or not it gives rows
    assert len(read_rows(job, "answers")) == NUM_DOCUMENTS


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_rays_dashboard_shows_the_actors_of_a_run_only_with_the_token(models: dict[str, str], tmp_path: Path):
    job = long_job(tmp_path, models["bert"], actors=1)
    with ray_cluster() as cluster:
        id_ = start(cluster, write_config(tmp_path, job))
        wait_until(lambda: parts(job))
        page, token = f"{cluster.address}/#/actors", {"Authorization": f"Bearer {cluster.token}"}
        text = read_page(page, token, "AnswerDocuments", tmp_path / "actors.png")
        assert "TokenizeDocuments" in text
        assert "AnswerDocuments" in text
        text = read_page(page, {}, "Authentication Token Required", tmp_path / "stranger.png")
        assert "Authentication Token Required" in text
        assert "Documents" not in text
        assert wait_until(lambda: ended(cluster, id_)) == "SUCCEEDED"


def test_rays_traces_name_our_actors_and_contain_no_document_text(models: dict[str, str], tmp_path: Path):
    job, spans = job_in(tmp_path, models), tmp_path / "spans"
    spans.mkdir()
    tests = str(Path(__file__).parents[1] / "support")
    with ray_cluster(traced_by="traced:write_spans", SPANS=str(spans), PYTHONPATH=tests) as cluster:
        done = submit(cluster, write_config(tmp_path, job))
        assert done.returncode == 0, done.stdout + done.stderr
    logged = "".join(path.read_text() for path in spans.iterdir())
    names = {json.loads(line)["name"] for line in logged.splitlines()}
    assert any("AnswerDocuments" in name for name in names), names
    assert not any(word in logged for word in ("lighthouse", "Ada Vane"))
