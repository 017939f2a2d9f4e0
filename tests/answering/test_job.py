"""However a job is split, interrupted, killed and resumed, the answers are the same, each of them once."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from models import TEXT
from running import (
    assert_nothing_lost,
    assert_same_answers,
    changed,
    command_line,
    descendants,
    raises_error,
    read_rows,
    title,
    wait_for,
    write_config,
    write_job,
)

from qa_ray.answering.job import answer_documents
from qa_ray.answering.part_files import finished_documents, list_parts, write_part
from qa_ray.answering.plan import make_plan
from qa_ray.config import AnswerConfig
from qa_ray.errors import ModelError
from qa_ray.io.document_table import unfinished_row_groups
from qa_ray.output.acquire import acquire_output
from qa_ray.output.folder import inspect_output
from qa_ray.schemas import PART

NUM_DOCUMENTS = 40
RUNNER = {"device": "cpu", "dtype": "float32", "actors": 1, "cpus_per_actor": 1}
SLOW_RUNNER = RUNNER | {"batch_tokens": 1}  # one window at a time


def documents() -> list[dict[str, Any]]:
    """Documents of 6 to 36 windows, all different."""
    words = TEXT.split()
    draw = random.Random(0)
    lengths = [draw.randint(100, 600) for _ in range(NUM_DOCUMENTS)]
    return [
        {"document_id": f"d{i:02}", "text": " ".join(draw.choices(words, k=length)), "length": length}
        for i, length in enumerate(lengths)
    ]


QUESTIONS = [
    {"question_id": "who", "question": "Who built the lighthouse?", "document_id": None},
    {"question_id": "where", "question": "它在哪里？", "document_id": None},
    {"question_id": "when", "question": "When was the agreement signed?", "document_id": "d07"},
]
PAIRS = [(f"d{i:02}", question) for i in range(NUM_DOCUMENTS) for question in ("who", "where")] + [("d07", "when")]


@pytest.fixture(scope="module")
def job(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AnswerConfig:
    """A job over these documents in one file."""
    return write_job(tmp_path_factory.mktemp("job"), models["bert"], documents(), QUESTIONS)


@pytest.fixture(scope="module")
def uninterrupted(job: AnswerConfig, ray_session: None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the answers of an uninterrupted run with one actor."""
    manifest = answer_documents(job)
    assert_nothing_lost(job, PAIRS, manifest)
    return manifest, read_rows(job, "answers")


def complete_parts(config: AnswerConfig) -> list[Path]:
    """The part files of a run in progress that are complete."""
    parts = (Path(config.output) / "_run" / "parts").glob("*.parquet")
    return [part for part in parts if part.read_bytes()[4:].endswith(b"PAR1")]


def write_parts(config: AnswerConfig, answers: list[dict[str, Any]], ids: list[str]) -> int:
    """Leaves what a killed run would that had answered these documents; returns the number of their windows."""
    with acquire_output(config.output, make_plan(config).identity) as output:
        rows = []
        for document in documents():
            own_answers = [row for row in answers if row["document_id"] == document["document_id"] in ids]
            num_windows = sum(row["num_windows"] for row in own_answers)
            row = {"answers": own_answers, "rejects": [], "num_tokens": 1, "num_windows": num_windows}
            row["num_windows_read"] = num_windows
            row["text_sha256"] = own_answers[0]["text_sha256"] if own_answers else None
            rows += [row | {name: document[name] for name in ("document_id", "length")}] if own_answers else []
        schema = pa.schema([("document_id", pa.string()), ("length", pa.int64()), *PART])
        write_part(output.parts, pa.Table.from_pylist(rows, schema))
    return sum(row["num_windows"] for row in rows)


def test_counts_add_up(job, uninterrupted):
    manifest, answers = uninterrupted
    counts = manifest["counts"]
    assert (counts["documents"], counts["answers"], counts["rejects"]) == (NUM_DOCUMENTS, len(PAIRS), 0)
    assert counts["windows"] == sum(row["num_windows"] for row in answers) == manifest["windows_this_run"]
    assert manifest["windows_per_second"] > 0
    (file,) = manifest["files"]["answers"]
    assert re.fullmatch(r"part-00000-[0-9a-f]{8}\.parquet", file["name"])
    assert (file["rows"], manifest["files"]["rejects"]) == (len(PAIRS), [])
    content = (Path(job.output) / "answers" / file["name"]).read_bytes()
    assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    by_id = {document["document_id"]: document for document in documents()}
    for row in answers:
        document = by_id[row["document_id"]]
        assert row["length"] == document["length"]
        assert row["text_sha256"] == hashlib.sha256(document["text"].encode()).hexdigest()
        assert row["run_id"] == manifest["run_id"]
        assert document["text"][row["start_char"] : row["stop_char"]] == row["answer"]


def test_other_files_row_groups_actors_and_batches_give_the_same_answers(tmp_path: Path, models, uninterrupted):
    rows = documents()
    random.Random(1).shuffle(rows)
    config = write_job(tmp_path, models["bert"], (rows[:3], rows[3:30], rows[30:]), QUESTIONS, row_group_size=1)
    config = changed(config, runner=RUNNER | {"actors": 2, "batch_tokens": 300})
    assert make_plan(config).rows_per_block("cpu", 2) == 5
    manifest = answer_documents(config)
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def test_a_run_whose_processes_are_killed_is_resumed_to_the_same_answers(tmp_path: Path, job, uninterrupted):
    config = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER)
    log = tmp_path / "log"
    with command_line(write_config(tmp_path, config), log) as process:
        wait_for(lambda: complete_parts(config), process, log)
        num_parts = len(complete_parts(config))
        os.kill(actor_of(process.pid), signal.SIGKILL)  # Ray restarts it
        wait_for(lambda: len(complete_parts(config)) > num_parts, process, log)
    assert inspect_output(config.output, make_plan(config).identity).resumed
    assert "Traceback" not in log.read_text()

    manifest = answer_documents(changed(config, runner=RUNNER))
    assert 0 < manifest["windows_this_run"] < manifest["counts"]["windows"]
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def actor_of(pid: int) -> int:
    """The process of the actor with the model, in the run of process ``pid``."""
    actors = [child for child in descendants(pid) if "AnswerDocuments" in title(child)]
    assert len(actors) == 1, [title(child) for child in descendants(pid)]
    return actors[0]


