"""Fine-tuning as a job: stories learned from nothing, killed and resumed, by several workers, on object storage."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from models import save_model
from running import (
    command_line,
    descendants,
    is_alive,
    raises_error,
    read_rows,
    title,
    wait_for,
    write_config,
    write_job,
)
from s3_server import bucket, s3_server
from safetensors.torch import load_file
from stories import TEXTS, VOCABULARY, stories, write_tables
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from qa_ray.answering.job import answer_documents
from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, InputError, ModelError, OutputError
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.output.folder import acquire_output
from qa_ray.schemas import QUESTIONS
from qa_ray.training.job import finetune, label
from qa_ray.training.plan import make_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("character-model")
    settings = {"max_tokens": 64, "overlap_tokens": 8, "max_question_tokens": 24}
    return save_model("bert", folder, text=VOCABULARY, std=0.2, settings=settings)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[str, Any]:
    """The config of a lesson that is learned to the end."""
    folder = tmp_path_factory.mktemp("lesson")
    tables = write_tables(folder, *stories())
    return {
        **tables,
        "output": str(folder / "output"),
        "model": model,
        "validation": {**tables, "metric": "cmrc"},
        "training": {
            "epochs": 6, "learning_rate": 3e-3, "dropout": 0.0, "step_tokens": 40, "checkpoint_steps": 8,
            "dtype": "float32",
        },
        "runner": {"device": "cpu", "cpus_per_worker": 1, "max_failures": 1},
        "about": {"licence": "CC0-1.0"},
    }  # fmt: skip


def config(lesson: dict[str, Any], output: Path | str, **settings: Any) -> FinetuneConfig:
    values = {**lesson, "output": str(output)}
    for name, value in settings.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return check_config(FinetuneConfig, values, "test")


@pytest.fixture(scope="module")
def learned(lesson: dict[str, Any], ray_session: None) -> dict[str, Any]:
    return finetune(config(lesson, lesson["output"]))


def weights(output: str | Path) -> dict[str, Any]:
    return load_file(Path(output) / "model" / "model.safetensors")


def assert_same_weights(one: str | Path, other: str | Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) <= tolerance


def test_a_small_model_learns_the_stories_from_nothing(learned: dict[str, Any]):
    assert learned["counts"]["questions to learn from"] == 18
    assert learned["counts"]["answers as_given"] == 36  # those to learn from, and the same to validate with
    assert learned["best"]["exact_match"] == 100
    assert learned["best"]["f1"] == 100
    assert learned["best"]["gold_among_n_best"] == 100
    assert learned["best"]["mean_rank_of_gold"] == 1
    assert len(learned["epochs"]) == 6


def test_the_answer_job_says_what_the_last_validation_said(
    lesson: dict[str, Any], learned: dict[str, Any], tmp_path: Path
):
    documents, questions = stories()
    asked = pa.Table.from_pylist(questions, QUESTIONS)
    job = write_job(tmp_path, f"{lesson['output']}/model", documents, asked)
    answer_documents(job)
    found = evaluate(job.output, job.questions, "cmrc").overall
    assert (found.exact_match, found.f1) == (learned["best"]["exact_match"], learned["best"]["f1"])
    assert len(read_rows(job, "answers")) == 18


def test_the_model_says_what_it_is_and_how_it_wants_to_be_used(lesson: dict[str, Any], learned: dict[str, Any]):
    checkpoint = open_checkpoint(f"{lesson['output']}/model")
    assert checkpoint.settings.max_tokens == 64
    assert checkpoint.settings.model_fields_set >= {"score_slope", "score_intercept", "no_answer_threshold"}
    extra = checkpoint.settings.model_extra or {}
    assert extra["licence"] == "CC0-1.0"
    assert extra["scores"]["f1"] == learned["best"]["f1"]
    assert extra["epoch"] == learned["best"]["epoch"]


def test_tensorboard_has_the_course_of_learning_and_some_answers(lesson: dict[str, Any], learned: dict[str, Any]):
    values = tensorboard(Path(lesson["output"]) / "tensorboard")
    assert values["train/loss"][-1] < 0.2 * values["train/loss"][0]
    assert len(values["validation/f1"]) == 6
    for name in ("train/learning_rate", "train/tokens_per_second", "validation/gold_among_n_best"):
        assert values[name]
    assert "小明" in values["validation/answers/text_summary"][0]


def tensorboard(folder: Path) -> dict[str, list[Any]]:
    """The values of each name, in order."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            length = int.from_bytes(content[:8], "little")
            for value in Event.FromString(content[12 : 12 + length]).summary.value:
                text = value.tensor.string_val
                found.setdefault(value.tag, []).append(text[0].decode() if text else value.simple_value)
            content = content[16 + length :]
    return found


