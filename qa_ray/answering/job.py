"""The answer job: documents and questions in Parquet -> answers, rejects and a manifest.

Each document is one row, keyed by its id, from reading to the part files, and there is no shuffle. So the part files of
a killed run show which documents are finished, and the same command answers the rest.

    DocumentDatasource    ids, texts and passed-through columns, in read tasks              runtime/datasource.py
    repartition           blocks of some hundred windows
    TokenizeDocuments     CPU actors: drop finished documents, attach questions, check
                          both, leave out what earlier outputs answer (previous.py),
                          tokenize                                                          tokenize_stage.py
    AnswerDocuments       actors with the model: windows, logits, spans, answers; write
                          a part file per block                                             answer_stage.py
    commit                Ray tasks: part files -> flat answers and rejects, verified       flatten.py, commit.py
    publish               one atomic operation makes them the results                       output/publish.py
"""

import time
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset

from qa_ray.answering.answer_stage import ActorSettings, AnswerDocuments
from qa_ray.answering.commit import commit, commit_retry
from qa_ray.answering.crash_guard import CrashGuard
from qa_ray.answering.known_rejects import check_known_rejects, check_questions_to_all
from qa_ray.answering.part_files import finished_documents, list_parts
from qa_ray.answering.plan import Plan, make_plan
from qa_ray.answering.previous import index_pairs, open_previous
from qa_ray.answering.retry_rejects import documents_without, rejected_questions
from qa_ray.answering.tokenize_stage import TokenizeDocuments, TokenizeSettings
from qa_ray.config import AnswerConfig
from qa_ray.io.document_table import RowGroup, unfinished_row_groups
from qa_ray.io.storage import configure_s3, join
from qa_ray.log import LOG, logged_to
from qa_ray.model.runner import BATCH_TOKENS
from qa_ray.output.acquire import acquire_output, check_same_previous
from qa_ray.output.folder import OutputFolder, check_writable, inspect_output
from qa_ray.output.sinks import check_formats, exported_formats
from qa_ray.runtime.datasource import DocumentDatasource, stuck_read
from qa_ray.runtime.failures import explained
from qa_ray.runtime.progress import show_progress
from qa_ray.runtime.resources import Resources, allocate_resources
from qa_ray.runtime.run_report import run_figures, write_run_report
from qa_ray.runtime.run_stats import Counts, RunStats
from qa_ray.runtime.session import ray_started, run_on_driver_node
from qa_ray.wording import counted

# Ray Data ends a run in which no block moved for this long; by default for 30 minutes. A healthy block can take hours:
# a long document with many questions on a CPU. What is stuck is found by limits.block_timeout_s.
MAX_BLOCK_SECONDS = 86_400
REPORT_TIMEOUT_SECONDS = 60  # if Ray itself failed, the counts are lost with it


def answer_documents(config: AnswerConfig) -> dict[str, Any]:
    """Runs the answer job, or what is left of it; returns the manifest.

    Raises:
        UserError: something in config, input, model or output must be fixed first.
        JobError: the run failed or its counts do not add up; run the same command again to resume.
    """
    return run_job(config)[0]


def run_job(config: AnswerConfig) -> tuple[dict[str, Any], bool]:
    """The manifest of ``answer_documents``, and whether anything was run: not if the output was finished before."""
    plan = checked_plan(config)
    previous = plan.previous.origin
    with acquire_output(plan.output, plan.identity, retry=config.retry_rejects, previous=previous) as output:
        if output.finished:
            manifest = retry_rejects(plan, output) if config.retry_rejects else finished_manifest(plan, output)
            return manifest, output.run_id in [retry["run_id"] for retry in manifest.get("retries", [])]
        parts = list_parts(output.parts, plan.documents.id_column, plan.documents.hash_key)
        with logged_to(join(plan.output, "run.log")), ray_started():
            run_metrics = answer_unfinished(plan, output, finished_documents(parts))
            return commit(plan, output, run_metrics, parts), True


