"""The fine-tuning job: trained from random weights, killed and resumed, by several workers, on object storage."""

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
from transformers import AutoConfig, BertForMaskedLM

from qa_ray.answering.job import answer_documents
from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, InputError, ModelError, OutputError
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.gate.fitted import FittedGate, no_answers
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.settings import ReadRule
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.output.acquire import acquire_output
from qa_ray.schemas import QUESTIONS
from qa_ray.training.job import finetune
from qa_ray.training.labeled_data import label_data
from qa_ray.training.plan import make_plan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("character-model")
    settings = {"max_tokens": 64, "overlap_tokens": 8, "max_question_tokens": 24}
    return save_model("bert", folder, text=VOCABULARY, std=0.2, settings=settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[str, Any]:
    """The config of a job that learns the stories by heart."""
    folder = tmp_path_factory.mktemp("job")
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
        "about": {"license": "CC0-1.0"},
    }  # fmt: skip


def config(base: dict[str, Any], output: Path | str, **settings: Any) -> FinetuneConfig:
    values = {**base, "output": str(output)}
    for name, value in settings.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return check_config(FinetuneConfig, values, "test")


@pytest.fixture(scope="module")
def manifest(base: dict[str, Any], ray_session: None) -> dict[str, Any]:
    """The manifest of that job, which has run."""
    return finetune(config(base, base["output"]))


def weights(output: str | Path) -> dict[str, Any]:
    return load_file(Path(output) / "model" / "model.safetensors")


def assert_same_weights(one: str | Path, other: str | Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) <= tolerance


def test_a_small_model_learns_the_stories_from_random_weights(manifest: dict[str, Any]):
    assert manifest["counts"]["training_questions"] == 18
    assert manifest["counts"]["gold_as_given"] == 36  # 18 in the training tables, the same 18 in the validation tables
    assert manifest["best"]["exact_match"] == 100
    assert manifest["best"]["f1"] == 100
    assert manifest["best"]["gold_among_n_best"] == 100
    assert manifest["best"]["mean_rank_of_gold"] == 1
    assert [figures["epoch"] for figures in manifest["epochs"]] == [0, 1, 2, 3, 4, 5, 6]
    assert manifest["epochs"][0]["f1"] < 50, "the model before training"


def test_scores_are_not_fitted_to_eighteen_questions_and_that_is_said(base: dict[str, Any], manifest: dict[str, Any]):
    fitted = manifest["fitted"]
    assert fitted["after"] == fitted["before"] == {"score_slope": 1, "score_intercept": 0, "no_answer_threshold": 1}
    assert set(fitted["kept"]) == set(fitted["after"])
    settings = json.loads((Path(base["output"]) / "model" / "qa_ray.json").read_text())
    assert settings["fitted"] == fitted
    log = (Path(base["output"]) / "run.log").read_text()
    assert "warning: not fitted, kept: score_slope 1, score_intercept 0 (18 questions with an answer, too few" in log
    for phase in ("labeling 12 documents with 36 questions", "starting the workers", "publishing"):
        assert phase in log


def test_the_answer_job_reaches_the_figures_of_the_best_validation(
    base: dict[str, Any], manifest: dict[str, Any], tmp_path: Path
):
    documents, questions = stories()
    question_table = pa.Table.from_pylist(questions, QUESTIONS)
    job = write_job(tmp_path, f"{base['output']}/model", documents, question_table)
    answer_documents(job)
    scores = evaluate(job.output, f"{tmp_path}/questions", "cmrc").overall
    assert (scores.exact_match, scores.f1) == (manifest["best"]["exact_match"], manifest["best"]["f1"])
    assert len(read_rows(job, "answers")) == 18


