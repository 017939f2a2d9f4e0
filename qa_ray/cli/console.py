"""What a person sees at the end of a job: the plan, the outcome, some answers."""

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

SHOWN_CHARS = 500  # of an answer or a snippet


def show_plan(plan: Plan, output: OutputFolder, resources: Resources, console: Console) -> None:
    """What ``--check`` prints."""
    table = plan.to_table()
    state = (
        "finished: the same job would do nothing" if output.finished else "to be resumed" if output.resumed else "new"
    )
    table.add_row("state", state)
    actors = str(resources.max_actors)
    if resources.min_actors < resources.max_actors:
        actors = f"{resources.min_actors} to {resources.max_actors}"
    gpus = f" and {resources.gpus_per_actor} GPUs" if resources.device == "cuda" else ""
    table.add_row(
        "actors", f"{actors} on {resources.device} in {resources.dtype}, each {resources.cpus_per_actor} CPUs{gpus}"
    )
    console.print(table)
    console.print("all checks passed; nothing was run")


def show_answers(manifest: dict[str, Any], config: AnswerConfig, console: Console) -> None:
    """The outcome of an answer job: some answers, counts, and where they lie."""
    counts, output = manifest["counts"], absolute_uri(config.output)
    if config.preview and counts["answers"]:
        _show_first(output, manifest["files"]["answers"][0]["name"], config.preview, console)
    rate = manifest.get("windows_per_second")  # none where this run found all done
    rate = f", {rate:,.1f} windows/s once the model was loaded" if rate else ""
    console.print(
        f"{counts['answers']:,} answers and {counts['rejects']:,} rejects to {counts['documents']:,} documents "
        f"({counts['windows']:,} windows, {counts['tokens']:,} tokens) in {manifest['seconds']:,.0f} s{rate}"
    )
    if counts["rejects"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejects_by_reason"].items())
        console.print(f"[yellow]rejects: {escape(reasons)}[/]; see {escape(join(output, 'rejects'))}")
    console.print(f"answers: {escape(join(output, 'answers'))}/*.parquet", soft_wrap=True)


def _show_first(output: str, file: str, num_rows: int, console: Console) -> None:
    filesystem, path = open_filesystem(join(output, "answers", file))
    # Passed-through columns are not ours to read: they may hold anything.
    columns = ["document_id", *ANSWER.names]
    rows = next(open_parquet(filesystem, path, "answers").iter_batches(num_rows, columns=columns)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["document_id"], row["question_id"])):
        console.print(f"[dim]{escape(row['document_id'])}[/]  {escape(row['question'])}", highlight=False)
        if row["answer"] is None:
            console.print(f"    [dim]no answer ({row['no_answer_score']:.2f})[/]\n")
            continue
        facts = f"score {row['score']:.2f}, characters {row['start_char']}–{row['stop_char']}"
        console.print(f"    [bold green]{escape(_shortened(row['answer']))}[/]  [dim]{facts}[/]", highlight=False)
        console.print(Padding(_marked(row), (0, 0, 1, 4)), highlight=False)


def _marked(row: dict[str, Any]) -> Text:
    """The snippet on one line, the answer in it in bold."""
    text = Text(_shortened(" ".join(row["snippet"].split())), style="dim")
    text.highlight_words([" ".join(row["answer"].split())], "bold not dim")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def show_finetuning(manifest: dict[str, Any], config: FinetuneConfig, console: Console) -> None:
    """What was learned from, what every epoch was worth, and where the best model lies."""
    place = absolute_uri(config.output)
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest["counts"].items() if count)
    console.print(escape(counts), highlight=False)
    columns = {"exact_match": "EM", "f1": "F1", "gold_among_n_best": "gold in n best", "mean_rank_of_gold": "its rank"}
    table = Table(title="Validation after each epoch", title_justify="left")
    table.add_column("epoch", justify="right")
    for heading in (*columns.values(), "calibration error"):
        table.add_column(heading, justify="right")
    for epoch in manifest["epochs"]:
        mark = " best" if epoch == manifest["best"] else ""
        cells = [f"{epoch[name]:.2f}" for name in columns]
        table.add_row(f"{epoch['epoch']}{mark}", *cells, f"{epoch['expected_calibration_error']:.3f}")
    console.print(table)
    console.print(f"model: {escape(join(place, 'model'))}", soft_wrap=True, highlight=False)
    if manifest["counts"]["rejects"]:
        console.print(f"rejects: {escape(join(place, 'rejects'))}/*.parquet", soft_wrap=True, highlight=False)
