"""What a job prints: the plan before it, and its results after it."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qa_ray.answering.plan import Plan
from qa_ray.config import AnswerConfig, FinetuneConfig
from qa_ray.io.storage import absolute_uri, join, open_filesystem, open_parquet
from qa_ray.output.folder import OutputFolder
from qa_ray.runtime.resources import Resources
from qa_ray.schemas import ANSWER

MAX_CHARS = 500  # shown of an answer or a snippet
EPOCH_COLUMNS = {
    "exact_match": "EM",
    "f1": "F1",
    "gold_among_n_best": "gold in n best",
    "mean_rank_of_gold": "mean rank of gold",
}


def show_plan(plan: Plan, output: OutputFolder, resources: Resources, console: Console) -> None:
    """What ``--check`` prints."""
    documents, settings = plan.documents, plan.settings
    actors = f"{resources.min_actors} to {resources.max_actors}"
    if resources.min_actors == resources.max_actors:
        actors = str(resources.max_actors)
    gpus = f" and {resources.gpus_per_actor} GPUs" if resources.device == "cuda" else ""
    rows = {
        "documents": f"{documents.num_documents:,} in {len(documents.paths):,} files, "
        f"{documents.text_bytes / 1e6:,.1f} MB of text",
        "questions": f"{_sources(plan)}: {plan.num_pairs:,} answers",
        **({"previous": _previous(plan)} if plan.config.previous else {}),
        "model": f"{plan.checkpoint.name} ({plan.checkpoint.fingerprint[:12]})",
        "windows": f"about {plan.num_windows:,} of at most {settings.max_tokens:,} tokens, "
        f"overlap {settings.overlap_tokens}",
        "output": plan.output,
        "state": _state(output),
        "actors": f"{actors} on {resources.device} in {resources.dtype}, each {resources.cpus_per_actor} CPUs{gpus}",
    }
    table = Table(title="Plan", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    console.print("all checks passed; nothing was run")


def _sources(plan: Plan) -> str:
    """Where the questions come from, and how many of each kind there are."""
    documents, questions = plan.documents, plan.questions
    counts = [f"{documents.num_listed:,} in the column {documents.lists.column!r}"] if documents.lists else []
    if len(questions):
        counts += [f"{questions.num_bound:,} about one document", f"{len(questions.to_all):,} asked of every document"]
    return ", ".join(counts)


def _previous(plan: Plan) -> str:
    """How many answers of earlier runs there are."""
    num_outputs = len(plan.previous.outputs)
    return f"{plan.previous.num_answers:,} answers in {num_outputs} earlier output{'s'[: num_outputs != 1]}"


def _state(output: OutputFolder) -> str:
    if output.finished:
        return "finished: the same command would change nothing"
    return "unfinished: the same command would resume it" if output.resumed else "new"


def show_answers(manifest: dict[str, Any], config: AnswerConfig, console: Console) -> None:
    """The first answers, the counts, and the paths of the results."""
    counts, output = manifest["counts"], absolute_uri(config.output)
    if config.preview and counts["answers"]:
        _show_first(output, manifest["files"]["answers"][0]["name"], config.preview, console)
    rate = manifest.get("windows_per_second")  # absent if this run found everything finished
    rate = f", {rate:,.1f} windows/s once the model was loaded" if rate else ""
    console.print(
        f"{counts['answers']:,} answers and {counts['rejects']:,} rejects for {counts['documents']:,} documents "
        f"({counts['windows']:,} windows, {counts['tokens']:,} tokens) in {manifest['seconds']:,.0f} s{rate}"
    )
    if num_reused := counts.get("reused"):
        num_windows = manifest["windows_this_run"]
        console.print(f"{num_reused:,} of the answers are of earlier runs; this one read {num_windows:,} windows")
    if counts["rejects"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejects_by_reason"].items())
        console.print(f"[yellow]rejects: {escape(reasons)}[/]; see {escape(join(output, 'rejects'))}")
    console.print(f"answers: {escape(join(output, 'answers'))}/*.parquet", soft_wrap=True)
    for folder in manifest["files"]:
        if folder.startswith("exports/"):
            console.print(f"{escape(folder)}: {escape(join(output, folder))}", soft_wrap=True)


def _show_first(output: str, file: str, num_rows: int, console: Console) -> None:
    filesystem, path = open_filesystem(join(output, "answers", file))
    # Passed-through columns may hold anything, even strings that are not UTF-8: they are not read.
    columns = ["document_id", *ANSWER.names]
    rows = next(open_parquet(filesystem, path, "answers").iter_batches(num_rows, columns=columns)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["document_id"], row["question_id"])):
        console.print(f"[dim]{escape(row['document_id'])}[/]  {escape(row['question'])}", highlight=False)
        if row["answer"] is None:
            console.print(f"    [dim]no answer ({row['no_answer_score']:.2f})[/]\n")
            continue
        details = f"score {row['score']:.2f}, characters {row['start_char']}–{row['stop_char']}"
        console.print(f"    [bold green]{escape(_shortened(row['answer']))}[/]  [dim]{details}[/]", highlight=False)
        console.print(Padding(_highlighted_snippet(row), (0, 0, 1, 4)), highlight=False)


def _highlighted_snippet(row: dict[str, Any]) -> Text:
    """The snippet on one line, with the answer in bold."""
    text = Text(_shortened(" ".join(row["snippet"].split())), style="dim")
    text.highlight_words([" ".join(row["answer"].split())], "bold not dim")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def show_finetuning(manifest: dict[str, Any], config: FinetuneConfig, console: Console) -> None:
    """The size of the data, the validation scores of every epoch, and the path of the best model."""
    output = absolute_uri(config.output)
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in manifest["counts"].items() if count)
    console.print(escape(counts), highlight=False)
    table = Table(title="Validation after each epoch", title_justify="left")
    for heading in ("epoch", *EPOCH_COLUMNS.values(), "calibration error"):
        table.add_column(heading, justify="right")
    for epoch in manifest["epochs"]:
        mark = " (best)" if epoch == manifest["best"] else ""
        cells = [f"{epoch[name]:.2f}" for name in EPOCH_COLUMNS]
        table.add_row(f"{epoch['epoch']}{mark}", *cells, f"{epoch['expected_calibration_error']:.3f}")
    console.print(table)
    console.print(f"model: {escape(join(output, 'model'))}", soft_wrap=True, highlight=False)
    if manifest["counts"]["rejects"]:
        console.print(f"rejects: {escape(join(output, 'rejects'))}/*.parquet", soft_wrap=True, highlight=False)