def checked_plan(config: AnswerConfig) -> Plan:
    """The plan of the job, with the answers of earlier outputs.

    Raises:
        UserError: as ``answer_documents``.
    """
    configure_s3(**config.storage.model_dump())
    LOG.info("planning: reading the model, the documents and the questions")
    plan = with_previous(make_plan(config))
    check_questions_to_all(plan)
    return plan


def check_job(config: AnswerConfig) -> tuple[Plan, OutputFolder, Resources, Counter[str]]:
    """Checks everything that a run would, and leaves nothing behind; returns its plan, output, resources and, by
    reason, the rejects that are certain.

    Raises:
        UserError: as ``answer_documents``; or more rejects are certain than the job may have.
    """
    plan = checked_plan(config)
    output = inspect_output(plan.output, plan.identity)
    check_same_previous(output, plan.previous.origin)
    check_writable(plan.output)
    rejects = check_known_rejects(plan)
    with ray_started():
        return plan, output, allocate_resources(config, plan.num_windows_read), rejects


def with_previous(plan: Plan) -> Plan:
    """The plan with the answers of earlier outputs; they are not opened if its own output is finished."""
    if not plan.config.previous or inspect_output(plan.output, plan.identity).finished:
        return plan
    return replace(plan, previous=open_previous(plan.config.previous, plan.identity))


def finished_manifest(plan: Plan, output: OutputFolder) -> dict[str, Any]:
    """The manifest of an output that is finished; warns about exports that it lacks."""
    manifest = output.manifest()
    if missing_formats := sorted(set(plan.config.export).difference(exported_formats(manifest))):
        LOG.warning(
            "export: %s is missing in %r, which was finished without it; convert its answers/*.parquet, or remove the "
            "output folder and run the same command again",
            ", ".join(missing_formats),
            output.uri,
        )
    return manifest


def retry_rejects(plan: Plan, output: OutputFolder) -> dict[str, Any]:
    """Asks the rejected questions of a finished output again; returns the manifest."""
    check_formats(exported_formats(finished_manifest(plan, output)))
    rejected = rejected_questions(output)
    if not rejected.num_bound:
        output.complete()
        return output.manifest()
    documents = plan.documents
    # They are known to be rejects: however many are again, it is no failure.
    limits = plan.config.limits.model_copy(update={"max_rejected_fraction": 1})
    retry_plan = replace(
        plan,
        config=plan.config.model_copy(update={"limits": limits}),
        only=rejected,
        num_pairs=rejected.num_bound,
    )
    parts = list_parts(output.parts, documents.id_column, documents.hash_key)
    finished = np.union1d(documents_without(documents, rejected), finished_documents(parts))
    with logged_to(join(plan.output, "run.log")), ray_started():
        run_metrics = answer_unfinished(retry_plan, output, finished)
        return commit_retry(retry_plan, output, run_metrics)


def answer_unfinished(plan: Plan, output: OutputFolder, finished: np.ndarray) -> dict[str, Any]:
    """Answers all documents but the finished ones (hashes of their ids, sorted); returns the run's metrics."""
    started = time.time()
    run_metrics: dict[str, Any] = {"windows_this_run": 0}
    if row_groups := unfinished_row_groups(plan.documents, finished):
        resources = allocate_resources(plan.config, plan.num_windows_read, wait=True)
        run_metrics = run(plan, output, resources, row_groups, finished)
    return run_metrics | {"seconds": round(time.time() - started, 1)}


