"""The verbs of ``qa-ray``, each ``VERB CONFIG.yaml [key=value …]``; jobs/*.py call the same functions.

Exit codes: 0 done; 3 done, with rejects (0 in a Ray job); 1 the job failed and can be started again; 2 refused:
something must be mended; 130 interrupted (Ctrl-C, SIGTERM).
"""

import argparse
import os
import signal
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from qa_ray.config import (
    AnswerConfig,
    EvaluateConfig,
    FinetuneConfig,
    LengthenConfig,
    PrepareConfig,
    Section,
    read_config,
)
from qa_ray.errors import JobError, UserError

DONE, FAILED, REFUSED, WITH_REJECTS, INTERRUPTED = 0, 1, 2, 3, 130


def prepare(arguments: argparse.Namespace, console: Console) -> int:
    """Sources -> documents and questions."""
    from qa_ray.io.storage import configure_s3
    from qa_ray.preparation.job import prepare as prepare_tables

    config = read_config(PrepareConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    console.print(escape(str(prepare_tables(**config.model_dump(exclude={"storage"})))))
    return DONE


def answer(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions -> answers."""
    from qa_ray.answering.job import answer_documents, check_job
    from qa_ray.cli.console import show_answers, show_plan

    config = read_config(AnswerConfig, arguments.config, arguments.settings)
    if arguments.check:
        show_plan(*check_job(config), console)
        return DONE
    manifest = answer_documents(config)
    show_answers(manifest, config, console)
    # Ray takes a job that ends with anything but 0 for failed.
    return WITH_REJECTS if manifest["counts"]["rejects"] and not is_ray_job() else DONE


def is_ray_job() -> bool:
    """Whether this process was started by Ray's Job API."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def evaluate(arguments: argparse.Namespace, console: Console) -> int:
    """Answers against gold -> scores."""
    from qa_ray.evaluation.evaluate import evaluate as score
    from qa_ray.evaluation.html_report import page
    from qa_ray.io.storage import configure_s3, join, write_text

    config = read_config(EvaluateConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    evaluation = score(config.answers, config.questions, config.metric, config.by, config.resamples)
    console.print(evaluation.to_table())
    if config.output:
        write_text(join(config.output, "scores.json"), evaluation.to_json())
        write_text(join(config.output, "scores.html"), page(evaluation, config.answers, config.questions))
        console.print(f"a page to read: {escape(join(config.output, 'scores.html'))}", soft_wrap=True, highlight=False)
    return DONE


def lengthen(arguments: argparse.Namespace, console: Console) -> int:
    """A BERT or RoBERTa checkpoint -> a Longformer."""
    from qa_ray.io.storage import configure_s3
    from qa_ray.model.longformer.convert import lengthen as make_longformer

    config = read_config(LengthenConfig, arguments.config, arguments.settings)
    configure_s3(**config.storage.model_dump())
    console.print(escape(str(make_longformer(**config.model_dump(exclude={"storage"})))), soft_wrap=True)
    return DONE


def finetune(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions with gold answers -> a better model."""
    from qa_ray.cli.console import show_finetuning
    from qa_ray.training.job import finetune as learn

    config = read_config(FinetuneConfig, arguments.config, arguments.settings)
    show_finetuning(learn(config), config, console)
    return DONE


def submit(arguments: argparse.Namespace, console: Console) -> int:
    """Runs one of the other verbs as a job of a Ray cluster, and follows its log."""
    from qa_ray.runtime.submit import submit as start

    config = read_config(CONFIGS[arguments.job], arguments.config, arguments.settings)
    job = start(arguments.job, config, arguments.address, with_code=arguments.with_code)
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
        console.print("no longer followed; the job goes on")
        return INTERRUPTED
    console.print(f"job {job.id}: {outcome}")
    return DONE if outcome == "SUCCEEDED" else FAILED


VERBS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "prepare": prepare,
    "answer": answer,
    "evaluate": evaluate,
    "lengthen": lengthen,
    "finetune": finetune,
    "submit": submit,
}
CONFIGS: dict[str, type[Section]] = {
    "prepare": PrepareConfig,
    "answer": AnswerConfig,
    "evaluate": EvaluateConfig,
    "lengthen": LengthenConfig,
    "finetune": FinetuneConfig,
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)  # settings may also stand behind options
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.settings += rest
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return VERBS[arguments.verb](arguments, Console())
    except UserError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        return REFUSED
    except JobError as error:
        errors.print(f"[bold red]failed:[/] {escape(str(error))}")
        return FAILED
    except Exception as error:
        from qa_ray.io.storage import explain, is_storage_error

        if not is_storage_error(error):
            raise
        errors.print(f"[bold red]failed:[/] storage: {escape(explain(error))}; start the same command again to go on")
        return FAILED
    except KeyboardInterrupt:
        errors.print("interrupted; what is done stays done: run the same command to go on")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qa-ray", description="Extractive question answering over long documents.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        sub.add_argument("config", metavar="CONFIG.yaml")
        sub.add_argument(
            "settings", nargs="*", metavar="key=value", help="laid over the config: windows.max_tokens=4096"
        )
        if name == "answer":
            sub.add_argument("--check", action="store_true", help="everything but the run: checks, and prints the plan")
        if name == "submit":
            sub.add_argument("--address", required=True, help="Ray's dashboard, for example http://127.0.0.1:8265")
            sub.add_argument("--job", choices=CONFIGS, default="answer", help="which verb (answer)")
            sub.add_argument("--with-code", action="store_true", help="send this qa-ray along; else the nodes' own")
            sub.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
