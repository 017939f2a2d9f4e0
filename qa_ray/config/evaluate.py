"""The config of ``qa-ray evaluate``."""

from typing import Annotated

from pydantic import Field

from qa_ray.config.sections import JobConfig, OneOf, Place, StorageSettings, Strings
from qa_ray.evaluation.metrics import METRICS, described


class EvaluateConfig(JobConfig):
    """Scores answers against gold answers: EM and F1 with intervals, calibration, and settings for the next run."""

    verb = "evaluate"

    answers: Place = Field(
        description="Output of an answer job, or predictions as JSON `{question_id: text}`.", examples=["out/answers"]
    )
    questions: Place = Field(
        description="Questions as Parquet, with gold answers in a column `answers`: lists of `{text, start_char}`; an "
        "empty list means that there is no answer. Or documents whose column `questions` has lists of all that.",
        examples=["data/questions"],
    )
    metric: Annotated[str, OneOf(lambda: METRICS)] = Field(
        default="squad",
        description=f"Official rules to score by: {described(METRICS)}.",
    )
    by: Strings = Field(
        default=[],
        description="Columns of the questions or answers; scores are also given for each of their values.",
        examples=[["title", "num_windows"]],
    )
    resamples: int = Field(
        default=1000,
        ge=0,
        description="Number of bootstrap resamples of the documents, for 95 % intervals; 0 turns intervals off.",
    )
    output: Place | None = Field(
        default=None,
        description="Folder or URI for `scores.json` and the page `scores.html`. If unset, scores are only printed.",
        examples=["scores"],
    )
    storage: StorageSettings = StorageSettings()