def test_a_finished_lesson_is_left_as_it_is_and_another_one_refused(lesson: dict[str, Any], learned: dict[str, Any]):
    assert finetune(config(lesson, lesson["output"])) == learned
    assert finetune(config(lesson, lesson["output"], runner={"workers": 2})) == learned
    with raises_error(OutputError, "holds another run, which differs in training.epochs (6 there, 7 now)"):
        finetune(config(lesson, lesson["output"], training={"epochs": 7}))


def steps_done(output: Path) -> int:
    """The steps behind the last checkpoint."""
    steps = [0]
    for path in output.glob("_run/train/checkpoint_*/progress.json"):
        with suppress(ValueError, FileNotFoundError):  # it is being written, or removed
            steps.append(json.loads(path.read_text())["total_steps"])
    return max(steps)


def test_a_killed_worker_is_started_again_and_so_is_a_killed_run_to_the_same_end(
    lesson: dict[str, Any], learned: dict[str, Any], tmp_path: Path
):
    own, output = config(lesson, tmp_path / "out"), tmp_path / "out"
    log = tmp_path / "log"
    with command_line(write_config(tmp_path, own), log, verb="finetune") as process:
        wait_for(lambda: steps_done(output), process, log)
        workers = [child for child in descendants(process.pid) if "TrainWorker" in title(child)]
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: not is_alive(workers[0]), process, log)
        num_steps = steps_done(output)
        wait_for(lambda: steps_done(output) > num_steps, process, log)
    assert not (output / "_SUCCESS").exists()
    manifest = finetune(own)
    assert [epoch["f1"] for epoch in manifest["epochs"]] == [epoch["f1"] for epoch in learned["epochs"]]
    assert_same_weights(output, lesson["output"], 1e-5)
    assert "Traceback" not in log.read_text()


@pytest.mark.usefixtures("ray_session")
def test_two_workers_learn_what_one_learns(lesson: dict[str, Any], learned: dict[str, Any], tmp_path: Path):
    finetune(config(lesson, tmp_path, runner={"workers": 2}))
    assert_same_weights(tmp_path, lesson["output"], 2e-2)  # other sums, which learning makes larger
    assert json.loads((tmp_path / "manifest.json").read_text())["best"]["f1"] == 100


@pytest.fixture
def endpoint_url(tmp_path: Path) -> Iterator[str]:
    with s3_server(tmp_path / "swift") as server:
        yield server.endpoint_url


@pytest.mark.usefixtures("ray_session")
def test_it_learns_from_and_to_object_storage(lesson: dict[str, Any], tmp_path: Path, endpoint_url: str):
    filesystem = bucket(endpoint_url, "lake")
    for name in ("documents", "questions"):
        filesystem.put(f"{lesson[name]}/", f"lake/{name}/", recursive=True)
    tables = {name: f"s3://lake/{name}" for name in ("documents", "questions")}
    own = config(
        lesson | tables,
        "s3://lake/learned",
        validation=tables,
        training={"epochs": 1},
        storage={"endpoint_url": endpoint_url, "addressing_style": "path"},
    )
    manifest = finetune(own)
    assert len(manifest["epochs"]) == 1
    found = {path.removeprefix("lake/learned/") for path in filesystem.find("lake/learned")}
    assert {"_SUCCESS", "manifest.json", "model/model.safetensors", "model/qa_ray.json"} <= found
    assert any(path.startswith("tensorboard/") for path in found)
    assert not any(path.startswith("_run/") for path in found)


