"""The result of an evaluation, as the JSON of ``scores.json``; html_report.py and cli/evaluation_table.py render it."""

import json
from dataclasses import asdict, dataclass

from qa_ray.evaluation.bootstrap import Interval
from qa_ray.evaluation.calibration import Calibration
from qa_ray.evaluation.metrics import find_metric
from qa_ray.evaluation.outcomes import Figures
from qa_ray.evaluation.precision_recall import Curve
from qa_ray.evaluation.threshold import MIN_QUESTIONS, Threshold
from qa_ray.wording import counted


@dataclass(frozen=True)
class Mistake:
    """A wrong answer with a high score."""

    document_id: str | None
    question_id: str
    question: str
    gold: list[str]
    answer: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """How well the answers agree with the gold answers. Figures are in percent, scores and thresholds in [0, 1]."""

    metric: str  # its name in METRICS
    rules: str  # the title of the rules applied, such as SQuAD 2.0
    overall: Figures
    intervals: dict[str, Interval]  # 95 % confidence intervals of exact_match, f1 and aupr; empty for few documents
    answerable: dict[str, Figures]  # of has_answer and no_answer; empty if every question has an answer
    groups: dict[str, dict[str, Figures]]  # by column, then by value, largest group first
    thresholds: dict[str, Threshold]  # for exact_match and f1; empty without no-answer scores or unanswerable questions
    calibration: Calibration | None  # of the best spans' scores, over questions that have an answer
    curve: Curve | None  # if the metric has a precision-recall curve
    mistakes: list[Mistake]  # highest score first
    no_gold: int  # questions without gold answers, which no figure includes

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @property
    def settings(self) -> dict[str, float]:
        """Recommended settings of the next answer job: the no-answer threshold with the best F1."""
        if not self.thresholds or self.overall.count < MIN_QUESTIONS:
            return {}
        return {"answers.no_answer_threshold": min(1.0, max(0.0, self.thresholds["f1"].threshold))}

    def notes(self) -> list[str]:
        """Whatever the tables of figures do not show, one phrase each."""
        notes = []
        if find_metric(self.metric).reports_average:
            notes.append(f"average of EM and F1: {self.overall.average:.4f}")
        if self.curve:
            at_80, at_90 = self.curve.precision_at_80, self.curve.precision_at_90
            notes.append(f"precision at 80 % recall: {at_80:.1f} %, at 90 % recall: {at_90:.1f} %")
        if self.calibration:
            notes.append(f"expected calibration error: {self.calibration.expected_error:.3f}")
        notes += [f"recommended setting: {name}={value:.6g}" for name, value in self.settings.items()]
        if self.thresholds and not self.settings:
            notes.append(
                f"no setting recommended: {counted(self.overall.count, 'question')}, too few for a threshold: it takes "
                f"{MIN_QUESTIONS}"
            )
        if self.no_gold:
            notes.append(f"questions without gold answers, not scored: {self.no_gold:,}")
        return notes
