"""What ``--check`` prints: the plan of a job as a table."""

from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qa_ray.answering.plan import Plan
from qa_ray.config.fields import as_yaml
from qa_ray.io.document_table import DocumentTable
from qa_ray.io.question_table import QuestionTable
from qa_ray.output.folder import OutputFolder
from qa_ray.runtime.resources import Resources
from qa_ray.training.plan import FinetunePlan
from qa_ray.wording import counted


def show_plan(plan: Plan, output: OutputFolder, resources: Resources, rejects: Counter[str], console: Console) -> None:
    """The plan of an answer job; ``rejects`` are those that are certain, by reason."""
    settings = plan.settings
    actors = f"{resources.min_actors:,} to {resources.max_actors:,}"
    if resources.min_actors == resources.max_actors:
        actors = f"{resources.max_actors:,}"
    gpus = f" and {resources.gpus_per_actor:g} GPUs" if resources.device == "cuda" else ""
    if resources.gpus_per_actor == 1:
        gpus = " and 1 GPU"
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejects.most_common())
    _show(
        {
            "documents": _documents(plan.documents),
            "questions": f"{_sources(plan)}: {counted(plan.num_pairs, 'answer')}",
            **({"rejects": f"certain before the run: {reasons}"} if rejects else {}),
            **({"previous": _previous(plan)} if plan.config.previous else {}),
            "model": f"{plan.checkpoint.name} ({plan.checkpoint.fingerprint[:12]})",
            "windows": f"about {plan.num_windows:,} of at most {settings.max_tokens:,} tokens, "
            f"overlap {settings.overlap_tokens:,}",
            **({"read": _read(plan)} if settings.read != "all" else {}),
            "output": plan.output,
            "state": _state(output),
            "actors": f"{actors} on {resources.device} in {resources.dtype}, each "
            f"{counted(resources.cpus_per_actor, 'CPU')}{gpus}",
        },
        console,
    )


def show_finetuning_plan(
    plan: FinetunePlan, output: OutputFolder, use_gpu: bool, cpus_per_worker: int, console: Console
) -> None:
    """The plan of a fine-tuning job."""
    training, workers = plan.config.training, plan.config.runner.workers
    held_out = f"held out: {plan.config.validation.held_out:.0%} of the documents"
    steps = f"{counted(training.epochs, 'epoch')} of windows of {_listed(plan.window_tokens)} tokens"
    number = f"{workers[0]} to {workers[1]}" if isinstance(workers, tuple) else f"{workers}"
    _show(
        {
            "training": _tables(*plan.training_tables),
            "validation": _tables(*plan.validation_tables) if plan.validation_tables else held_out,
            "model": plan.model,
            "epochs": steps if training.epochs else "none: calibrates the model as it is",
            "output": plan.output,
            "state": _state(output),
            "workers": f"{number} on {'cuda' if use_gpu else 'cpu'}, each {counted(cpus_per_worker, 'CPU')}",
        },
        console,
    )


def _show(rows: Mapping[str, str], console: Console) -> None:
    table = Table(title="Plan", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    console.print("all checks passed; nothing was run")


def _documents(documents: DocumentTable) -> str:
    size = f"{documents.text_bytes / 1e6:,.1f} MB" if documents.text_bytes >= 1e5 else "less than 0.1 MB"
    return f"{documents.num_documents:,} with {size} of text, in {documents.files.words}"


def _tables(documents: DocumentTable, questions: QuestionTable) -> str:
    return f"{counted(len(questions), 'question')} in {questions.files.words}; documents: {_documents(documents)}"


def _listed(numbers: tuple[int, ...]) -> str:
    *others, last = [f"{number:,}" for number in numbers]
    return f"{', '.join(others)} or {last}" if others else last


def _sources(plan: Plan) -> str:
    """Where the questions come from, and how many of each kind there are."""
    documents, questions = plan.documents, plan.questions
    counts = [f"{documents.num_listed:,} in the column {documents.lists.column!r}"] if documents.lists else []
    if len(questions):
        counts += [
            f"{questions.num_bound:,} about one document",
            f"{len(questions.to_all):,} asked about every document",
        ]
    files = f", in {questions.files.words}" if questions.files.num_files else ""
    return ", ".join(counts) + files


def _previous(plan: Plan) -> str:
    """How many answers of earlier runs there are."""
    outputs = counted(len(plan.previous.outputs), "earlier output")
    return f"{counted(plan.previous.num_answers, 'answer')} in {outputs}"


def _read(plan: Plan) -> str:
    """How many windows are read, and what chooses them."""
    rule = as_yaml(plan.settings.model_dump(include={"read"}, exclude_none=True)["read"])
    gate = plan.gate or plan.checkpoint.gate
    share = plan.num_windows_read / max(1, plan.num_windows)
    chosen_by = f"gate {gate}" if gate else "the words of the question (BM25)"
    return f"about {plan.num_windows_read:,} of these windows ({share:.0%}) by {rule}, chosen by {chosen_by}"


def _state(output: OutputFolder) -> str:
    if output.finished:
        return "finished: the same command would change nothing"
    return "unfinished: the same command would resume it" if output.resumed else "new"