def test_the_model_folder_has_its_settings_scores_and_license(base: dict[str, Any], manifest: dict[str, Any]):
    checkpoint = open_checkpoint(f"{base['output']}/model")
    assert checkpoint.settings.max_tokens == 64
    assert checkpoint.settings.model_fields_set >= {"score_slope", "score_intercept", "no_answer_threshold"}
    extra = checkpoint.settings.model_extra or {}
    assert extra["license"] == "CC0-1.0"
    assert extra["scores"]["f1"] == manifest["best"]["f1"]
    assert extra["epoch"] == manifest["best"]["epoch"]


def test_tensorboard_has_the_training_curves_and_some_answers(base: dict[str, Any], manifest: dict[str, Any]):
    values = tensorboard(Path(base["output"]) / "tensorboard")
    assert values["train/loss"][-1] < 0.2 * values["train/loss"][0]
    assert len(values["validation/f1"]) == 7
    assert min(values["train/learning_rate"]) > 0
    for name in ("train/learning_rate", "train/tokens_per_second", "validation/gold_among_n_best"):
        assert values[name]
    assert "小明" in values["validation/answers/text_summary"][0]


def tensorboard(folder: Path) -> dict[str, list[Any]]:
    """The logged values by tag, in order."""
    values: dict[str, list[Any]] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # a record: length, checksum of it, event, checksum of it
            length = int.from_bytes(content[:8], "little")
            for value in Event.FromString(content[12 : 12 + length]).summary.value:
                text = value.tensor.string_val
                values.setdefault(value.tag, []).append(text[0].decode() if text else value.simple_value)
            content = content[16 + length :]
    return values


def test_a_finished_output_is_left_unchanged_and_another_job_is_refused(base: dict[str, Any], manifest: dict[str, Any]):
    assert finetune(config(base, base["output"])) == manifest
    assert finetune(config(base, base["output"], runner={"workers": 2})) == manifest
    with raises_error(OutputError, "holds another run, which differs in training.epochs (6 there, 7 now)"):
        finetune(config(base, base["output"], training={"epochs": 7}))


def steps_done(output: Path) -> int:
    """The number of steps at the last checkpoint."""
    steps = [0]
    for path in output.glob("_run/train/checkpoint_*/progress.json"):
        with suppress(ValueError, FileNotFoundError):  # it is being written, or removed
            steps.append(json.loads(path.read_text())["total_steps"])
    return max(steps)


def test_a_killed_worker_and_a_killed_run_resume_and_give_the_weights_of_an_uninterrupted_run(
    base: dict[str, Any], manifest: dict[str, Any], tmp_path: Path
):
    job, output = config(base, tmp_path / "out"), tmp_path / "out"
    log = tmp_path / "log"
    with command_line(write_config(tmp_path, job), log, verb="finetune") as process:
        wait_for(lambda: steps_done(output), process, log)
        workers = [child for child in descendants(process.pid) if "TrainWorker" in title(child)]
        assert len(workers) == 1
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: not is_alive(workers[0]), process, log)
        num_steps = steps_done(output)
        wait_for(lambda: steps_done(output) > num_steps, process, log)
    assert not (output / "_SUCCESS").exists()
    resumed = finetune(job)
    assert [epoch["f1"] for epoch in resumed["epochs"]] == [epoch["f1"] for epoch in manifest["epochs"]]
    assert_same_weights(output, base["output"], 1e-5)
    assert "Traceback" not in log.read_text()


@pytest.mark.usefixtures("ray_session")
def test_two_workers_train_nearly_the_weights_of_one(base: dict[str, Any], manifest: dict[str, Any], tmp_path: Path):
    finetune(config(base, tmp_path, runner={"workers": 2}))
    assert_same_weights(tmp_path, base["output"], 2e-2)  # sums in another order, a difference that grows with the steps
    assert json.loads((tmp_path / "manifest.json").read_text())["best"]["f1"] == 100


@pytest.fixture
def endpoint_url(tmp_path: Path) -> Iterator[str]:
    with s3_server(tmp_path / "swift") as server:
        yield server.endpoint_url