@pytest.mark.usefixtures("ray_session")
def test_without_epochs_the_model_stays_and_is_calibrated(lesson: dict[str, Any], learned: Any, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(f"{lesson['output']}/model", model)
    unsure = {"score_slope": 0.1, "score_intercept": 9.0, "lexical_weight": 0.25}
    (model / "qa_ray.json").write_text(json.dumps(json.loads((model / "qa_ray.json").read_text()) | unsure))
    tables = {name: lesson[name] for name in ("documents", "questions")}
    training = {"epochs": 0, "dtype": "float32"}
    own = {**lesson, **tables, "model": str(model), "validation": {"metric": "cmrc"}, "training": training}
    manifest = finetune(check_config(FinetuneConfig, own | {"output": str(tmp_path / "calibrated")}, "test"))
    assert manifest["counts"]["questions to validate with"] == 18
    assert "questions to learn from" not in manifest["counts"]
    assert manifest["best"]["f1"] == 100
    fitted, learnt_with = (
        open_checkpoint(f"{folder}/model").settings for folder in (tmp_path / "calibrated", lesson["output"])
    )
    assert fitted.score_slope == pytest.approx(learnt_with.score_slope, rel=1e-3) != 1
    assert fitted.score_intercept == pytest.approx(learnt_with.score_intercept, rel=1e-3)
    assert fitted.lexical_weight == 0.25
    assert_same_weights(tmp_path / "calibrated", lesson["output"], 0)


@pytest.mark.usefixtures("ray_session")
def test_without_epochs_the_mean_of_models_is_calibrated(lesson: dict[str, Any], learned: Any, tmp_path: Path):
    first, last = lesson["model"], f"{lesson['output']}/model"
    training = {"epochs": 0, "averaged_with": [first, last]}
    plan = config(lesson | {"model": first}, tmp_path / "mean", training=training)
    finetune(plan)
    begun, ended, mean = load_file(Path(first) / "model.safetensors"), weights(lesson["output"]), weights(plan.output)
    for name in mean:
        torch.testing.assert_close(mean[name], (2 * begun[name] + ended[name]) / 3)
    with raises_error(OutputError, "holds another run, which differs in training.averaged_with"):
        finetune(config(lesson | {"model": first}, plan.output, training=training | {"averaged_with": [first]}))


@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_learnt_from_is_rejected_with_its_reason(lesson: dict[str, Any], tmp_path: Path):
    documents, questions = stories()
    text = TEXTS[0]
    bad = {
        "not there": ("谁？", [{"text": "小美", "start_char": 0}], "answer_not_found"),
        "ambiguous": ("谁？", [{"text": "小明", "start_char": 3}], "answer_ambiguous"),
        "empty": ("谁？", [{"text": " ", "start_char": 0}], "empty_answer"),
        "blank": (" ", [{"text": "小明", "start_char": 0}], "blank_question"),
        "no gold": ("谁？", None, "no_gold"),
        "again": (questions[0]["question"], questions[0]["answers"], "duplicate"),
        "too long": ("谁" * 30, [{"text": "小明", "start_char": 0}], "question_too_long"),
    }
    for name, (question, gold, _) in bad.items():
        questions.append({"question_id": name, "question": question, "document_id": "story 0", "answers": gold})
    moved = [{"text": "很高兴", "start_char": 0}, {"text": "很难过", "start_char": 1}]
    questions.append({"question_id": "moved", "question": "怎么样？", "document_id": "story 0", "answers": moved})
    questions.append({"question_id": "none", "question": "什么？", "document_id": "story 0", "answers": []})
    assert "很高兴" in text
    lost = {"question_id": "lost", "question": "谁？", "document_id": "story 9", "answers": []}
    bad["lost"] = ("谁？", [], "unknown_document")
    tables = write_tables(tmp_path / "tables", documents, [*questions, lost])
    plan = make_plan(config(lesson | tables, tmp_path / "out"))
    with acquire_output(plan.output, plan.identity) as output:
        labeled = label(plan, output)
    rejects = pq.read_table(tmp_path / "out" / "rejects").to_pylist()
    assert {row["question_id"]: row["reason"] for row in rejects} == {name: row[2] for name, row in bad.items()}
    assert labeled.rejects.total() == len(bad)
    assert labeled.counts["questions to learn from"] == 18 + 2
    assert labeled.counts["answers relocated"] == 1
    assert labeled.counts["answers answer_not_found"] == 2


@pytest.mark.usefixtures("ray_session")
def test_nothing_to_learn_from_or_to_validate_with_is_told(lesson: dict[str, Any], tmp_path: Path):
    documents, questions = stories()
    tables = write_tables(tmp_path / "tables", documents, [row | {"answers": None} for row in questions])
    with raises_error(InputError, "questions: nothing to learn from in ", "18 no_gold", "rejects"):
        finetune(config(lesson | tables, tmp_path / "one"))
    own = lesson | {"output": str(tmp_path / "two"), "validation": {"held_out": 1e-9}}
    with raises_error(InputError, "no document with questions was held out; raise validation.held_out"):
        finetune(check_config(FinetuneConfig, own, "test"))


def test_settings_that_do_not_fit_are_told_before_anything_runs(lesson: dict[str, Any], tmp_path: Path):
    with raises_error(ConfigError, "training.window_tokens: 4096 is not between 43", "and 130, the most that"):
        finetune(config(lesson, tmp_path / "out", training={"window_tokens": [64, 4096]}))
    with raises_error(ModelError, "model 'org/name': no such folder here, and the hub did not give it"):
        finetune(config(lesson | {"model": "org/name"}, tmp_path / "out"))
    with raises_error(ModelError, "model 'org/other': no such folder here, and the hub did not give it"):
        finetune(config(lesson, tmp_path / "out", training={"averaged_with": ["org/other"]}))
    with raises_error(ModelError, "training.averaged_with: 'default' is not like the model", "embeddings"):
        finetune(config(lesson, tmp_path / "out", training={"averaged_with": ["default"]}))
    with raises_error(ConfigError, "validation needs documents and questions, or neither"):
        check_config(FinetuneConfig, lesson | {"validation": {"documents": "x"}}, "test")
    tables = write_tables(tmp_path / "tables", *stories())
    path = tmp_path / "tables" / "questions" / "part.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "answers", pa.array(["小明"] * 18)), path)
    with raises_error(
        InputError, "questions: the column 'answers' has type string, not list<struct<text, start_char>>"
    ):
        finetune(config(lesson | tables, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
