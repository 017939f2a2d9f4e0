"""The verbs of ``qa-ray``: each takes the parsed command line and a console, and returns an exit code."""

import argparse
import os
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console
from rich.markup import escape

from qa_ray.cli.parser import CHECKED_JOBS, DONE, FAILED, INTERRUPTED, WITH_REJECTS
from qa_ray.config import (
    CONFIGS,
    AnswerConfig,
    EvaluateConfig,
    FinetuneConfig,
    GateConfig,
    LengthenConfig,
    PrepareConfig,
    read_config,
    read_storage,
)
from qa_ray.config.template import render
from qa_ray.errors import ConfigError
from qa_ray.log import LOG
from qa_ray.wording import counted

OUTPUT_CLOSED = 128 + 13  # as shells report a program that SIGPIPE ended
LOADING = "loading PyTorch, transformers and Ray"  # seconds; half a minute on a busy machine


class Output(Console):
    """Standard output. If its reader, such as ``head``, closes it, the command ends quietly."""

    def on_broken_pipe(self) -> None:
        """Redirects standard output to nowhere, and exits."""
        with suppress(SystemExit):  # rich exits with 1, which says that the job failed
            super().on_broken_pipe()
        raise SystemExit(OUTPUT_CLOSED)


def init(arguments: argparse.Namespace, console: Console) -> int:
    """Prints a config with comments."""
    console.out(render(arguments.template), end="", highlight=False)
    return DONE


def prepare(arguments: argparse.Namespace, console: Console) -> int:
    """Sources -> documents and questions."""
    from qa_ray.io.storage import configure_s3
    from qa_ray.preparation.job import prepare as prepare_tables

    config = read_config(PrepareConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    settings = config.model_dump(exclude={"storage", "limits"})
    prepared = prepare_tables(**settings, **config.limits.model_dump())
    console.print(escape(str(prepared)), soft_wrap=True, highlight=False)
    return WITH_REJECTS if prepared.rejects and not is_ray_job() else DONE


def answer(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions -> answers."""
    config = read_config(AnswerConfig, arguments.config, arguments.settings)
    LOG.info(LOADING)
    from qa_ray.answering.job import check_job, run_job
    from qa_ray.cli.console import show_answers
    from qa_ray.cli.plans import show_plan

    if arguments.check:
        show_plan(*check_job(config), console)
        return DONE
    manifest, was_run = run_job(config)
    show_answers(manifest, config, console, was_run=was_run)
    # To Ray, a job that ends with anything but 0 has failed.
    return WITH_REJECTS if manifest["counts"]["rejects"] and not is_ray_job() else DONE


def is_ray_job() -> bool:
    """Whether this process was started by Ray's Job API."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def evaluate(arguments: argparse.Namespace, console: Console) -> int:
    """Answers and gold answers -> scores."""
    from qa_ray.cli.evaluation_table import evaluation_table
    from qa_ray.evaluation.evaluate import evaluate as score
    from qa_ray.evaluation.html_report import page
    from qa_ray.io.storage import configure_s3, join, write_text

    config = read_config(EvaluateConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    evaluation = score(config.answers, config.questions, config.metric, config.by, config.resamples)
    console.print(evaluation_table(evaluation))
    if config.output:
        write_text(join(config.output, "scores.json"), evaluation.to_json())
        write_text(join(config.output, "scores.html"), page(evaluation, config.answers, config.questions))
        console.print(f"page: {escape(join(config.output, 'scores.html'))}", soft_wrap=True, highlight=False)
    return DONE


def lengthen(arguments: argparse.Namespace, console: Console) -> int:
    """A BERT or RoBERTa checkpoint -> a Longformer."""
    from qa_ray.io.storage import configure_s3
    from qa_ray.model.lengthen import lengthen as make_longformer

    config = read_config(LengthenConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    console.print(escape(str(make_longformer(**config.model_dump(exclude={"storage"})))), soft_wrap=True)
    return DONE


def finetune(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions with gold answers -> a fine-tuned model."""
    config = read_config(FinetuneConfig, arguments.config, arguments.settings)
    LOG.info(LOADING)
    from qa_ray.cli.console import show_finetuning
    from qa_ray.cli.plans import show_finetuning_plan
    from qa_ray.training.job import check_job, run_job

    if arguments.check:
        show_finetuning_plan(*check_job(config), console)
        return DONE
    manifest, was_run = run_job(config)
    show_finetuning(manifest, config, console, was_run=was_run)
    return DONE


def gate(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions with gold answers -> a gate."""
    config = read_config(GateConfig, arguments.config, arguments.settings)
    LOG.info("loading PyTorch and transformers")
    from qa_ray.cli.gate_table import gate_table
    from qa_ray.training.fit_gate import fit_job

    fitted = fit_job(config)
    console.print(gate_table(fitted))
    console.print(escape(f"gate: {fitted.place}"), soft_wrap=True, highlight=False)
    return DONE


def submit(arguments: argparse.Namespace, console: Console) -> int:
    """Runs one of the other verbs as a job on a Ray cluster, and follows its log."""
    config = read_config(CONFIGS[arguments.job], arguments.config, arguments.settings)
    if arguments.check and arguments.job not in CHECKED_JOBS:
        raise ConfigError(f"--check: {arguments.job} has none, only {' and '.join(CHECKED_JOBS)} have; leave it out")
    LOG.info("connecting to the cluster at %s", arguments.address)
    from qa_ray.runtime.submit import submit as submit_job

    job = submit_job(arguments.job, config, arguments.address, with_code=arguments.with_code, check=arguments.check)
    for line in (
        f"job {job.id}: {job.page}",
        f"logs: ray job logs --follow --address {job.address} {job.id}",
        f"status: ray job status --address {job.address} {job.id}",
        f"stop: ray job stop --address {job.address} {job.id}",
    ):
        console.print(escape(line), soft_wrap=True, highlight=False)
    if arguments.no_wait:
        return DONE
    try:
        outcome = job.follow(lambda lines: console.out(lines, end="", highlight=False))
    except KeyboardInterrupt:
        console.print("stopped following the log; the job continues")
        return INTERRUPTED
    console.print(f"job {job.id}: {outcome}")
    return DONE if outcome == "SUCCEEDED" else FAILED


def verify(arguments: argparse.Namespace, console: Console) -> int:
    """An output folder against its manifest."""
    from qa_ray.io.storage import configure_s3
    from qa_ray.output.verify import verify as verify_output

    configure_s3(**read_storage(arguments.settings).model_dump())
    verification = verify_output(arguments.output)
    for problem in verification.problems:
        console.print(escape(problem), soft_wrap=True, highlight=False)
    console.print(
        f"{counted(verification.num_files, 'file')}, {counted(verification.num_bytes, 'byte')}: "
        + (counted(len(verification.problems), "problem") if verification.problems else "as the manifest says"),
        highlight=False,
    )
    return FAILED if verification.problems else DONE


VERBS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "init": init,
    "prepare": prepare,
    "answer": answer,
    "evaluate": evaluate,
    "finetune": finetune,
    "gate": gate,
    "lengthen": lengthen,
    "submit": submit,
    "verify": verify,
}
