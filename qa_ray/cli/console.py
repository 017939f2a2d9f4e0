"""What a job prints when it has ended: its first results, its counts, and where they are."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qa_ray.config import AnswerConfig, FinetuneConfig
from qa_ray.io.storage import absolute_uri, join, open_filesystem, open_parquet
from qa_ray.schemas import ANSWER
from qa_ray.training.fit import compare_with_start, describe_fit
from qa_ray.wording import counted, shortened

MAX_CHARS = 500  # shown of an answer or a snippet
EPOCH_COLUMNS = {
    "exact_match": "EM",
    "f1": "F1",
    "gold_among_n_best": "gold in n best",
    "mean_rank_of_gold": "mean rank of gold",
}


def show_answers(manifest: dict[str, Any], config: AnswerConfig, console: Console, *, was_run: bool = True) -> None:
    """The first answers, the counts, and the paths of the results; whether any of it ``was_run`` by this command."""
    counts, output = manifest["counts"], absolute_uri(config.output)
    if config.preview and counts["answers"]:
        _show_first(output, manifest["files"]["answers"][0]["name"], config.preview, console)
    console.print(
        f"{counted(counts['answers'], 'answer')} and {counted(counts['rejects'], 'reject')} for "
        f"{counted(counts['documents'], 'document')} ({_windows(counts)}, "
        f"{counted(counts['tokens'], 'token')}){_how_long(manifest) if was_run else ''}"
    )
    if not was_run:
        console.print("finished before, nothing was run")
    elif counts.get("reused") or manifest.get("windows_this_run", counts["windows_read"]) != counts["windows_read"]:
        console.print(_what_was_new(manifest))
    if counts["rejects"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejects_by_reason"].items())
        console.print(f"[yellow]rejects: {escape(reasons)}[/]; see {escape(join(output, 'rejects'))}")
    console.print(f"answers: {escape(join(output, 'answers'))}/*.parquet", soft_wrap=True)
    for folder in manifest["files"]:
        if folder.startswith("exports/"):
            console.print(f"{escape(folder)}: {escape(join(output, folder))}", soft_wrap=True)


def _windows(counts: dict[str, int]) -> str:
    """All windows, and how many of them were read if not all were."""
    read = f", {counts['windows_read']:,} of them read" if counts["windows_read"] < counts["windows"] else ""
    return counted(counts["windows"], "window") + read


def _how_long(manifest: dict[str, Any]) -> str:
    """The time of the run that ended now, and its rate; a retry has its own."""
    figures = manifest["retries"][-1] if manifest.get("retries") else manifest
    rate = figures.get("windows_per_second")  # absent if this run found all documents finished
    rate = f", {rate:,.1f} windows/s once the model was loaded" if rate else ""
    return f" in {figures['seconds']:,.0f} s{rate}"


def _what_was_new(manifest: dict[str, Any]) -> str:
    """How much of the answers this run computed."""
    if retries := manifest.get("retries"):
        return f"{counted(retries[-1]['answers'], 'answer')} to questions that had been rejected: new"
    new = f"this one read {counted(manifest['windows_this_run'], 'window')}"
    if num_reused := manifest["counts"].get("reused"):
        return f"{num_reused:,} of the answers {'is' if num_reused == 1 else 'are'} of earlier runs; {new}"
    return f"some were answered before it was interrupted; {new}"


def _show_first(output: str, file: str, num_rows: int, console: Console) -> None:
    filesystem, path = open_filesystem(join(output, "answers", file))
    # Passed-through columns may hold anything, even strings that are not UTF-8: they are not read.
    columns = ["document_id", *ANSWER.names]
    rows = next(open_parquet(filesystem, path, "answers").iter_batches(num_rows, columns=columns)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["document_id"], row["question_id"])):
        console.print(f"[dim]{escape(str(row['document_id']))}[/]  {escape(row['question'])}", highlight=False)
        if row["answer"] is None:
            console.print(f"    [dim]no answer ({row['no_answer_score']:.2f})[/]\n")
            continue
        details = f"score {row['score']:.2f}, characters {row['start_char']}–{row['stop_char']}"
        answer = escape(shortened(row["answer"], MAX_CHARS))
        console.print(f"    [bold green]{answer}[/]  [dim]{details}[/]", highlight=False)
        console.print(Padding(_highlighted_snippet(row), (0, 0, 1, 4)), highlight=False)


def _highlighted_snippet(row: dict[str, Any]) -> Text:
    """The snippet on one line, with the answer in bold."""
    text = Text(shortened(" ".join(row["snippet"].split()), MAX_CHARS), style="dim")
    text.highlight_words([" ".join(row["answer"].split())], "bold not dim")
    return text


def describe_counts(counts: dict[str, int]) -> str:
    """The counts of a fine-tuning's manifest that are not 0, as one line: 3 training questions, 4 gold as given."""
    names = {name: name.replace("_", " ") for name, count in counts.items() if count}
    return ", ".join(
        counted(counts[name], words.removesuffix("s")) if words.endswith("s") else f"{counts[name]:,} {words}"
        for name, words in names.items()
    )


def show_finetuning(
    manifest: dict[str, Any], config: FinetuneConfig, console: Console, *, was_run: bool = True
) -> None:
    """The size of the data, the validation scores of every epoch, and the path of the best model."""
    output = absolute_uri(config.output)
    console.print(escape(describe_counts(manifest["counts"])), highlight=False)
    if not was_run:
        console.print("finished before, nothing was run")
    table = Table(title="Validation after each epoch", title_justify="left")
    for heading in ("epoch", *EPOCH_COLUMNS.values(), "calibration error"):
        table.add_column(heading, justify="right")
    epochs, best = manifest["epochs"], manifest["best"]
    for epoch in epochs:
        mark = "" if epoch["epoch"] else " (start)"
        mark = " (best)" if epoch == best else mark
        cells = [f"{epoch[name]:.2f}" for name in EPOCH_COLUMNS]
        table.add_row(f"{epoch['epoch']}{mark}", *cells, f"{epoch['expected_calibration_error']:.3f}")
    console.print(table)
    for line in describe_fit(manifest["fitted"]) + compare_with_start(epochs, best):
        console.print(escape(line), highlight=False)
    console.print(f"model: {escape(join(output, 'model'))}", soft_wrap=True, highlight=False)
    if manifest["counts"]["rejects"]:
        console.print(f"rejects: {escape(join(output, 'rejects'))}/*.parquet", soft_wrap=True, highlight=False)
