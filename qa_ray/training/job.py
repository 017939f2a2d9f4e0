"""The fine-tuning job, as a table of contents: plan, lease, label, train on Ray Train, publish the best epoch.

The data flow:

    label_data            documents and questions -> labeled datasets, rejects    training/labeled_data.py
    train_worker          Ray Train: epochs of steps, each followed by            training/worker.py
                          a validation with the answer job's own reader           training/validation.py
    finish                the best epoch's model -> OUTPUT, manifest, _SUCCESS    output/publish.py

and the output:

    OUTPUT/model/         a folder that transformers and the answer job load, with qa_ray.json
    OUTPUT/rejects/       the questions that could not be used, and why
    OUTPUT/tensorboard/   training and validation curves
    OUTPUT/manifest.json  counts, settings, the figures of every epoch, what was fitted
"""

import json
import posixpath
import threading
from typing import Any

import pyarrow.fs
import ray
from ray import train
from ray.train.torch import TorchTrainer

from qa_ray.config import FinetuneConfig
from qa_ray.errors import JobError
from qa_ray.io.storage import configure_s3, file_sha256, join, list_sizes, open_filesystem, read_text
from qa_ray.log import LOG, PROGRESS, logged_to
from qa_ray.model.checkpoint import SETTINGS_FILE
from qa_ray.model.settings import WindowSettings
from qa_ray.output.acquire import acquire_output
from qa_ray.output.folder import OutputFolder, check_writable, inspect_output
from qa_ray.output.publish import publish
from qa_ray.runtime.failures import explained
from qa_ray.runtime.resources import allocate_workers
from qa_ray.runtime.session import ray_started, run_on_driver_node
from qa_ray.training.failures import EndAtUserErrors
from qa_ray.training.fit import compare_with_start, describe_fit
from qa_ray.training.labeled_data import LabeledData, label_data
from qa_ray.training.plan import FinetunePlan, make_plan
from qa_ray.training.progress import TrainingProgress, show_training_progress
from qa_ray.training.trainer import OptimizerSettings
from qa_ray.training.worker import MODEL, PROGRESS_FILE, TrainingJob, train_worker
from qa_ray.wording import counted


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tunes a model, or resumes a killed run; returns the manifest.

    Raises:
        UserError: something in config, data, model or output must be fixed first.
        JobError: training failed; the same command resumes from its last checkpoint.
    """
    return run_job(config)[0]


def run_job(config: FinetuneConfig) -> tuple[dict[str, Any], bool]:
    """The manifest of ``finetune``, and whether anything was run: not if the output was finished before."""
    plan = checked_plan(config)
    with acquire_output(plan.output, plan.identity) as output:
        if output.finished:
            return output.manifest(), False
        with logged_to(join(plan.output, "run.log")), ray_started(), explained():
            allocate_workers(config.runner)  # a cluster that is too small fails before the documents are read
            for table, files in plan.inputs.items():
                LOG.info("%s: %s", table, files.words)
            LOG.info("labeling %s", count_input(plan))
            data = label_data(plan, output)
            best_checkpoint, epochs = train_model(plan, data)
            LOG.info("publishing the model")
            return finish(plan, output, data, best_checkpoint, epochs), True


def checked_plan(config: FinetuneConfig) -> FinetunePlan:
    """The plan of the job.

    Raises:
        UserError: as ``finetune``.
    """
    configure_s3(**config.storage.model_dump())
    LOG.info("planning: reading the model, the documents and the questions")
    return make_plan(config)


def check_job(config: FinetuneConfig) -> tuple[FinetunePlan, OutputFolder, bool, int]:
    """Checks everything that can be checked before a run, and leaves nothing behind.

    Returns the plan, the output, whether workers have GPUs, and the CPUs of each.

    Raises:
        UserError: as ``finetune``.
    """
    plan = checked_plan(config)
    output = inspect_output(plan.output, plan.identity)
    check_writable(plan.output)
    with ray_started():
        return plan, output, *allocate_workers(config.runner)


def count_input(plan: FinetunePlan) -> str:
    """The size of all tables, in words."""
    tables = [plan.training_tables, *([plan.validation_tables] if plan.validation_tables else [])]
    num_documents = sum(documents.num_documents for documents, _ in tables)
    num_questions = sum(len(questions) for _, questions in tables)
    return f"{counted(num_documents, 'document')} with {counted(num_questions, 'question')}"


def train_model(plan: FinetunePlan, data: LabeledData) -> tuple[train.Checkpoint, list[dict[str, Any]]]:
    """Runs Ray Train; returns the checkpoint of the best epoch, and the figures of all epochs.

    Raises:
        ConfigError: the cluster is too small for the workers, or a setting makes training fail (training/failures.py).
        JobError: training failed more often than runner.max_failures allows.
    """
    config = plan.config
    use_gpu, cpus_per_worker = allocate_workers(config.runner)  # again: nodes may have come or gone since
    filesystem, folder = open_filesystem(join(plan.output, "_run"))
    reporter = run_on_driver_node(TrainingProgress).remote(config.training.epochs)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": training_job(plan, cpus_per_worker), "reporter": reporter},
        datasets={"train": data.train, "validation": data.validation},
        dataset_config=train.DataConfig(datasets_to_split=[]),
        scaling_config=train.ScalingConfig(
            num_workers=config.runner.workers,  # pyright: ignore[reportArgumentType] (V2 takes a pair, too)
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_worker},
        ),
        run_config=train.RunConfig(
            name="train",
            storage_path=folder,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            failure_config=train.FailureConfig(max_failures=config.runner.max_failures),
            callbacks=[EndAtUserErrors()],
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="f1", checkpoint_score_order="max"
            ),
        ),
    )
    with show_training_progress(lambda: ray.get(reporter.state.remote())):
        result = _fit(trainer)
    best_checkpoint = result.get_best_checkpoint("f1", "max")
    if best_checkpoint is None or result.checkpoint is None:
        raise JobError("training ended without a model; remove the output folder and run the same command again")
    with (
        result.checkpoint.as_directory() as checkpoint,
        open(join(checkpoint, PROGRESS_FILE), encoding="utf-8") as file,
    ):
        return best_checkpoint, json.load(file)["epochs"]


def training_job(plan: FinetunePlan, num_threads: int) -> TrainingJob:
    """The plan's part for the workers."""
    config, training = plan.config, plan.config.training
    return TrainingJob(
        storage=config.storage.model_dump(),
        model=plan.model,
        averaged_with=plan.averaged_with,
        proof=plan.proof,
        windows=WindowSettings(**plan.settings.model_dump(include=set(WindowSettings.model_fields))),
        gate=plan.gate,
        optimizer=OptimizerSettings(
            **{name: getattr(training, name) for name in OptimizerSettings.__dataclass_fields__}
        ),
        window_tokens=plan.window_tokens,
        positives=training.positives,
        negatives=training.negatives,
        epochs=training.epochs,
        step_tokens=training.step_tokens,
        batch_tokens=training.batch_tokens,
        checkpoint_steps=training.checkpoint_steps,
        metric=config.validation.metric,
        saved_dtype=training.saved_dtype,
        about=config.about,
        tensorboard=join(plan.output, "tensorboard"),
        num_threads=num_threads,
    )


