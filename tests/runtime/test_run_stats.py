"""Run statistics: batches, out-of-memory retries, waiting documents, the time of each stage, and Prometheus."""

import re
import time
import urllib.request

import pytest
import ray

from qa_ray.process import Stopwatch
from qa_ray.runtime.run_stats import RunStats
from qa_ray.runtime.session import run_on_driver_node
from qa_ray.schemas import BatchSize


@pytest.fixture
def stats(ray_session: None) -> RunStats:
    return RunStats(finished_documents=2, num_pairs=10, max_rejected_fraction=0.5, max_rejects=5)


def test_batches_are_summed_and_the_smallest_batch_limit_is_kept(stats: RunStats):
    for batch_tokens, oom_retries in ((800, 0), (200, 2), (400, 1)):
        stats.add_batch(BatchSize(1, 90, 100, batch_tokens, oom_retries))
    counts = stats.counts()
    assert (counts.oom_retries, counts.batch_tokens) == (3, 200)
    assert (counts.windows, counts.tokens, counts.computed_tokens) == (3, 270, 300)
    assert counts.padding_fraction == pytest.approx(0.1)


def test_documents_are_waiting_between_tokenizing_and_answering(stats: RunStats):
    tokenize, answer = stats.register("tokenize"), stats.register("answer")
    stats.add_tokenized(tokenize, 5, {"tokenize": 1.0})
    stats.add_block(answer, 3, 6, 40, [{"reason": "no_tokens", "detail": "?"}], {"forward": 2.0, "write": 0.5}, 7)
    stats.add_block(answer, 1, 2, 2, [], {"forward": 1.0}, 5)
    counts = stats.counts()
    assert (counts.documents, counts.documents_waiting, counts.answers) == (6, 1, 8)
    assert counts.rejects == {"no_tokens": 1}
    assert counts.windows_left_out == 42
    assert counts.seconds == {"tokenize": 1.0, "forward": 3.0, "write": 0.5}
    assert counts.peak_actor_bytes == 7
    assert counts.busy_share["answer-1"] > counts.busy_share["tokenize-1"] > 0


def test_the_reason_to_stop_says_how_to_go_on_and_that_another_input_is_another_run(stats: RunStats):
    answer, reject = stats.register("answer"), {"reason": "empty_text", "detail": "document 'd7' has an empty text"}
    stats.add_block(answer, 5, 0, 0, [reject] * 5, {}, 7)
    assert stats.abort_reason() is None
    stats.add_block(answer, 1, 0, 0, [reject], {}, 7)
    assert stats.abort_reason() == (
        "6 of 10 questions were rejected already (empty_text 6), more than limits.max_rejected_fraction=0.5; the last "
        "one: document 'd7' has an empty text; raise the limit and run the same command again: finished documents are "
        "kept; or fix the input and give a new output folder, because another input is another run"
    )


def test_the_time_of_a_nested_stage_is_not_counted_twice():
    stopwatch = Stopwatch()
    with stopwatch.stage("outer"):
        time.sleep(0.01)
        for _ in range(2):
            with stopwatch.stage("inner"):
                time.sleep(0.05)
    seconds = stopwatch.take()
    assert seconds["inner"] >= 0.1
    assert 0.01 <= seconds["outer"] < seconds["inner"]
    assert stopwatch.take() == {}


def test_the_counts_are_exported_to_prometheus_without_any_text(ray_session: None):
    actor = run_on_driver_node(RunStats).remote(
        finished_documents=0, num_pairs=10, max_rejected_fraction=1, max_rejects=10
    )
    worker = ray.get(actor.register.remote("answer"))
    actor.add_batch.remote(BatchSize(2, 90, 100, 800))
    actor.add_tokenized.remote(worker, 5, {"tokenize": 0.5})
    actor.add_block.remote(worker, 3, 6, 40, [{"reason": "no_tokens", "detail": "secret"}], {"forward": 1.5}, 7)
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    counters = {
        "documents": 3, "windows": 2, "tokens": 90, "computed_tokens": 100, "answers": 6, "rejects": 1,
        "windows_left_out": 40,
    }  # fmt: skip
    expected = {rf"ray_qa_{name}_total{{.*}} {value}\.0" for name, value in counters.items()}
    expected |= {r"ray_qa_documents_waiting{.*} 2\.0", r"ray_qa_rejects_total{.*reason=\"no_tokens\""}
    expected |= {
        rf'ray_qa_seconds_total{{.*stage="{stage}".*worker="answer-1".*}} {value}'
        for stage, value in (("tokenize", 0.5), ("forward", 1.5))
    }
    metrics = ""
    for _ in range(300):  # Ray exports them every few seconds
        lines = urllib.request.urlopen(url).read().decode().splitlines()
        metrics = "\n".join(line for line in lines if line.startswith("ray_qa_"))
        if all(re.search(pattern, metrics) for pattern in expected):
            break
        time.sleep(1)
    else:
        pytest.fail(f"{[pattern for pattern in expected if not re.search(pattern, metrics)]} not in {metrics}")
    assert "secret" not in metrics
