"""An evaluation as a table for the terminal."""

from rich.table import Table
from rich.text import Text

from qa_ray.evaluation.outcomes import Figures
from qa_ray.evaluation.report import Evaluation
from qa_ray.evaluation.scores import Scores


def evaluation_table(evaluation: Evaluation) -> Table:
    """Figures overall, by answerability and by group, the best thresholds, and the notes as caption."""
    table = Table(title=evaluation.rules, caption="\n".join(evaluation.notes()), caption_justify="left")
    has_curve = evaluation.curve is not None
    table.add_column("")
    for heading in ("EM", "F1", *(["AUPR"] if has_curve else []), "questions", "missing"):
        table.add_column(heading, justify="right")
    for name, figures in {"all": evaluation.overall, **evaluation.answerable}.items():
        table.add_row(name.replace("_", " "), *_cells(figures, 4, has_curve))
    if evaluation.intervals:
        ranges = [f"{low:.1f}–{high:.1f}" for low, high in evaluation.intervals.values()]
        table.add_row("95 % confidence interval", *ranges)
    table.add_section()
    for name, best in evaluation.thresholds.items():
        cells = [f"{best.score:.4f}" if name == column else "" for column in Scores._fields]
        table.add_row(f"best at no_answer_score ≤ {best.threshold:.6g}", *cells)
    for column, groups in evaluation.groups.items():
        table.add_section()
        table.add_row(Text(column, style="bold"))
        for name, figures in groups.items():
            table.add_row(Text(name), *_cells(figures, 2, has_curve))
    return table


def _cells(figures: Figures, decimals: int, has_curve: bool) -> list[str]:
    scores = [figures.exact_match, figures.f1, *([figures.aupr] if has_curve else [])]
    cells = ["" if score is None else f"{score:.{decimals}f}" for score in scores]
    return [*cells, f"{figures.count:,}", f"{figures.missing:,}"]