def run(
    plan: Plan, output: OutputFolder, resources: Resources, row_groups: list[RowGroup], finished: np.ndarray
) -> dict[str, Any]:
    """Answers the unfinished documents of these row groups on Ray Data; returns the run's metrics."""
    limit = plan.config.limits.max_rejected_fraction
    stats = run_on_driver_node(RunStats).remote(len(finished), plan.num_pairs, limit, plan.max_rejects)
    dataset = answered_dataset(plan, output, resources, row_groups, finished, stats)
    # As if nothing had changed that was answered before: what has, only the documents' texts tell.
    new_windows = plan.num_windows_read * (1 - min(1, plan.previous.num_answers / plan.num_pairs))
    for table, files in plan.inputs.items():
        LOG.info("%s: %s", table, files.words)
    LOG.info(
        "answering %s in about %s, once the model is loaded",
        counted(plan.num_pairs, "question"),
        counted(round(new_windows), "window"),
    )

    def poll(timeout: float | None = None) -> Counts:
        return ray.get(stats.counts.remote(), timeout=timeout)  # pyright: ignore[reportReturnType] (an untyped method)

    num_windows = round(new_windows * (1 - len(finished) / plan.documents.num_documents))
    with (
        write_run_report(join(plan.output, "run.json"), lambda: poll(REPORT_TIMEOUT_SECONDS), asdict(resources)),
        show_progress(poll, plan.documents.num_documents, num_windows),
        explained(),
    ):
        for _ in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            pass  # the actors write the part files
    counts = poll()
    if counts.stuck_reads:
        places = f"{len(counts.stuck_reads)} reads, of which {counts.stuck_reads[0]}" if counts.stuck_reads[1:] else ""
        raise stuck_read(places or counts.stuck_reads[0], plan.config.limits.block_timeout_s)
    batch_tokens = plan.config.runner.batch_tokens or BATCH_TOKENS[resources.device]
    if 0 < counts.batch_tokens < batch_tokens:
        LOG.warning(
            "batches of %d tokens did not fit into memory, batches of %d did: set runner.batch_tokens=%d",
            batch_tokens,
            counts.batch_tokens,
            counts.batch_tokens,
        )
    return run_figures(counts, asdict(resources))


def answered_dataset(
    plan: Plan,
    output: OutputFolder,
    resources: Resources,
    row_groups: list[RowGroup],
    finished: np.ndarray,
    stats: Any,
) -> Dataset:
    """The lazy dataset whose execution answers these documents; its own rows are only counts."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = MAX_BLOCK_SECONDS
    shared = {"stats": stats, "crash_guard": run_on_driver_node(CrashGuard).remote()}
    storage, timeout_s = plan.config.storage.model_dump(), plan.config.limits.block_timeout_s
    documents = DocumentDatasource(plan.documents, row_groups, storage, timeout_s, stats)
    return (
        ray.data.read_datasource(documents, override_num_blocks=len(documents.tasks))
        .repartition(target_num_rows_per_block=plan.rows_per_block(resources.device, resources.max_actors))
        .map_batches(
            TokenizeDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1, max_size=resources.max_tokenizers),
            num_cpus=1,
            fn_constructor_kwargs={"settings": tokenize_settings(plan, finished), **shared},
        )
        .map_batches(
            AnswerDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=resources.min_actors, max_size=resources.max_actors),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            resources=resources.resources_per_actor,
            fn_constructor_kwargs={"settings": actor_settings(plan, resources, output.parts), **shared},
        )
    )


def tokenize_settings(plan: Plan, finished: np.ndarray) -> TokenizeSettings:
    """What the CPU actors need of the plan."""
    storage = plan.config.storage.model_dump()
    return TokenizeSettings(
        storage=storage,
        model=plan.model,
        questions=ray.put(plan.questions),
        only=None if plan.only is None else ray.put(plan.only),
        previous=ray.put(index_pairs(plan.previous, storage)) if plan.previous.num_answers else None,
        finished=ray.put(finished),
        hash_key=plan.documents.hash_key,
        id_column=plan.documents.id_column,
        text_column=plan.documents.text_column,
        lists=plan.documents.lists,
        max_question_tokens=plan.settings.max_question_tokens,
        long_questions=plan.config.windows.long_questions,
        block_timeout_s=plan.config.limits.block_timeout_s,
    )


def actor_settings(plan: Plan, resources: Resources, parts: str) -> ActorSettings:
    """What the actors with the model need of the plan."""
    runner = plan.config.runner
    return ActorSettings(
        storage=plan.config.storage.model_dump(),
        model=plan.model,
        gate=plan.gate,
        proof=plan.proof,
        id_column=plan.documents.id_column,
        inference=plan.settings,
        device=resources.device,
        dtype=resources.dtype,
        forward=runner.forward,
        batch_tokens=runner.batch_tokens,
        num_threads=resources.cpus_per_actor,
        parts=parts,
        block_timeout_s=plan.config.limits.block_timeout_s,
    )
