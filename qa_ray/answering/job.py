"""The answer job, as a table of contents: plan, claim, run on Ray Data, commit.

One row in, one row out, keyed by the document, and no shuffle: so the parts that a killed run leaves say what is done,
and the same job started again reads, tokenizes and answers the rest.

    Scan                  the documents' id, text and passed-through columns, in read tasks        inputs, scan
    repartition           blocks of some hundred windows' worth of documents
    TokenizeDocuments     CPU actors: drop finished documents, attach questions, check, tokenize     documents, tokens
    AnswerDocuments       actors with the model                                    windows, logits, spans, answers
                          write parts, one row a document                                            parts
    commit                parts -> flat answers and rejects, verified; manifest; _SUCCESS            commit
"""

import re
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from qa_ray import errors
from qa_ray.answering.answer_stage import ActorSettings, AnswerDocuments
from qa_ray.answering.commit import commit
from qa_ray.answering.crash_guard import CrashGuard
from qa_ray.answering.part_files import finished_ids
from qa_ray.answering.plan import Plan, make_plan
from qa_ray.answering.retry_rejects import commit_retry, documents_without, rejected_questions
from qa_ray.answering.tokenize_stage import TokenizeDocuments, TokenizeSettings
from qa_ray.config import AnswerConfig, Limits
from qa_ray.errors import JobError, QaRayError
from qa_ray.io.document_table import RowGroup, unfinished_row_groups
from qa_ray.io.storage import configure_s3, join
from qa_ray.log import LOG, logged_to
from qa_ray.model.runner import BATCH_TOKENS
from qa_ray.output.folder import OutputFolder, acquire_output, check_writable, inspect_output
from qa_ray.runtime.datasource import Scan
from qa_ray.runtime.progress import shown
from qa_ray.runtime.resources import Resources, find_resources
from qa_ray.runtime.run_report import measured, reported
from qa_ray.runtime.run_stats import Counts, RunStats
from qa_ray.runtime.session import beside_driver, ray_started

REPORT_TIMEOUT_SECONDS = 60  # where Ray is gone, so are the counts


def answer_documents(config: AnswerConfig) -> dict[str, Any]:
    """Runs the whole answer job, or what is left of it; returns the manifest.

    Raises:
        UserError: something in config, input, model or output must be mended first.
        JobError: the run failed or its counts do not add up; start it again to resume.
    """
    configure_s3(**config.storage.model_dump())
    plan = make_plan(config)
    with acquire_output(plan.output, plan.identity, retry=config.retry_rejects) as output:
        if output.finished:
            return retry_rejects(plan, output) if config.retry_rejects else output.manifest()
        facts = answer_rest(plan, output, finished_ids(output.parts, plan.documents.id_column))
        return commit(
            output,
            questions=plan.questions,
            num_documents=plan.documents.num_documents,
            id_column=plan.documents.id_column,
            max_rejected_fraction=config.limits.max_rejected_fraction,
            facts=facts,
        )


def retry_rejects(plan: Plan, output: OutputFolder) -> dict[str, Any]:
    """Asks the rejected questions of a finished output again; returns the manifest."""
    questions = rejected_questions(output, plan.questions)
    if not questions.num_bound:
        output.end()
        return output.manifest()
    id_column = plan.documents.id_column
    others = documents_without(plan.documents, questions)
    limits = Limits(max_rejected_fraction=1)  # that they are rejected once more is no news
    rest = replace(
        plan,
        config=plan.config.model_copy(update={"limits": limits}),
        questions=questions,
        num_pairs=questions.num_bound,
    )
    facts = answer_rest(rest, output, np.union1d(others, finished_ids(output.parts, id_column)))
    return commit_retry(output, questions, id_column, facts)


def answer_rest(plan: Plan, output: OutputFolder, finished: np.ndarray) -> dict[str, Any]:
    """Answers all documents but the finished ones (hashes of ids, sorted); returns what was measured."""
    started = time.time()
    facts: dict[str, Any] = {"windows_this_run": 0}
    if row_groups := unfinished_row_groups(plan.documents, finished):
        with logged_to(join(plan.output, "run.log")), ray_started():
            resources = find_resources(plan.config, plan.num_windows, waits=True)
            facts = run(plan, output, resources, row_groups, finished)
    return facts | {"seconds": round(time.time() - started, 1)}


def check_job(config: AnswerConfig) -> tuple[Plan, OutputFolder, Resources]:
    """Everything but the run: what it would do, where, and with what; nothing is left behind."""
    configure_s3(**config.storage.model_dump())
    plan = make_plan(config)
    output = inspect_output(plan.output, plan.identity)
    check_writable(plan.output)
    with ray_started():
        return plan, output, find_resources(config, plan.num_windows)