@pytest.mark.usefixtures("ray_session")
def test_tables_and_output_may_be_on_object_storage(base: dict[str, Any], tmp_path: Path, endpoint_url: str):
    filesystem = bucket(endpoint_url, "lake")
    for name in ("documents", "questions"):
        filesystem.put(f"{base[name]}/", f"lake/{name}/", recursive=True)
    tables = {name: f"s3://lake/{name}" for name in ("documents", "questions")}
    job = config(
        base | tables,
        "s3://lake/finetuned",
        validation=tables,
        training={"epochs": 1},
        storage={"endpoint_url": endpoint_url, "addressing_style": "path"},
    )
    assert len(finetune(job)["epochs"]) == 2
    files = {path.removeprefix("lake/finetuned/") for path in filesystem.find("lake/finetuned")}
    assert {"_SUCCESS", "manifest.json", "model/model.safetensors", "model/qa_ray.json"} <= files
    assert any(path.startswith("tensorboard/") for path in files)
    assert not any(path.startswith("_run/") for path in files)


def repeated(folder: Path, times: int) -> dict[str, str]:
    """Tables of the stories and their questions, each so many times."""
    documents, questions = stories()
    ids = [f"{number}." for number in range(times)]
    return write_tables(
        folder,
        [row | {"document_id": prefix + row["document_id"]} for prefix in ids for row in documents],
        [row | {"document_id": prefix + row["document_id"]} for prefix in ids for row in questions],
    )


@pytest.mark.usefixtures("ray_session")
def test_without_epochs_the_weights_are_unchanged_and_the_scores_calibrated(
    base: dict[str, Any], manifest: Any, tmp_path: Path
):
    model = tmp_path / "model"
    shutil.copytree(f"{base['output']}/model", model)
    miscalibrated = {"score_slope": 0.1, "score_intercept": 9.0, "lexical_weight": 0.25}
    (model / "qa_ray.json").write_text(json.dumps(json.loads((model / "qa_ray.json").read_text()) | miscalibrated))
    tables = repeated(tmp_path / "tables", 6)
    training = {"epochs": 0, "dtype": "float32"}
    gate = FittedGate(Tokenizer(base["model"]).fingerprint, (), no_answers()).to_bytes()
    (tmp_path / "gate.parquet").write_bytes(gate)
    windows = {"read": {"most": 8}, "gate": str(tmp_path)}
    values = {**base, **tables, "model": str(model), "validation": {"metric": "cmrc"}, "training": training}
    values["windows"] = windows
    calibrated = finetune(check_config(FinetuneConfig, values | {"output": str(tmp_path / "calibrated")}, "test"))
    assert calibrated["counts"]["validation_questions"] == 108
    assert "training_questions" not in calibrated["counts"]
    assert [figures["epoch"] for figures in calibrated["epochs"]] == [0]
    assert calibrated["best"]["f1"] == 100
    before, fitted = calibrated["fitted"]["before"], open_checkpoint(f"{tmp_path}/calibrated/model").settings
    assert (before["score_slope"], before["score_intercept"]) == (0.1, 9)
    assert fitted.score_slope == calibrated["fitted"]["after"]["score_slope"] != 0.1
    assert fitted.score_intercept == calibrated["fitted"]["after"]["score_intercept"] < 9
    assert calibrated["fitted"]["kept"] == {"no_answer_threshold": "no question without an answer"}
    assert fitted.lexical_weight == 0.25
    assert fitted.read == ReadRule(most=8)  # and the gate is now the model's own
    assert (tmp_path / "calibrated" / "model" / "gate.parquet").read_bytes() == gate
    assert_same_weights(tmp_path / "calibrated", base["output"], 0)


