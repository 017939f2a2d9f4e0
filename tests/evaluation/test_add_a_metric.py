"""Runs the code of docs/how-to/add-a-metric.md: one module and one entry in METRICS make a metric."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from gold_tables import Folder, answer, golds, question

from qa_ray.cli.main import main
from qa_ray.evaluation import metrics

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-metric.md"


@pytest.fixture
def page_test(monkeypatch: pytest.MonkeyPatch) -> str:
    """Adds the module and the entry on the page; the source of the test on the page."""
    module_source, entry, test_source = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("qa_ray.evaluation.fquad")
    exec(module_source, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, metric in eval(f"{{{entry}}}", vars(metrics) | vars(module)).items():
        monkeypatch.setitem(metrics.METRICS, name, metric)
    return test_source


def test_the_test_on_the_page_passes_and_is_formatted(page_test: str):
    namespace = {}
    exec(page_test, namespace)
    tests = [function for name, function in namespace.items() if name.startswith("test_")]
    assert tests
    for function in tests:
        function()
    # ruff counts a module as the package's only if its file exists.
    lint = [
        "check",
        "--stdin-filename=tests/evaluation/test_fquad.py",
        "--config=lint.isort.known-first-party=['qa_ray']",
    ]
    for command in (lint, ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "-"], input=page_test, text=True, check=True, cwd=ROOT)


@pytest.mark.usefixtures("page_test")
def test_qa_ray_evaluate_knows_the_metric_by_its_name_in_the_table(folder: Folder, capsys: pytest.CaptureFixture[str]):
    # q1 matches without its article; q2 has 1 of 2 tokens, F1 2/3; q3 is unanswerable and has no row: correct.
    rows = [question("q1", golds("Tour Eiffel")), question("q2", golds("les deux Alpes")), question("q3", [])]
    config = {
        "answers": folder.answers(answer("q1", "la tour Eiffel", 0.25), answer("q2", "Alpes", 0.5)),
        "questions": folder.questions(*rows),
        "metric": "fquad",
        "output": str(folder.path / "scores"),
    }
    assert main(["evaluate", folder.text("evaluate.yaml", yaml.safe_dump(config))]) == 0
    assert "FQuAD" in capsys.readouterr().out
    assert "FQuAD" in (folder.path / "scores" / "scores.html").read_text(encoding="utf-8")
    scores = json.loads((folder.path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert (scores["metric"], scores["rules"]) == ("fquad", "FQuAD")
    overall = scores["overall"]
    assert (overall["count"], overall["missing"]) == (3, 1)
    assert (overall["exact_match"], overall["f1"]) == pytest.approx((200 / 3, 100 * (1 + 2 / 3 + 1) / 3))
    assert scores["thresholds"]["f1"]["threshold"] == 0.5  # both answers are worth giving
