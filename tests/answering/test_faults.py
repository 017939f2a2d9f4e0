"""Faults of processes, nodes, storage and large inputs (make test-faults); the other tests have shorter versions."""

import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import fault_proxy
from models import TEXT
from running import (
    assert_nothing_lost,
    assert_same_answers,
    changed,
    command_line,
    descendants,
    kill_session,
    read_rows,
    title,
    wait_for,
    write_config,
    write_job,
)
from s3_server import S3Server, lake_with, on_s3, s3_server

from qa_ray.answering.job import answer_documents
from qa_ray.answering.plan import make_plan
from qa_ray.config import AnswerConfig
from qa_ray.output.folder import inspect_output

pytestmark = pytest.mark.slow

NUM_DOCUMENTS = 60
RUNNER = {"device": "cpu", "dtype": "float32", "actors": 1, "cpus_per_actor": 1}
SLOW_RUNNER = RUNNER | {"actors": 2, "batch_tokens": 1}
QUESTIONS = [{"question_id": f"q{i}", "question": text} for i, text in enumerate(("Who built it?", "它在哪里？"))]
PAIRS = [(f"d{i:02}", f"q{q}") for i in range(NUM_DOCUMENTS) for q in range(2)]


@pytest.fixture(scope="module")
def job(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AnswerConfig:
    draw = random.Random(0)
    rows = [
        {"document_id": f"d{i:02}", "text": " ".join(draw.choices(TEXT.split(), k=draw.randint(100, 500)))}
        for i in range(NUM_DOCUMENTS)
    ]
    return write_job(tmp_path_factory.mktemp("job"), models["bert"], (rows[:20], rows[20:]), QUESTIONS)


@pytest.fixture(scope="module")
def uninterrupted(job: AnswerConfig, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The answers of an uninterrupted run."""
    run(job, tmp_path_factory.mktemp("uninterrupted"))
    return read_rows(job, "answers")


def run(config: AnswerConfig, folder: Path) -> dict[str, Any]:
    """Runs the job from the command line until it ends; returns the manifest."""
    log = folder / "log"
    with command_line(write_config(folder, config), log) as process:
        assert process.wait(600) == 0, log.read_text()
    return inspect_output(config.output, make_plan(config).identity).manifest()


def workers(pid: int) -> list[int]:
    """The processes of the run's actors."""
    return [child for child in descendants(pid) if "Documents" in title(child)]


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_random_moments_gives_the_answers_of_an_uninterrupted_run(
    tmp_path: Path, job, uninterrupted, seed: int
):
    draw = random.Random(seed)
    config, log = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER), tmp_path / "log"
    path = write_config(tmp_path, config)
    for _ in range(draw.randint(1, 3)):
        with command_line(path, log) as process:
            started = time.monotonic()
            wait_for(lambda: workers(process.pid) or process.poll() is not None, process, log)
            time.sleep(draw.uniform(0, 12))
            if draw.random() < 0.5 and (actors := workers(process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(actors), signal.SIGKILL)
                time.sleep(draw.uniform(0, 8))
            ended = process.poll() is not None
            kill_session(process)
        print(f"killed after {time.monotonic() - started:.1f} s{', after it had ended' if ended else ''}")  # noqa: T201
    num_finished = finished_windows(config)
    manifest = run(changed(config, runner=RUNNER), tmp_path)
    if num_finished:  # else it may have ended before it was killed
        assert manifest["windows_this_run"] == manifest["counts"]["windows"] - num_finished
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted)


def finished_windows(config: AnswerConfig) -> int:
    """The number of windows of the finished documents."""
    parts = f"{config.output}/_run/parts"
    files = Path(parts).glob("*.parquet")
    windows = {row["document_id"]: row["num_windows"] for file in files for row in pq.read_table(file).to_pylist()}
    return sum(windows.values())


def test_a_kill_costs_at_most_one_block_of_each_actor(
    tmp_path: Path, job, uninterrupted, monkeypatch: pytest.MonkeyPatch
):
    config, log = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER), tmp_path / "log"
    path, parts, record = write_config(tmp_path, config), Path(config.output) / "_run" / "parts", tmp_path / "record"
    monkeypatch.setenv("RECORD", str(record))
    draw, num_kills = random.Random(0), 2
    for _ in range(num_kills):
        before = len(list(parts.glob("*.parquet")))
        with command_line(path, log, "record") as process:
            wait_for(lambda: len(list(parts.glob("*.parquet"))) > before, process, log)  # noqa: B023
            time.sleep(draw.uniform(0, 0.3))
            kill_session(process)
    with command_line(path, log, "record") as process:
        assert process.wait(600) == 0, log.read_text()
    times_read = Counter(record.read_text().split())
    read_again = times_read.total() - NUM_DOCUMENTS
    print(f"{read_again} documents were read again after {num_kills} kills")  # noqa: T201
    assert len(times_read) == NUM_DOCUMENTS
    assert 0 < read_again <= num_kills * 2 * make_plan(config).rows_per_block("cpu", 2)
    assert_same_answers(read_rows(config, "answers"), uninterrupted)


