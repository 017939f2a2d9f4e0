"""What is fitted to the validation questions: the settings before and after, and those that keep their values.

A fit to few questions is worse than none. The error of Platt scaling on new questions (mean absolute difference between
fitted scores and true frequencies, of 300 simulated fits of log odds with a standard deviation of 2.5) is, on average
and in 95 of 100 fits at most:

    questions           10           30           50          100          200
    error       0.10, 0.17   0.07, 0.13   0.06, 0.11   0.04, 0.08   0.03, 0.06

Without a fit it is 0.07 for a model whose true slope and intercept are 0.65 and 0.2, a typical overconfidence. So with
fewer than MIN_QUESTIONS the settings of the model that one started from are kept. A share, such as the F1 that the
no-answer threshold maximizes, has a 95 % interval of ±10 points at that number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qa_ray.evaluation.threshold import MIN_QUESTIONS
from qa_ray.wording import counted


def why_scores_are_kept(num_with_answer: int) -> str | None:
    """Why the score's slope and intercept are not fitted to so many questions that have an answer; None if they are."""
    return (
        _too_few(counted(num_with_answer, "question") + " with an answer") if num_with_answer < MIN_QUESTIONS else None
    )


def why_threshold_is_kept(num_with_answer: int, num_without_answer: int) -> str | None:
    """Why the no-answer threshold is not fitted to so many questions; None if it is."""
    if not num_without_answer:
        return "no question without an answer"
    if not num_with_answer:
        return "no question with an answer"
    num_questions = num_with_answer + num_without_answer
    return _too_few(counted(num_questions, "question")) if num_questions < MIN_QUESTIONS else None


def _too_few(questions: str) -> str:
    return f"{questions}, too few for a fit: it takes {MIN_QUESTIONS}"


def describe_fit(fit: Mapping[str, Any]) -> list[str]:
    """What was fitted, with the values before and after, and what was not; ``fit`` is the manifest's ``fitted``."""
    before, after, kept = fit["before"], fit["after"], fit["kept"]
    lines = []
    if changes := [f"{name} {before[name]:.4g} → {value:.4g}" for name, value in after.items() if name not in kept]:
        questions = f"{fit['questions_with_answer']:,} questions with and {fit['questions_without_answer']:,} without"
        lines.append(f"fitted to {questions} an answer: {', '.join(changes)}")
    if "score_slope" not in kept:
        error = fit["expected_calibration_error"]
        lines.append(f"calibration error on these questions: {error['before']:.3f} → {error['after']:.3f}")
    for reason in dict.fromkeys(kept.values()):
        values = ", ".join(f"{name} {after[name]:.4g}" for name, why in kept.items() if why == reason)
        warning = "warning: " if "too few" in reason else ""
        lines.append(f"{warning}not fitted, kept: {values} ({reason})")
    return lines


def compare_with_start(epochs: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> list[str]:
    """A line if training did not make the model better; ``epochs`` and ``best`` are the manifest's."""
    start = epochs[0]
    if start == best or start["epoch"] or best["f1"] > start["f1"]:
        return []
    return [
        f"warning: training did not help: the published model has F1 {best['f1']:.2f}, the one that training started "
        f"from {start['f1']:.2f} (epoch 0); keep that one, or try more questions or another training.learning_rate"
    ]
