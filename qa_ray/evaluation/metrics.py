"""The metrics by name. A metric is a module with a scoring function and an entry in METRICS.

How to add one: docs/how-to/add-a-metric.md.

Importing this module stays light (numpy at most): the config classes validate names against METRICS.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qa_ray.errors import ConfigError
from qa_ray.evaluation.cmrc import cmrc_scores
from qa_ray.evaluation.cuad import span_events
from qa_ray.evaluation.precision_recall import Events
from qa_ray.evaluation.scores import Scores
from qa_ray.evaluation.squad import squad1_scores, squad2_scores


@dataclass(frozen=True)
class Rules:
    """How one official script scores a question."""

    title: str  # of tables and pages
    score: Callable[[str, Sequence[str]], Scores]  # of a text ("": no answer) against gold answers (none: unanswerable)
    missing_is_no_answer: bool = True  # a question without an answer row is scored as "no answer"; else it scores 0


@dataclass(frozen=True)
class Metric:
    """The rules of a metric, and what it reports besides exact match and F1."""

    rules: Rules
    answerable_rules: Rules | None = None  # replace ``rules`` if every question has an answer
    reports_average: bool = False  # of exact match and F1
    description: str = ""  # a phrase for the docs of the setting ``metric``; the rules' title if empty

    # Question id, gold answers, n best spans with scores -> events: adds a precision-recall curve and its area (AUPR).
    span_events: Callable[[str, Sequence[str], Sequence[tuple[str, float]]], Events] | None = None
    match_rule: str = ""  # when a span matches a gold answer, as a sentence for the curve's caption

    def rules_for(self, golds: Iterable[Sequence[str]]) -> Rules:
        """The rules for questions with these gold answers, of which an unanswerable question has none."""
        return self.answerable_rules if self.answerable_rules and all(golds) else self.rules


METRICS: dict[str, Metric] = {
    # SQuAD 2.0's script drops questions without an answer row; here they count as "no answer".
    "squad": Metric(
        rules=Rules("SQuAD 2.0", squad2_scores),
        answerable_rules=Rules("SQuAD 1.1", squad1_scores, missing_is_no_answer=False),
        description="1.1 or 2.0, by the questions",
    ),
    # The script leaves questions without an answer row ("skipped") in the total and ranks systems by the average.
    "cmrc": Metric(
        Rules("CMRC 2018", cmrc_scores, missing_is_no_answer=False),
        reports_average=True,
        description="CMRC 2018, Chinese",
    ),
    # Exact match and F1 are those of SQuAD 2.0.
    "cuad": Metric(
        Rules("CUAD", squad2_scores),
        description="several answers to a question, all of which should be found",
        span_events=span_events,
        match_rule="A span matches a gold answer if they share half of their words (Jaccard similarity ≥ 0.5).",
    ),
}


def described(names: Iterable[str]) -> str:
    """The metrics as ``name (description), …``."""
    return ", ".join(f"{name} ({METRICS[name].description or METRICS[name].rules.title})" for name in names)


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in METRICS:
        raise ConfigError(f"metric: unknown name {name!r}; use one of {', '.join(METRICS)}")
    return METRICS[name]
