"""The verbs of ``qa-ray``, each ``VERB CONFIG.yaml [key=value …]``; jobs/*.py call the same functions.

Exit codes: 0 done; 3 done, with rejects; 1 the job failed and can be started again; 2 refused, something must be
mended; 130 interrupted (Ctrl-C, SIGTERM).
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from qa_ray.config import AnswerConfig, EvaluateConfig, FinetuneConfig, LengthenConfig, PrepareConfig, read_config
from qa_ray.errors import JobError, UserError

DONE, FAILED, REFUSED, WITH_REJECTS, INTERRUPTED = 0, 1, 2, 3, 130


def prepare(arguments: argparse.Namespace, console: Console) -> int:
    """Sources -> documents and questions."""
    from qa_ray.prepare import prepare as prepare_tables
    from qa_ray.storage import use_s3

    config = read_config(PrepareConfig, arguments.config, arguments.settings)
    use_s3(**config.storage.model_dump())
    console.print(escape(str(prepare_tables(**config.model_dump(exclude={"storage"})))))
    return DONE


def answer(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions -> answers."""
    from qa_ray.pipeline import answer_documents, check_job
    from qa_ray.report import show_answers, show_plan

    config = read_config(AnswerConfig, arguments.config, arguments.settings)
    if arguments.check:
        show_plan(*check_job(config), console)
        return DONE
    manifest = answer_documents(config)
    show_answers(manifest, config, console)
    return WITH_REJECTS if manifest["counts"]["rejects"] else DONE


def evaluate(arguments: argparse.Namespace, console: Console) -> int:
    """Answers against gold -> scores."""
    from qa_ray.evaluate import evaluate as score
    from qa_ray.storage import use_s3, write_text

    config = read_config(EvaluateConfig, arguments.config, arguments.settings)
    use_s3(**config.storage.model_dump())
    evaluation = score(config.answers, config.questions, config.metric, config.by)
    console.print(evaluation.to_table())
    if config.output:
        write_text(config.output, evaluation.to_json())
        console.print(f"scores as JSON: {config.output}")
    return DONE


def lengthen(arguments: argparse.Namespace, console: Console) -> int:
    """A BERT or RoBERTa checkpoint -> a Longformer."""
    from qa_ray.lengthen import lengthen as make_longformer
    from qa_ray.storage import use_s3

    config = read_config(LengthenConfig, arguments.config, arguments.settings)
    use_s3(**config.storage.model_dump())
    console.print(escape(str(make_longformer(**config.model_dump(exclude={"storage"})))), soft_wrap=True)
    return DONE


def finetune(arguments: argparse.Namespace, console: Console) -> int:
    """Documents and questions with gold answers -> a better model."""
    from qa_ray.finetune import finetune as learn
    from qa_ray.report import show_finetuning

    config = read_config(FinetuneConfig, arguments.config, arguments.settings)
    show_finetuning(learn(config), config, console)
    return DONE


VERBS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "prepare": prepare,
    "answer": answer,
    "evaluate": evaluate,
    "lengthen": lengthen,
    "finetune": finetune,
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    arguments = _parser().parse_args(words)
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
        from qa_ray.storage import explain, is_storage_error

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
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
