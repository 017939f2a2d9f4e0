"""The config of ``qa-ray finetune``."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from qa_ray.config.sections import (
    Columns,
    Documents,
    JobConfig,
    OneOf,
    Place,
    Places,
    Section,
    StorageSettings,
    WindowSettings,
    number_or_range,
)
from qa_ray.evaluation.metrics import METRICS, described
from qa_ray.model.settings import Device


def _validation_metrics() -> list[str]:
    """Those that score a question's best answer; others need more than its n best spans."""
    return [name for name, metric in METRICS.items() if metric.span_events is None]


class GoldColumns(Columns):
    """The names of the columns in your tables."""

    answers: str = Field(default="answers", description="Gold answers of a question.")


class ValidationSettings(Section):
    """Questions that are answered before training and after every epoch, to choose the best one and to fit its scores.

    Either tables of their own, or a share of the training documents.
    """

    documents: Place | None = Field(
        default=None, description="Validation documents as Parquet.", examples=["validation/documents"]
    )
    questions: Place | None = Field(
        default=None,
        description="Validation questions as Parquet, with gold answers.",
        examples=["validation/questions"],
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Without such tables: share of the documents that is held out from training, drawn by their ids.",
    )
    metric: Annotated[str, OneOf(_validation_metrics)] = Field(
        default="squad", description=f"Official rules to score by: {described(_validation_metrics())}."
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> "ValidationSettings":
        if (self.documents is None) != (self.questions is None):
            raise PydanticCustomError("both", "validation needs documents and questions, or neither")
        return self


class TrainingSettings(Section):
    """What is trained, and how. Every setting changes the result; batch_tokens only by dropout and rounding."""

    epochs: NonNegativeInt = Field(
        default=3,
        description="Passes over the training questions. 0: the weights stay as they are, and the scores are "
        "calibrated on all questions, of which it takes 100 or more (see `qa-ray init calibrate`).",
    )
    learning_rate: float = Field(
        default=3e-5, gt=0, description="Learning rate at its peak; then it falls linearly to 0."
    )
    warmup: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the run in which the learning rate rises to its peak; no step has a rate of 0.",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay of AdamW.")
    max_gradient_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Dropout of hidden states. If unset, the model's own.", examples=[0.1]
    )
    attention_dropout: float | None = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Dropout of attention weights; null: the model's own. Above 0, Longformer is slower on a CPU.",
    )
    window_tokens: list[PositiveInt] | None = Field(
        default=None,
        min_length=1,
        description="Lengths of the training windows in tokens; each is drawn equally often. If unset, "
        "windows.max_tokens.",
        examples=[[384, 4096]],
    )
    positives: float = Field(
        default=1.0,
        gt=0,
        description="Windows with an answer drawn for each question in each epoch, on average; drawn again each epoch.",
    )
    negatives: float = Field(
        default=1.0, ge=0, description="Windows without an answer drawn for each question in each epoch, on average."
    )
    step_tokens: PositiveInt = Field(
        default=8_192, description="Approximate number of tokens in an optimizer step, over all workers."
    )
    batch_tokens: PositiveInt | None = Field(
        default=None,
        description="Tokens in one forward pass; fewer need less memory. If unset, 4,096 on a CPU and 32,768 on a GPU.",
        examples=[2048],
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recomputes activations in the backward pass: less memory, more time."
    )
    checkpoint_steps: PositiveInt = Field(
        default=200, description="Steps between checkpoints; there is also one after every epoch."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the drawn windows, of dropout, and of a new head.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Number format of matrix products; auto: bfloat16 where the hardware has it. Weights are kept in "
        "float32.",
    )
    averaged_with: Places = Field(
        default=[],
        description="Models of the same shape and vocabulary, such as the one that training starts from: their weights "
        "are averaged with the trained ones, and the mean is validated, calibrated and saved (Wortsman et al. 2022).",
        examples=[["default"]],
    )
    saved_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Number format of the saved weights."
    )


class WorkerSettings(Section):
    """Where the training runs."""

    device: Device = Field(default="auto", description="Device of the model; auto: GPUs if Ray has any, else CPUs.")
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        default=1,
        description="Number of workers, or [min, max] for the elastic workers of Ray Train.",
        examples=[[1, 8]],
    )
    cpus_per_worker: PositiveInt | None = Field(
        default=None,
        description="CPU cores of a worker, all on one node. If unset, the most that all workers find on the nodes; 1 "
        "with a GPU.",
        examples=[4],
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        description="How often workers that died are restarted from the last checkpoint before the job fails.",
    )
    wait_seconds: int = Field(
        default=600,
        ge=0,
        description="How long a cluster may take to start the nodes for the smallest number of workers, in seconds.",
    )

    @field_validator("workers", mode="wrap")
    @classmethod
    def _min_max(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        return number_or_range(value, check, "a number above 0, or [min, max] such as [1, 8]")


class FinetuneConfig(JobConfig):
    """Fine-tunes a model on documents and questions with gold answers, and calibrates its scores."""

    verb = "finetune"

    documents: Documents
    questions: Place = Field(
        description="Questions as Parquet, with gold answers in a column `answers`: lists of `{text, start_char}`; an "
        "empty list means that there is no answer. Or documents whose column columns.questions has lists of all that.",
        examples=["data/questions"],
    )
    output: Place = Field(
        description="Output folder or URI: `model/`, `tensorboard/`, `rejects/`, `manifest.json`, and `_SUCCESS` when "
        "all is complete. A run that was killed resumes from `_run/`.",
        examples=["out/finetuned"],
    )
    model: Place = Field(
        default="default",
        description="Model to start from: default (comes with qa-ray; English), a folder, a URI, or a Hugging Face hub "
        "id, which ORG/NAME@REVISION pins. A question-answering head is added where there is none.",
    )
    columns: GoldColumns = GoldColumns()
    validation: ValidationSettings = ValidationSettings()
    windows: WindowSettings = Field(
        default=WindowSettings(),
        description="How documents are cut into windows, in validation and by the saved model.",
    )
    training: TrainingSettings = TrainingSettings()
    runner: WorkerSettings = WorkerSettings()
    about: dict[str, Any] = Field(
        default={},
        description="Anything to record in the model's `qa_ray.json`, such as its data and their licenses.",
        examples=[{"data": "SQuAD 1.1", "license": "CC BY-SA 4.0"}],
    )
    storage: StorageSettings = StorageSettings()

    @field_validator("about")
    @classmethod
    def _json(cls, about: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(about, allow_nan=False)
        except ValueError as error:
            raise PydanticCustomError("json", "JSON has no .inf and no .nan; write text") from error
        return about
