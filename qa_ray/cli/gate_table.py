"""What `qa-ray gate` prints: the windows that keep a recall, and the setting that reads them."""

from rich.table import Table

from qa_ray.gate.fitted import HeldOut
from qa_ray.training.fit_gate import FittedJob
from qa_ray.wording import counted

RECALLS = (0.9, 0.95, 0.98, 0.99)


def gate_table(fitted: FittedJob) -> Table:
    """A row for each recall; all figures are of documents held out."""
    gate = fitted.fit.gate
    table = Table(
        title=f"{counted(len(gate.questions), 'question')} in {counted(fitted.counts['documents'], 'document')}, "
        f"{counted(len(gate.held_out), 'answer')} held out",
        title_justify="left",
    )
    for column in ("recall", "windows read", "by words alone (BM25)", "windows.read"):
        table.add_column(column, justify="left" if column == "windows.read" else "right")
    for recall in RECALLS:
        table.add_row(
            f"{recall:.0%}",
            _share(gate.held_out, recall),
            _share(fitted.fit.lexical, recall),
            f"{{recall: {recall:g}}}",
        )
    return table


def _share(held_out: HeldOut, recall: float) -> str:
    return f"{held_out.share_read(held_out.rule_for(recall)):.1%}"