def run(
    plan: Plan, output: OutputFolder, resources: Resources, row_groups: list[RowGroup], finished: np.ndarray
) -> dict[str, Any]:
    """Answers the documents in these row groups, except the finished ones; returns what was measured."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    stats = beside_driver(RunStats).remote(len(finished), plan.num_pairs, plan.config.limits.max_rejected_fraction)
    crash_guard = beside_driver(CrashGuard).remote()
    scan = Scan(plan.documents, row_groups, plan.config.storage.model_dump())
    dataset = (
        ray.data.read_datasource(scan, override_num_blocks=len(scan.tasks))
        .repartition(target_num_rows_per_block=plan.rows_per_block(resources.device, resources.max_actors))
        .map_batches(
            TokenizeDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1, max_size=resources.max_tokenizers),
            num_cpus=1,
            fn_constructor_kwargs={
                "settings": tokenize_settings(plan, finished),
                "stats": stats,
                "crash_guard": crash_guard,
            },
        )
        .map_batches(
            AnswerDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=resources.min_actors, max_size=resources.max_actors),
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            resources=resources.resources_per_actor,
            fn_constructor_kwargs={
                "settings": actor_settings(plan, resources, output.parts),
                "stats": stats,
                "crash_guard": crash_guard,
            },
        )
    )
    LOG.info("answering %d questions in about %d windows", plan.num_pairs, plan.num_windows)

    def poll(timeout: float | None = None) -> Counts:
        return ray.get(stats.counts.remote(), timeout=timeout)  # pyright: ignore[reportReturnType] (an untyped method)

    num_windows = round(plan.num_windows * (1 - len(finished) / plan.documents.num_documents))
    with (
        reported(join(plan.output, "run.json"), lambda: poll(REPORT_TIMEOUT_SECONDS), asdict(resources)),
        shown(poll, plan.documents.num_documents, num_windows),
        _explained(),
    ):
        for _ in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            pass  # all was written by the actors
    counts = poll()
    asked_tokens = plan.config.runner.batch_tokens or BATCH_TOKENS[resources.device]
    if 0 < counts.batch_tokens < asked_tokens:
        LOG.warning(
            "batches of %d tokens did not fit into memory, of %d they did: set runner.batch_tokens to that",
            asked_tokens,
            counts.batch_tokens,
        )
    return measured(counts, asdict(resources))


def tokenize_settings(plan: Plan, finished: np.ndarray) -> TokenizeSettings:
    """The plan's part for the CPU workers."""
    return TokenizeSettings(
        storage=plan.config.storage.model_dump(),
        model=plan.model,
        questions=ray.put(plan.questions),
        finished=ray.put(finished),
        id_column=plan.documents.id_column,
        text_column=plan.documents.text_column,
        max_question_tokens=plan.settings.max_question_tokens,
        long_questions=plan.config.windows.long_questions,
    )


def actor_settings(plan: Plan, resources: Resources, parts: str) -> ActorSettings:
    """The plan's part for the actors."""
    runner = plan.config.runner
    return ActorSettings(
        storage=plan.config.storage.model_dump(),
        model=plan.model,
        model_fingerprint=plan.checkpoint.fingerprint,
        id_column=plan.documents.id_column,
        reading=plan.settings,
        device=resources.device,
        dtype=resources.dtype,
        forward=runner.forward,
        batch_tokens=runner.batch_tokens,
        num_threads=resources.cpus_per_actor,
        parts=parts,
    )


class _explained:
    """``with _explained():`` tells what made Ray fail in our own words."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, (RayError, OSError)):
            return
        for cause in _causes(error):
            if isinstance(cause, QaRayError):
                raise cause
        # What an actor raised while it was made arrives as text only.
        if raises_error := re.findall(r"^qa_ray\.errors\.(\w+): (.+)", str(error), re.DOTALL | re.MULTILINE):
            kind, message = map(str, raises_error[-1])
            raise getattr(errors, kind, JobError)(" ".join(message.split())) from error
        LOG.error("Ray's own words: %s", error)
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise JobError(
            f"the run failed: {lines[-1] if lines else type(error).__name__}; documents that are done stay done: "
            "mend the cause (run.log in the output has all of it) and start again"
        ) from error


def _causes(error: BaseException | None) -> list[BaseException]:
    """The chain of causes, Ray's own wrapping included."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return chain