@pytest.mark.usefixtures("ray_session")
def test_a_pre_trained_model_without_a_head_is_trained_with_a_new_one(base: dict[str, Any], tmp_path: Path):
    folder = tmp_path / "base"
    config_of: Any = AutoConfig.from_pretrained(base["model"], num_labels=3)  # of another task
    BertForMaskedLM(config_of).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "qa_ray.json"):
        shutil.copy(Path(base["model"]) / name, folder)
    job = config(base | {"model": str(folder)}, tmp_path / "out", training={"epochs": 1})
    trained = finetune(job)
    assert [figures["epoch"] for figures in trained["epochs"]] == [1]
    assert "epoch 0 is left out: the question-answering head is new" in (tmp_path / "out" / "run.log").read_text()
    assert open_checkpoint(f"{job.output}/model").has_head


@pytest.mark.usefixtures("ray_session")
def test_windows_that_hold_no_whole_answer_end_the_run_without_a_model(base: dict[str, Any], tmp_path: Path):
    documents, questions = stories()
    texts = {row["document_id"]: row["text"] * 5 for row in documents}
    tables = write_tables(
        tmp_path / "tables",
        [row | {"text": texts[row["document_id"]]} for row in documents],
        [row | {"answers": [{"text": texts[row["document_id"]], "start_char": 0}]} for row in questions],
    )
    job = config(base | tables, tmp_path / "out", training={"epochs": 1})
    with raises_error(ConfigError, "training.window_tokens: epoch 1 has no window to train on: none of up to 64 "):
        finetune(job)


@pytest.mark.usefixtures("ray_session")
def test_without_epochs_the_mean_of_several_models_is_saved_and_calibrated(
    base: dict[str, Any], manifest: Any, tmp_path: Path
):
    initial, trained = base["model"], f"{base['output']}/model"
    training = {"epochs": 0, "averaged_with": [initial, trained]}
    job = config(base | {"model": initial}, tmp_path / "mean", training=training)
    assert [figures["epoch"] for figures in finetune(job)["epochs"]] == [0, 0]  # the initial model, and the mean
    first, last, mean = load_file(Path(initial) / "model.safetensors"), weights(base["output"]), weights(job.output)
    for name in mean:
        torch.testing.assert_close(mean[name], (2 * first[name] + last[name]) / 3)
    with raises_error(OutputError, "holds another run, which differs in training.averaged_with"):
        finetune(config(base | {"model": initial}, job.output, training=training | {"averaged_with": [initial]}))


@pytest.mark.usefixtures("ray_session")
def test_questions_that_cannot_be_used_for_training_are_rejected_with_the_reason(base: dict[str, Any], tmp_path: Path):
    documents, questions = stories()
    text = TEXTS[0]
    bad_questions = {
        "not there": ("谁？", [{"text": "小美", "start_char": 0}], "answer_not_found"),
        "ambiguous": ("谁？", [{"text": "小明", "start_char": 3}], "answer_ambiguous"),
        "blank": (" ", [{"text": "小明", "start_char": 0}], "blank_question"),
        "no gold": ("谁？", None, "no_gold"),
        "again": (questions[0]["question"], questions[0]["answers"], "duplicate"),
        "too long": ("谁" * 30, [{"text": "小明", "start_char": 0}], "question_too_long"),
    }
    for name, (question, gold, _) in bad_questions.items():
        questions.append({"question_id": name, "question": question, "document_id": "story 0", "answers": gold})
    moved = [{"text": "很高兴", "start_char": 0}, {"text": "很难过", "start_char": 1}]
    questions.append({"question_id": "moved", "question": "怎么样？", "document_id": "story 0", "answers": moved})
    questions.append({"question_id": "none", "question": "什么？", "document_id": "story 0", "answers": []})
    blank = [{"text": "", "start_char": -1}, {"text": " ", "start_char": 0}, {"text": None, "start_char": None}]
    questions.append({"question_id": "no answer", "question": "哪里？", "document_id": "story 0", "answers": blank})
    assert "很高兴" in text
    lost = {"question_id": "lost", "question": "谁？", "document_id": "story 9", "answers": []}
    bad_questions["lost"] = ("谁？", [], "unknown_document")
    tables = write_tables(tmp_path / "tables", documents, [*questions, lost])
    plan = make_plan(config(base | tables, tmp_path / "out"))
    with acquire_output(plan.output, plan.identity) as output:
        data = label_data(plan, output)
    rejects = pq.read_table(tmp_path / "out" / "rejects").to_pylist()
    reasons = {name: reason for name, (_, _, reason) in bad_questions.items()}
    assert {row["question_id"]: row["reason"] for row in rejects} == reasons
    assert data.rejects.total() == len(bad_questions)
    assert data.counts["training_questions"] == 18 + 3
    assert data.counts["gold_blank"] == 3
    assert data.counts["gold_relocated"] == 1
    assert data.counts["gold_answer_not_found"] == 2