def test_ctrl_c_and_sigterm_end_a_run_with_130_and_the_same_command_resumes_it(tmp_path: Path, job, uninterrupted):
    config = changed(job, output=str(tmp_path / "out"), runner=SLOW_RUNNER)
    log, path = tmp_path / "log", write_config(tmp_path, config)
    # A terminal sends Ctrl-C to all processes of a command; a batch system sends SIGTERM to the command.
    for kill, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)):
        num_parts = len(complete_parts(config))
        with command_line(path, log) as process:
            wait_for(lambda: len(complete_parts(config)) > num_parts, process, log)  # noqa: B023
            kill(process.pid, number)
            assert process.wait(900) == 130, log.read_text()
        output = log.read_text().rstrip()
        assert output.endswith("interrupted; finished work is kept: run the same command again to resume")
        assert "Traceback" not in output

    manifest = answer_documents(changed(config, runner=RUNNER))
    assert 0 < manifest["windows_this_run"] < manifest["counts"]["windows"]
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def test_a_finished_output_is_shown_and_left_unchanged(tmp_path: Path, job, uninterrupted):
    path, log = write_config(tmp_path, job), tmp_path / "log"
    with command_line(path, log) as process:
        assert process.wait(900) == 0, log.read_text()
    assert f"{len(PAIRS)} answers and 0 rejects for {NUM_DOCUMENTS} documents" in log.read_text()
    assert json.loads((Path(job.output) / "manifest.json").read_text()) == uninterrupted[0]


@pytest.mark.usefixtures("ray_session")
def test_a_broken_model_that_only_a_worker_can_detect_is_reported_in_one_line(tmp_path: Path, models):
    folder = Path(shutil.copytree(models["bert"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 33}))
    with raises_error(ModelError, f"model {str(folder)!r}: cannot be loaded for question answering ("):
        answer_documents(write_job(tmp_path, str(folder)))


@pytest.mark.usefixtures("ray_session")
def test_a_resumed_run_reads_only_row_groups_with_unfinished_documents(tmp_path: Path, models, uninterrupted):
    rows = documents()
    config = write_job(tmp_path, models["bert"], (rows[:10], rows[10:]), QUESTIONS)
    for part in Path(config.documents).iterdir():
        pq.write_table(pq.read_table(part), part, row_group_size=10)
    plan = make_plan(config)
    num_windows = write_parts(config, uninterrupted[1], [f"d{i:02}" for i in (*range(10, 20), 20, 21)])
    parts = inspect_output(config.output, plan.identity).parts
    finished = finished_documents(list_parts(parts, "document_id", plan.documents.hash_key))
    unfinished = [(group.path[-14:], group.number) for group in unfinished_row_groups(plan.documents, finished)]
    assert unfinished == [("part-0.parquet", 0), ("part-1.parquet", 1), ("part-1.parquet", 2)]
    manifest = answer_documents(config)
    assert manifest["windows_this_run"] == manifest["counts"]["windows"] - num_windows
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


@pytest.mark.usefixtures("ray_session")
def test_a_document_in_two_part_files_counts_once_and_an_incomplete_file_is_ignored(tmp_path: Path, job, uninterrupted):
    config = changed(job, output=str(tmp_path / "out"))
    for ids in (range(25), range(20, 40)):
        write_parts(config, uninterrupted[1], [f"d{i:02}" for i in ids])
    parts = Path(inspect_output(config.output, make_plan(config).identity).parts)
    (parts / "00.parquet").write_bytes(next(parts.glob("*.parquet")).read_bytes()[:-1])
    manifest = answer_documents(config)
    assert manifest["windows_this_run"] == 0
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def test_run_json_reports_the_time_of_each_stage(job, uninterrupted):
    report = json.loads((Path(job.output) / "run.json").read_text())
    assert report["outcome"] == "all documents are read"
    assert report["documents_done"] == NUM_DOCUMENTS
    assert report["answers"] == len(PAIRS)
    assert report["rejects_by_reason"] == {}
    assert report["windows_this_run"] == sum(row["num_windows"] for row in read_rows(job, "answers"))
    assert report["seconds_by_stage"].keys() == {"tokenize", "assemble", "forward", "decode", "write"}
    assert all(0 < seconds < report["seconds"] for seconds in report["seconds_by_stage"].values())
    assert report["busy_share"].keys() == {"tokenize-1", "answer-1"}
    assert all(0 < share <= 1 for share in report["busy_share"].values())


def test_the_reference_names_every_key_of_the_manifest_and_of_run_json(job, uninterrupted):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "outputs.md").read_text(encoding="utf-8")
    manifest, report = uninterrupted[0], json.loads((Path(job.output) / "run.json").read_text())
    groups = [manifest, report, manifest["counts"], manifest["files"]["answers"][0], manifest["resources"]]
    groups += [manifest["peak_memory_mb"], report["seconds_by_stage"], {"retries": []}]
    groups += [{re.sub(r"^(columns|windows|answers)\..*", r'"\1.', key): None for key in manifest["identity"]}]
    assert [key for keys in groups for key in keys if not re.search(rf'[`."]{re.escape(key)}', page)] == []
