"""The fine-tuning job, as a table of contents: check, claim, label, learn on Ray Train, keep the best.

The data's way:

    Scan                  the documents, in read tasks                                       inputs, scan
    LabelDocuments        CPU actors: attach questions, check, tokenize, find the gold       labels, labeling
    train_worker          Ray Train: every epoch learned, then answered by the answer path    examples, losses, trainee,
                                                                                             validation, finetuning
    finish                the best epoch's model -> OUTPUT/model, rejects, manifest, _SUCCESS

and what comes of it:

    OUTPUT/model/         a folder that transformers and the answer job load, with qa_ray.json
    OUTPUT/rejects/       questions that nothing could be learned from, and why
    OUTPUT/tensorboard/   what was measured on the way
    OUTPUT/manifest.json  counts, settings, every epoch's scores
"""

import json
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.fs
import ray
import ray.data
from ray import train
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.train.torch import TorchTrainer

from qa_ray.config import FinetuneConfig
from qa_ray.errors import ConfigError, InputError, JobError, OutputError, QaRayError
from qa_ray.io.document_table import DocumentTable
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable
from qa_ray.io.row_checks import unknown_document
from qa_ray.io.storage import (
    configure_s3,
    create_text,
    join,
    open_filesystem,
    read_text,
    remove_folder,
    upload_folder,
    write_text,
)
from qa_ray.log import LOG, logged_to
from qa_ray.model.checkpoint import SETTINGS_FILE
from qa_ray.output.folder import OutputFolder, acquire_output
from qa_ray.runtime.datasource import Scan
from qa_ray.runtime.resources import SPARE_CPUS
from qa_ray.runtime.session import beside_driver, ray_started
from qa_ray.schemas import REJECT, REJECTS
from qa_ray.training.label_stage import LabelDocuments, LabelSettings, held_out, learnable
from qa_ray.training.plan import FinetunePlan, make_plan
from qa_ray.training.progress import TrainingProgress, shown_learning
from qa_ray.training.trainer import OptimizerSettings
from qa_ray.training.worker import MODEL, PROGRESS, TrainingJob, train_worker


@dataclass
class Labeled:
    """The data, ready to learn from."""

    train: Dataset
    validation: Dataset
    counts: dict[str, int] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tunes a model, or goes on where a killed run was; returns the manifest.

    Raises:
        UserError: something in config, data, model or output must be mended first.
        JobError: training failed; start it again to go on from its last checkpoint.
    """
    configure_s3(**config.storage.model_dump())
    plan = make_plan(config)
    with acquire_output(plan.output, plan.identity) as output:
        if output.finished:
            return output.manifest()
        with logged_to(join(plan.output, "run.log")), ray_started():
            labeled = label(plan, output)
            best, epochs = learn(plan, output, labeled)
            return finish(plan, output, labeled, best, epochs)


def label(plan: FinetunePlan, output: OutputFolder) -> Labeled:
    """Tokenizes and labels all documents; what cannot be learned from goes to the rejects.

    Raises:
        InputError: nothing to learn from, or nothing to validate with.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    held = plan.config.validation.held_out if plan.config.training.epochs else 1.0  # nothing learned: all is to measure
    held = 0.0 if plan.validation else held
    learned = _labeled(plan, *plan.learned, held)
    validation = _labeled(plan, *plan.validation, 1.0) if plan.validation else learned
    found = Labeled(
        train=_selected(learned, learnable),
        validation=_selected(validation, held_out),
    )
    remove_folder(join(output.uri, "rejects"))
    rejects = ParquetFolderWriter(join(output.uri, "rejects"), REJECTS, max_group_rows=10_000)
    with closing(rejects):
        _count(learned, plan.learned[1], found, rejects)
        if plan.validation:
            _count(validation, plan.validation[1], found, rejects)
    LOG.info("%s", ", ".join(f"{name} {count:,}" for name, count in found.counts.items()))
    if found.rejects:
        LOG.info("rejected: %s", ", ".join(f"{reason} {count:,}" for reason, count in found.rejects.most_common()))
    if plan.config.training.epochs and not found.counts.get("questions to learn from"):
        raise InputError(
            f"questions: nothing to learn from in {plan.config.questions!r}: "
            f"{', '.join(f'{count} {reason}' for reason, count in found.rejects.most_common()) or 'no question'}; "
            f"see {join(output.uri, 'rejects')!r}"
        )
    if not found.counts.get("questions to validate with"):
        raise InputError(
            "validation: no document with questions was held out; raise validation.held_out, or give "
            "validation.documents and validation.questions"
        )
    return found