def _fit(trainer: TorchTrainer) -> train.Result:
    """The result of ``trainer.fit``, in a thread, because Ray Train would take over Ctrl-C in the main one."""
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.5)
    if error := outcome.get("error"):
        raise error
    return outcome["result"]


def finish(
    plan: FinetunePlan, output: OutputFolder, data: LabeledData, best_checkpoint: Any, epochs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Publishes the best epoch's model, which is copied from its checkpoint to the output; returns the manifest."""
    source = join(posixpath.relpath(best_checkpoint.path, open_filesystem(output.uri)[1]), MODEL)
    checkpoint = join(output.uri, source)
    settings = json.loads(read_text(join(checkpoint, SETTINGS_FILE)) or "{}")
    model_files = [
        {"name": name, "bytes": num_bytes, "sha256": file_sha256(join(checkpoint, name))}
        for name, num_bytes in list_sizes(checkpoint).items()
    ]
    manifest = {
        "identity": output.identity,
        "counts": data.counts | {"rejects": data.rejects.total()},
        "rejects_by_reason": dict(data.rejects),
        "epochs": epochs,
        "best": [figures for figures in epochs if figures["epoch"] == settings["epoch"]][-1],
        "fitted": settings["fitted"],
        "about": plan.config.about,
        "inputs": {table: files.as_json() for table, files in plan.inputs.items()},
        "files": {"rejects": data.reject_files, "model": model_files},
        "copied_from": {"model": source},
    }
    for line in describe_fit(manifest["fitted"]) + compare_with_start(epochs, manifest["best"]):
        PROGRESS.info(line)  # on a terminal they are printed with the results
    return publish(output, manifest)