def test_an_actor_killed_five_times_is_restarted_by_the_same_run(tmp_path: Path, job, uninterrupted):
    config, log = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER | {"actors": 1}), tmp_path / "log"
    with command_line(write_config(tmp_path, config), log) as process:
        killed: set[int] = set()
        while len(killed) < 5:
            alive = wait_for(
                lambda: [pid for pid in workers(process.pid) if "AnswerDocuments" in title(pid) and pid not in killed],
                process,
                log,
            )
            time.sleep(3)
            os.kill(alive[0], signal.SIGKILL)
            killed.add(alive[0])
        assert process.wait(600) == 0, log.read_text()
    assert_same_answers(read_rows(config, "answers"), uninterrupted)


def test_a_run_survives_the_loss_of_one_node_of_three(tmp_path: Path, job, uninterrupted):
    import ray
    from ray.cluster_utils import Cluster

    config = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        parts = Path(config.output) / "_run" / "parts"

        def kill_a_node() -> None:
            while len(list(parts.glob("*.parquet"))) < 2:
                time.sleep(0.1)
            cluster.remove_node(nodes[0], allow_graceful=False)

        killer = threading.Thread(target=kill_a_node)
        killer.start()
        manifest = answer_documents(config)
        killer.join()
        deadline = time.monotonic() + 600
        while len([node for node in ray.nodes() if node["Alive"]]) > 2:  # Ray detects it only after a while
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted)


# ---- S3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="module")
def lake(server: S3Server, job: AnswerConfig) -> Any:
    return lake_with(job, server.endpoint_url)


def answers_on(lake: Any, output: str) -> list[dict[str, Any]]:
    rows = [row for name in lake.find(f"lake/{output}/answers") for row in pq.read_table(lake.open(name)).to_pylist()]
    return sorted(rows, key=lambda row: (row["document_id"], row["question_id"]))


def test_a_run_survives_a_minute_of_slow_down_replies(tmp_path: Path, job, uninterrupted, server, lake):
    with fault_proxy(server.ports["proxy"]) as proxy:
        config, log = changed(on_s3(job, proxy.endpoint_url, "minute"), runner=SLOW_RUNNER), tmp_path / "log"
        with command_line(write_config(tmp_path, config), log) as process:
            wait_for(lambda: lake.find("lake/minute/_run/parts"), process, log)
            proxy.choose = lambda *request: "slow down"
            time.sleep(60)
            proxy.choose = lambda *request: None
            assert process.wait(600) == 0, log.read_text()
        assert proxy.done["slow down"] > 5
    assert_same_answers(answers_on(lake, "minute"), uninterrupted)


