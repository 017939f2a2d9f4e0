"""The definitions in cluster/ and configs/ are valid, consistent with each other, and safe."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config

from qa_ray.config import AnswerConfig, check_config, read_config
from qa_ray.runtime.run_stats import COUNTERS
from qa_ray.version import VERSION

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"


def definitions() -> dict[str, dict[str, Any]]:
    """The Kubernetes resources in kuberay/, by kind."""
    files = sorted((CLUSTER / "kuberay").glob("*.yaml"))
    return {resource["kind"]: resource for file in files for resource in yaml.safe_load_all(file.read_text())}


def standing_cluster() -> dict[str, Any]:
    """The cluster that exists independently of jobs."""
    return yaml.safe_load((CLUSTER / "kuberay" / "standing" / "raycluster.yaml").read_text())


def pods() -> dict[str, dict[str, Any]]:
    """The pods of the RayJob."""
    job = definitions()["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    workers = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]["template"]["spec"]
    return {"submitter": job["submitterPodTemplate"]["spec"], "head": head, **workers}


@pytest.mark.parametrize("name", ["laptop", "one-gpu", "eight-gpus", "spot-cluster"])
def test_the_configs_for_cluster_sizes_are_valid(name: str):
    config = read_config(AnswerConfig, str(REPOSITORY / "configs" / f"{name}.yaml"))
    assert config.model == "default"


def test_the_job_on_kubernetes_has_a_config_that_fits_its_cluster():
    resources = definitions()
    text = resources["ConfigMap"]["data"]["answer.yaml"]
    config = check_config(AnswerConfig, yaml.safe_load(text), "answer.yaml")
    (workers,) = resources["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert config.runner.actors == (1, workers["maxReplicas"])
    assert resources["RayJob"]["spec"]["entrypoint"].endswith("/etc/qa-ray/answer.yaml")


def test_the_standing_cluster_has_the_spec_of_the_cluster_that_a_job_starts():
    assert standing_cluster()["kind"] == "RayCluster"
    assert standing_cluster()["spec"] == definitions()["RayJob"]["spec"]["rayClusterSpec"]


def test_kubectl_applies_the_namespace_first():
    first = sorted((CLUSTER / "kuberay").glob("*.yaml"))[
        0
    ]  # kubectl applies the files of a folder in order of their names
    assert next(yaml.safe_load_all(first.read_text()))["kind"] == "Namespace"


def test_versions_are_the_installed_ones():
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert definitions()["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]
    images = {container["image"] for pod in pods().values() for container in pod["containers"]}
    images.add(yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())["docker"]["image"])
    assert images == {f"REGISTRY/qa-ray:{VERSION}"}


@pytest.mark.parametrize("pod", ["submitter", "head", "gpu"])
def test_pods_run_unprivileged_and_can_write_only_to_their_scratch_volumes(pod: str):
    spec = pods()[pod]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


def test_every_cluster_requires_a_token_reports_no_usage_and_serves_its_dashboard_locally():
    assert definitions()["RayJob"]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for name in ("aws", "on-premise"):
        config = yaml.safe_load((CLUSTER / "ray-up" / f"{name}.yaml").read_text())
        (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
        assert "--dashboard-host=127.0.0.1" in head
        starts = [line for line in [head, *config["worker_start_ray_commands"]] if "ray start" in line]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" in line for line in starts)
        assert any("chmod 600" in line for line in config["setup_commands"])


@pytest.mark.parametrize("name", ["aws", "on-premise"])
def test_the_ray_up_files_match_rays_schema(name: str):
    config = yaml.safe_load((CLUSTER / "ray-up" / f"{name}.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(prepare_config(config) if name == "on-premise" else config, schema)


def test_dashboards_and_alerts_query_metrics_that_exist():
    exported = {f"ray_qa_{name}_total" for name in COUNTERS} | {"ray_qa_documents_waiting"}
    for name in ("alerts.yaml", "grafana.json"):
        queried = set(re.findall(r"ray_qa_\w+", (CLUSTER / "monitoring" / name).read_text()))
        assert queried
        assert queried <= exported
    panels = json.loads((CLUSTER / "monitoring" / "grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
def test_promtool_accepts_the_prometheus_files():
    folder = CLUSTER / "monitoring"
    for arguments in (["check", "rules", "alerts.yaml"], ["check", "config", "--syntax-only", "prometheus.yaml"]):
        subprocess.run(["promtool", *arguments], cwd=folder, check=True, capture_output=True)


# The samples that Prometheus scrapes, one a minute, and the alert that should fire after 50 minutes.
ALERTS = {
    "documents wait, and no window was ever computed": ({"documents_waiting": "5x60"}, "QaRayStalled"),
    "windows are stalled": ({"documents_waiting": "5x60", "windows_total": "700x60"}, "QaRayStalled"),
    "windows make progress": ({"documents_waiting": "5x60", "windows_total": "0+700x60"}, None),
    "all questions are rejected at once": ({"rejects_total": "100x60"}, "QaRayManyRejects"),
    "one question in a hundred is rejected": ({"rejects_total": "1x60", "answers_total": "99x60"}, None),
    "a batch was halved once": ({"oom_retries_total": "1x60"}, "QaRayOutOfMemoryRetries"),
    "actors are idle": ({'seconds_total{worker="answer-1"}': "0+20x60"}, "QaRayActorsIdle"),
    "one actor is busy, another has ended": (
        {'seconds_total{worker="answer-1"}': "0+57x60", 'seconds_total{worker="answer-2"}': "900x60"}, None,
    ),
}  # fmt: skip


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
@pytest.mark.parametrize("case", ALERTS)
def test_the_expected_alert_fires_and_no_other(case: str, tmp_path: Path):
    values, expected_alert = ALERTS[case]
    rules = CLUSTER / "monitoring" / "alerts.yaml"
    alerts = {rule["alert"]: rule for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    expected = {
        name: [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}] if name == expected_alert else []
        for name, rule in alerts.items()
    }
    series = [{"series": f"ray_qa_{name}", "values": text} for name, text in values.items()]
    alerts = [{"eval_time": "50m", "alertname": name, "exp_alerts": fired} for name, fired in expected.items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": alerts}]
    (tmp_path / "tests.yaml").write_text(json.dumps({"rule_files": [str(rules)], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