def _labeled(plan: FinetunePlan, documents: DocumentTable, questions: QuestionTable, share: float) -> Dataset:
    config = plan.config
    settings = LabelSettings(
        storage=config.storage.model_dump(),
        model=plan.model,
        questions=ray.put(questions),
        id_column=documents.id_column,
        text_column=documents.text_column,
        max_question_tokens=plan.settings.max_question_tokens,
        long_questions=config.windows.long_questions,
        held_out=share,
    )
    scan = Scan(documents, list(documents.row_groups), settings.storage)
    num_actors = max(1, min(int(ray.cluster_resources().get("CPU", 1)) - SPARE_CPUS, len(scan.tasks)))
    return (
        ray.data.read_datasource(scan, override_num_blocks=len(scan.tasks))
        .map_batches(
            LabelDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=1,
            fn_constructor_kwargs={"settings": settings},
        )
        .materialize()
    )


def _selected(labeled: Dataset, select: Any) -> Dataset:
    return labeled.map_batches(select, batch_format="pyarrow", batch_size=None, num_cpus=1).materialize()


def _count(dataset: Dataset, questions: QuestionTable, found: Labeled, rejects: ParquetFolderWriter) -> None:
    """Counts what can be learned from, and writes the rejects; every question is among one of them."""
    reached = np.zeros(questions.num_bound, dtype=bool)
    columns = ["document_id", "is_held_out", "questions", "rejects", "found"]
    counts: Counter[str] = Counter()
    batches: Any = dataset.select_columns(columns).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        is_held_out = table["is_held_out"].to_pylist()
        num_questions = [len(row) for row in table["questions"]]
        for held, number in zip(is_held_out, num_questions, strict=True):
            counts["documents to validate with" if held else "documents to learn from"] += 1
            counts["questions to validate with" if held else "questions to learn from"] += number
        counts.update(f"answers {how}" for row in table["found"].to_pylist() for how in row)
        for document_id, row in zip(table["document_id"].to_pylist(), table["rejects"].to_pylist(), strict=True):
            reached[questions.rows_of(document_id)] = True
            for fields in row:
                rejects.add({"document_id": document_id} | {key.name: fields[key.name] for key in REJECT})
                found.rejects[fields["reason"]] += 1
    for document_id, question_id in questions.bound(~reached):
        rejects.add(row := unknown_document(document_id, question_id))
        found.rejects[row["reason"]] += 1
    for key, count in counts.items():
        found.counts[key] = found.counts.get(key, 0) + count