@pytest.mark.usefixtures("ray_session")
def test_a_job_without_training_or_validation_questions_is_an_input_error(base: dict[str, Any], tmp_path: Path):
    documents, questions = stories()
    tables = write_tables(tmp_path / "tables", documents, [row | {"answers": None} for row in questions])
    with raises_error(
        InputError, "questions: no question of ", "can be used for training; rejected are 18 no_gold; see", "rejects"
    ):
        finetune(config(base | tables, tmp_path / "one"))
    values = base | {"output": str(tmp_path / "two"), "validation": {"held_out": 1e-9}}
    with raises_error(ConfigError, "none is held out for validation; raise it, or give validation.documents"):
        finetune(check_config(FinetuneConfig, values, "test"))
    good = write_tables(tmp_path / "good", documents, questions)
    job = config(base | good, tmp_path / "three", validation=tables)
    with raises_error(InputError, "validation: no question can be used; rejected are 18 no_gold; see", "fix them, or"):
        finetune(job)


@pytest.mark.usefixtures("ray_session")
def test_a_damaged_table_of_documents_is_an_input_error(base: dict[str, Any], tmp_path: Path):
    tables = write_tables(tmp_path / "tables", *stories())
    path = tmp_path / "tables" / "documents" / "part.parquet"
    texts = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    first = texts.dictionary_page_offset or texts.data_page_offset
    content[first : first + texts.total_compressed_size] = bytes(texts.total_compressed_size)
    path.write_bytes(content)
    with raises_error(InputError, "documents: ", "part.parquet' cannot be read as Parquet"):
        finetune(
            config(base | tables, tmp_path / "out", validation={"documents": None, "questions": None, "held_out": 0.5})
        )


def test_settings_that_do_not_fit_are_errors_before_anything_runs(base: dict[str, Any], tmp_path: Path):
    with raises_error(ConfigError, "training.window_tokens: 4096 is not between 43", "and 130, the most that"):
        finetune(config(base, tmp_path / "out", training={"window_tokens": [64, 4096]}))
    with raises_error(ModelError, "model 'org/name': no such folder, and it cannot be downloaded from the hub"):
        finetune(config(base | {"model": "org/name"}, tmp_path / "out"))
    with raises_error(ModelError, "model 'org/other': no such folder, and it cannot be downloaded from the hub"):
        finetune(config(base, tmp_path / "out", training={"averaged_with": ["org/other"]}))
    with raises_error(ModelError, "training.averaged_with: 'default' cannot be averaged with the model", "embeddings"):
        finetune(config(base, tmp_path / "out", training={"averaged_with": ["default"]}))
    with raises_error(ConfigError, "validation needs documents and questions, or neither"):
        check_config(FinetuneConfig, base | {"validation": {"documents": "x"}}, "test")
    tables = write_tables(tmp_path / "tables", *stories())
    path = tmp_path / "tables" / "questions" / "part.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "answers", pa.array(["小明"] * 18)), path)
    with raises_error(
        InputError, "questions: the column 'answers' has type string, not list<struct<text, start_char>>"
    ):
        finetune(config(base | tables, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