def test_a_run_resumes_after_its_server_was_down_for_twenty_seconds(tmp_path: Path, job, uninterrupted, server, lake):
    config, log = changed(on_s3(job, server.endpoint_url, "killed"), runner=SLOW_RUNNER), tmp_path / "log"
    path = write_config(tmp_path, config)
    with command_line(path, log) as process:
        wait_for(lambda: lake.find("lake/killed/_run/parts"), process, log)
        server.kill()
        time.sleep(20)
        server.start()
        code = process.wait(600)
        print(f"ended with {code}")  # noqa: T201
        assert code in (0, 1), log.read_text()
    if code:
        with command_line(path, log) as process:
            assert process.wait(600) == 0, log.read_text()
    assert_same_answers(answers_on(lake, "killed"), uninterrupted)


@pytest.mark.parametrize("round_", range(10))
def test_of_two_drivers_that_start_together_one_runs_and_one_is_refused(
    tmp_path: Path, job, uninterrupted, server, lake, round_: int
):
    folder = f"twice{round_}"
    path = write_config(tmp_path, on_s3(job, server.endpoint_url, folder))
    logs = [tmp_path / f"log{i}" for i in range(2)]
    with command_line(path, logs[0]) as first, command_line(path, logs[1]) as second:
        codes = sorted(process.wait(600) for process in (first, second))
    output = "".join(log.read_text() for log in logs)
    assert codes == [0, 2], output
    assert "is being written by a live run" in output
    assert_same_answers(answers_on(lake, folder), uninterrupted)


# ---- large inputs


def test_ten_thousand_small_files(tmp_path: Path, models):
    documents = tuple([{"document_id": f"d{i}", "text": f"Ada Vane built {i} lighthouses."}] for i in range(10_000))
    questions = [
        {"question_id": "q", "question": "Who built it?", "document_id": f"d{i}"} for i in range(0, 10_000, 50)
    ]
    config = write_job(tmp_path, models["bert"], documents, questions)
    manifest = run(config, tmp_path)
    print(manifest["seconds"], manifest["peak_memory_mb"])  # noqa: T201
    assert manifest["counts"]["documents"] == 10_000
    assert manifest["counts"]["answers"] == 200
    assert manifest["peak_memory_mb"]["driver"] < 1000


def test_one_file_of_two_gigabytes_in_large_row_groups(tmp_path: Path, models):
    """Four row groups of 512 incompressible documents of 1 MB each; a few have a question."""
    (tmp_path / "documents").mkdir()
    schema = pa.schema([("document_id", pa.string()), ("text", pa.large_string())])
    with pq.ParquetWriter(tmp_path / "documents" / "part-0.parquet", schema, use_dictionary=False) as writer:
        for group in range(4):
            texts = [f"Ada Vane built it. {os.urandom(500_000).hex()}" for _ in range(512)]
            ids = [f"d{group * 512 + i}" for i in range(512)]
            writer.write_table(pa.table([ids, texts], schema=schema), row_group_size=512)
    assert (tmp_path / "documents" / "part-0.parquet").stat().st_size > 1e9
    questions = [{"question_id": "q", "question": "Who?", "document_id": f"d{i}"} for i in range(0, 2048, 512)]
    config = write_job(tmp_path, models["bert"], (), questions)
    largest = 0
    log = tmp_path / "log"
    with command_line(write_config(tmp_path, config), log) as process:
        while process.poll() is None:
            largest = max([largest, *map(resident_bytes, descendants(process.pid))])
            time.sleep(0.2)
        assert process.returncode == 0, log.read_text()
    manifest = inspect_output(config.output, make_plan(config).identity).manifest()
    print(manifest["seconds"], manifest["peak_memory_mb"], f"largest process {largest / 1e6:.0f} MB")  # noqa: T201
    assert manifest["counts"]["answers"] == 4
    assert manifest["peak_memory_mb"]["driver"] < 1000
    assert largest < 2.5e9


def resident_bytes(pid: int) -> int:
    """The private memory of the process, without what it shares, such as Ray's object store."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()