def learn(plan: FinetunePlan, output: OutputFolder, labeled: Labeled) -> tuple[Any, list[dict[str, Any]]]:
    """Runs Ray Train; returns the best epoch's checkpoint and what every epoch was worth.

    Raises:
        JobError: it failed more often than runner.max_failures allows.
    """
    config, training = plan.config, plan.config.training
    filesystem, folder = open_filesystem(join(plan.output, "_run"))
    workers = config.runner.workers
    most = workers if isinstance(workers, int) else workers[1]
    cluster = ray.cluster_resources()
    use_gpu = config.runner.device != "cpu" and cluster.get("GPU", 0) > 0
    if config.runner.device == "cuda" and not use_gpu:
        raise ConfigError("runner.device=cuda: the Ray cluster has no GPU; add a GPU node or set runner.device=cpu")
    cpus = config.runner.cpus_per_worker or (1 if use_gpu else max(1, (int(cluster["CPU"]) - SPARE_CPUS) // most))
    fewest = workers if isinstance(workers, int) else workers[0]
    if fewest * cpus > cluster["CPU"] or (use_gpu and fewest > cluster["GPU"]):
        raise ConfigError(
            f"runner.workers={workers}: {fewest} workers of {cpus} CPUs{' and a GPU' if use_gpu else ''} do not fit "
            f"into Ray's {int(cluster['CPU'])} CPUs and {int(cluster.get('GPU', 0))} GPUs; set fewer"
        )
    job = TrainingJob(
        storage=config.storage.model_dump(),
        model=plan.model,
        averaged_with=plan.averaged_with,
        max_tokens=plan.settings.max_tokens,
        overlap_tokens=plan.settings.overlap_tokens,
        max_question_tokens=plan.settings.max_question_tokens,
        learning=OptimizerSettings(
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
        num_threads=cpus,
    )
    learning = beside_driver(TrainingProgress).remote(training.epochs)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "learning": learning},
        datasets={"train": labeled.train, "validation": labeled.validation},
        dataset_config=train.DataConfig(datasets_to_split=[]),
        scaling_config=train.ScalingConfig(
            num_workers=workers,  # pyright: ignore[reportArgumentType] (V2 takes a pair, too)
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus},
        ),
        run_config=train.RunConfig(
            name="train",
            storage_path=folder,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
            failure_config=train.FailureConfig(max_failures=config.runner.max_failures),
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="f1", checkpoint_score_order="max"
            ),
        ),
    )
    with shown_learning(lambda: ray.get(learning.state.remote())):
        result = _fit(trainer)
    best = result.get_best_checkpoint("f1", "max")
    if best is None:
        raise JobError("training ended without a model; remove the output and start again")
    with result.checkpoint.as_directory() as place, open(join(place, PROGRESS), encoding="utf-8") as file:
        return best, json.load(file)["epochs"]


def _fit(trainer: TorchTrainer) -> Any:
    """What ``fit`` gives; in a thread of its own, because Ray Train would take Ctrl-C away from the main one."""
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
        raise _explained(error) from error
    return outcome["result"]


def _explained(error: BaseException) -> Exception:
    """What a failure of Ray Train means to people: the first worker's own words."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    cause: BaseException = next(iter(failures.values()))
    cause = getattr(cause, "cause", None) or cause.__cause__ or cause
    if isinstance(cause, QaRayError):
        return cause
    lines = [line for line in str(cause).splitlines() if line.strip()]
    said = f"{type(cause).__name__}: {lines[-1].strip() if lines else ''}"
    return JobError(f"training failed ({said}); mend the cause and start again: it goes on from its last checkpoint")


def finish(
    plan: FinetunePlan, output: OutputFolder, labeled: Labeled, best: Any, epochs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Puts the best epoch's model in its place, and marks the run as done; returns the manifest."""
    place = join(output.uri, "model")
    remove_folder(place)
    with best.as_directory() as folder:
        upload_folder(join(folder, MODEL), place)
    best_epoch = json.loads(read_text(join(place, SETTINGS_FILE)) or "{}")["epoch"]
    manifest = {
        "identity": output.identity,
        "counts": labeled.counts | {"rejects": labeled.rejects.total()},
        "rejects_by_reason": dict(labeled.rejects),
        "epochs": epochs,
        "best": epochs[best_epoch - 1],
        "about": plan.config.about,
    }
    output.check()
    write_text(join(output.uri, "manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
    if output.lease and not create_text(join(output.uri, "_SUCCESS"), output.lease.owner.token):
        raise OutputError(f"output: {output.uri!r} was finished by another run; its results stand")
    output.end()
    return manifest
