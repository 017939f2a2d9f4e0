"""However a job is cut up, interrupted, killed and resumed, the same answers come out, each once."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from models import TEXT
from running import (
    assert_nothing_lost,
    assert_same_answers,
    changed,
    command_line,
    descendants,
    read_rows,
    title,
    told,
    wait_for,
    write_job,
)

from qa_ray.config import AnswerConfig
from qa_ray.errors import ModelError
from qa_ray.outputs import look
from qa_ray.pipeline import answer_documents
from qa_ray.plan import make_plan

NUM_DOCUMENTS = 40
RUNNER = {"device": "cpu", "cpus_per_actor": 1}
SLOWLY = RUNNER | {"batch_tokens": 1}  # one window at a time


def documents() -> list[dict[str, Any]]:
    """Documents of 6 to 36 windows, each its own."""
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
    """The manifest and the answers of a run of one actor that nothing disturbed."""
    manifest = answer_documents(job)
    assert_nothing_lost(job, PAIRS, manifest)
    return manifest, read_rows(job, "answers")


def committed(config: AnswerConfig) -> list[Path]:
    """What the checkpoint holds of a run that goes on."""
    files = (Path(config.output) / "_run" / "checkpoint").glob("*.parquet")
    return [file for file in files if "pending" not in file.name]


def test_counts_add_up(uninterrupted):
    manifest, answers = uninterrupted
    counts = manifest["counts"]
    assert (counts["documents"], counts["answers"], counts["rejects"]) == (NUM_DOCUMENTS, len(PAIRS), 0)
    assert counts["windows"] == sum(row["num_windows"] for row in answers) == manifest["windows_this_run"]
    assert manifest["files"] == {"answers": ["part-00000.parquet"], "rejects": []}
    by_id = {document["document_id"]: document for document in documents()}
    for row in answers:
        document = by_id[row["document_id"]]
        assert row["length"] == document["length"]
        assert document["text"][row["start_char"] : row["stop_char"]] == row["answer"]


def test_two_actors_other_files_row_groups_and_batches_give_the_same_answers(tmp_path: Path, models, uninterrupted):
    rows = documents()
    random.Random(1).shuffle(rows)
    config = write_job(tmp_path, models["bert"], (rows[:3], rows[3:30], rows[30:]), QUESTIONS, row_group_size=1)
    config = changed(config, runner=RUNNER | {"actors": 2, "batch_tokens": 300})
    assert make_plan(config).rows_per_block("cpu", 2) == 5
    manifest = answer_documents(config)
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def test_a_run_whose_processes_are_killed_is_resumed_to_the_same_answers(tmp_path: Path, job, uninterrupted):
    config = changed(job, output=str(tmp_path / "out"), runner=SLOWLY)
    log = tmp_path / "log"
    with command_line(write_config(tmp_path, config), log) as process:
        wait_for(lambda: committed(config), process, log)
        num_committed = len(committed(config))
        os.kill(actor_of(process.pid), signal.SIGKILL)  # Ray starts another one
        wait_for(lambda: len(committed(config)) > num_committed, process, log)
    assert look(config.output, make_plan(config).identity).resumed
    assert "Traceback" not in log.read_text()

    manifest = answer_documents(changed(config, runner=RUNNER))
    assert 0 < manifest["windows_this_run"] < manifest["counts"]["windows"]
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def actor_of(pid: int) -> int:
    """The process of the actor with the model that the run of process ``pid`` has."""
    found = [child for child in descendants(pid) if "AnswerDocuments" in title(child)]
    assert len(found) == 1, [title(child) for child in descendants(pid)]
    return found[0]


def write_config(folder: Path, config: AnswerConfig) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(config.model_dump()))
    return path


def test_ctrl_c_and_sigterm_end_a_run_with_130_and_the_same_command_goes_on(tmp_path: Path, job, uninterrupted):
    config = changed(job, output=str(tmp_path / "out"), runner=SLOWLY)
    log, path = tmp_path / "log", write_config(tmp_path, config)
    # A terminal sends Ctrl-C to all processes of a command; a batch system sends SIGTERM to the command.
    for kill, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)):
        num_committed = len(committed(config))
        with command_line(path, log) as process:
            wait_for(lambda: len(committed(config)) > num_committed, process, log)  # noqa: B023
            kill(process.pid, number)
            assert process.wait(60) == 130, log.read_text()
        words = log.read_text().rstrip()
        assert words.endswith("interrupted; documents that are done stay done: run the same command to go on")
        assert "Traceback" not in words

    manifest = answer_documents(changed(config, runner=RUNNER))
    assert 0 < manifest["windows_this_run"] < manifest["counts"]["windows"]
    assert_nothing_lost(config, PAIRS, manifest)
    assert_same_answers(read_rows(config, "answers"), uninterrupted[1])


def test_the_command_line_shows_a_finished_run_and_leaves_it_as_it_is(tmp_path: Path, job, uninterrupted):
    path, log = write_config(tmp_path, job), tmp_path / "log"
    with command_line(path, log) as process:
        assert process.wait(120) == 0, log.read_text()
    assert f"{len(PAIRS)} answers and 0 rejects to {NUM_DOCUMENTS} documents" in log.read_text()
    assert json.loads((Path(job.output) / "manifest.json").read_text()) == uninterrupted[0]


@pytest.mark.usefixtures("ray_session")
def test_a_model_that_only_a_worker_can_find_broken_is_told_as_if_the_driver_had(tmp_path: Path, models):
    folder = Path(shutil.copytree(models["bert"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type"}))
    with told(ModelError, f"model {str(folder)!r}: cannot be loaded for question answering (The checkpoint you"):
        answer_documents(write_job(tmp_path, str(folder)))
