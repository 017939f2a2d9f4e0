"""The config of ``qa-ray answer``."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidatorFunctionWrapHandler, field_validator
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
    as_list,
    derived_settings,
    number_or_range,
)
from qa_ray.inference.settings import InferenceSettings
from qa_ray.model.settings import Device, Dtype, Forward, ModelSettings
from qa_ray.output.sinks import SINKS


class AnswerColumns(Columns):
    """The names of the columns in your tables."""

    keep: list[str] | None = Field(
        default=None,
        description="Columns of the documents to copy to the answers. If unset, all of them.",
        examples=[["title", "year"]],
    )


# The settings that no model has a value of its own for come first.
_SETTINGS = sorted(
    InferenceSettings.model_fields.keys() - WindowSettings.model_fields.keys(),
    key=lambda name: (name in ModelSettings.model_fields, [*InferenceSettings.model_fields].index(name)),
)


class AnswerSettings(derived_settings(InferenceSettings, _SETTINGS)):
    """What counts as an answer, how answers are scored, and how many are kept."""


class RunnerSettings(Section):
    """Where and how the model runs. No setting here changes an answer, except dtype within its precision."""

    device: Device = Field(default="auto", description="Device of the model; auto: GPUs if Ray has any, else CPUs.")
    dtype: Dtype = Field(
        default="auto",
        description="Number format of the model; auto: bfloat16 where the hardware has it, else float32. Name one to "
        "be able to resume the run on other hardware. int8: linear layers in int8 and all else in bfloat16, on "
        "CPUs with VNNI or AMX.",
    )
    forward: Forward = Field(
        default="auto",
        description="Implementation of the model; auto: qa-ray's own exact forward pass for Longformer; transformers: "
        "the reference, for all families.",
    )
    batch_tokens: PositiveInt | None = Field(
        default=None,
        description="Tokens in a batch. If unset, 2,048 on a CPU and 65,536 on a GPU.",
        examples=[16_384],
    )
    actors: Literal["auto"] | PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
        default="auto",
        description="Number of processes that run the model, or [min, max]; auto: one for each GPU, else one for each "
        "core if there is work for it.",
        examples=[8, [1, 32]],
    )
    cpus_per_actor: PositiveInt = Field(
        default=1,
        description="CPU cores, and threads, of an actor. On CPUs more actors are faster than more threads, above all "
        "beside other processes.",
    )
    gpus_per_actor: float | None = Field(
        default=None,
        gt=0,
        description="GPUs of an actor, a share of one or a whole number; 0.5: two actors share one. If unset, 1 on "
        "cuda.",
        examples=[0.5],
    )
    resources_per_actor: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={},
        description="Ray resources of an actor: it runs only on nodes that have them, such as an accelerator type, or "
        "those given to `ray start --resources`.",
        examples=[{"accelerator_type:A100": 0.001}],
    )
    wait_seconds: int = Field(
        default=600,
        ge=0,
        description="How long a cluster may take to start the nodes for the smallest number of actors, in seconds.",
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus and gpus > 1 and not gpus.is_integer():  # Ray has no actors on a GPU and a half
            raise PydanticCustomError("gpus", "Input should be a share of one GPU such as 0.5, or a whole number")
        return gpus

    @field_validator("resources_per_actor")
    @classmethod
    def _custom(cls, resources: dict[str, float]) -> dict[str, float]:
        if names := resources.keys() & {"CPU", "GPU", "memory", "object_store_memory"}:  # refused by Ray, but later
            raise PydanticCustomError(
                "resources",
                "Input should be custom resources; {names} is none: see cpus_per_actor and gpus_per_actor",
                {"names": min(names)},
            )
        return resources

    @field_validator("actors", mode="wrap")
    @classmethod
    def _min_max(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        return number_or_range(value, check, "auto, a number above 0, or [min, max] such as [1, 4]")


class Limits(Section):
    """When the job gives up."""

    max_rejected_fraction: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of rejects among all questions asked; more of them fail the job. No result is lost. "
        "Of few documents, always as many as one of them has on average, but not all. 0: none.",
    )
    block_timeout_s: float | None = Field(
        default=600,
        gt=0,
        description="Longest time without progress, in seconds. A document that blocks its worker for longer is "
        "rejected, a read that is stuck ends the job. Progress is a tokenized document, a batch of the model, some "
        "documents read; null: no limit.",
    )


class AnswerConfig(JobConfig):
    """Answers questions with exact spans of documents: tables of documents and questions to a table of answers."""

    verb = "answer"

    documents: Documents
    questions: Place | None = Field(
        default=None,
        description="Questions as Parquet. A question with a document_id is asked about that document; one whose "
        "document_id is null, or whose table has no such column, is asked about every document. Needed unless the "
        "documents have a column columns.questions; with both, both are asked.",
        examples=["data/questions"],
    )
    output: Place = Field(
        description="Output folder or URI: `answers/*.parquet`, `rejects/*.parquet`, `manifest.json`, and `_SUCCESS` "
        "when all is complete.",
        examples=["out/answers"],
    )
    model: Place = Field(
        default="default",
        description="Model: default (comes with qa-ray; English), a folder, a URI, or a Hugging Face hub id such as "
        "deepset/roberta-base-squad2. ORG/NAME@REVISION pins a hub id to a commit, a tag or a branch.",
    )
    columns: AnswerColumns = AnswerColumns()
    windows: WindowSettings = WindowSettings()
    answers: AnswerSettings = AnswerSettings()
    runner: RunnerSettings = RunnerSettings()
    limits: Limits = Limits()
    export: Annotated[list[Annotated[str, OneOf(lambda: SINKS)]], BeforeValidator(as_list)] = Field(
        default=[],
        description="Formats in which the answers are written in addition to Parquet, to `exports/FORMAT`.",
        examples=[["jsonl"]],
    )
    previous: Places = Field(
        default=[],
        description="Output folders of finished runs whose answers are taken over where document text, question, "
        "model and settings are unchanged; only what is new is answered. Of two with the same question, the first "
        "counts.",
        examples=[["out/monday"]],
    )
    retry_rejects: bool = Field(
        default=False,
        description="Asks the rejected questions of a finished output again, and only those.",
    )
    storage: StorageSettings = StorageSettings()
    preview: int = Field(default=5, ge=0, description="Number of answers to print at the end.")
