"""One typed config per job, read from YAML and ``key=value`` words; what it does not know is an error.

A value that is left out of an answer job's ``windows`` and ``answers`` is the model's own (checkpoints.ModelSettings).
"""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qa_ray.errors import ConfigError
from qa_ray.io.storage import open_filesystem
from qa_ray.schemas import Ranking


def _without_secrets(place: str) -> str:
    if re.match(r"\w+://[^/]*@", place):
        raise PydanticCustomError("secret", "credentials in a URI end up in logs; give them by environment or role")
    return place


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


# An empty place would be the folder that one happens to stand in.
Place = Annotated[str, Field(min_length=1), AfterValidator(_without_secrets)]


class Section(BaseModel):
    """Settings; unknown keys are errors. A section whose lines are all commented out is all defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        return {} if values is None else values


class Columns(Section):
    """How the user's own tables name the columns."""

    document_id: str = "document_id"
    text: str = "text"
    question_id: str = "question_id"
    question: str = "question"
    keep: list[str] | None = None  # document columns to pass through to the answers; all of them if left out


class WindowSettings(Section):
    """How documents are cut; lengths in tokens."""

    max_tokens: PositiveInt | None = None
    overlap_tokens: int | None = Field(default=None, ge=0)
    max_question_tokens: PositiveInt | None = None
    long_questions: Literal["reject", "truncate"] = "reject"


class AnswerSettings(Section):
    """What counts as an answer, and what is written of it."""

    n_best: PositiveInt = 5
    max_answer_tokens: PositiveInt = 30
    ranking: Ranking | None = None
    lexical_weight: float | None = Field(default=None, ge=0, le=100)
    no_answer_threshold: float | None = Field(default=None, ge=0, le=1)
    score_slope: float | None = Field(default=None, gt=0)
    score_intercept: float | None = None
    snippet_chars: int = Field(default=160, ge=0)


class RunnerSettings(Section):
    """Where and how the model runs. Nothing here changes an answer, except dtype within its precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    forward: Literal["auto", "transformers"] = "auto"
    batch_tokens: PositiveInt | None = None
    actors: Literal["auto"] | PositiveInt | tuple[PositiveInt, PositiveInt] = "auto"
    cpus_per_actor: PositiveInt | None = None
    gpus_per_actor: float | None = Field(default=None, gt=0)
    resources_per_actor: dict[str, Annotated[float, Field(gt=0)]] = {}
    wait_seconds: int = Field(default=600, ge=0)

    @field_validator("actors", mode="wrap")
    @classmethod
    def _fewest_first(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            actors = check(value)
        except ValidationError:
            actors = (2, 1)
        if isinstance(actors, tuple) and actors[0] > actors[1]:
            raise PydanticCustomError(
                "actors", "Input should be auto, a number above 0, or fewest and most as in [1, 4]"
            )
        return actors


class Limits(Section):
    """When to give up."""

    max_rejected_fraction: float = Field(default=0.05, ge=0, le=1)


class StorageSettings(Section):
    """How S3 is reached, for every path of a job. Credentials come from the environment, a profile or a role alone."""

    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    max_attempts: PositiveInt = 8
    connect_timeout_s: float = Field(default=10, gt=0)
    read_timeout_s: float = Field(default=60, gt=0)


class AnswerConfig(Section):
    """``qa-ray answer``."""

    documents: Place
    questions: Place
    output: Place
    model: Place = "default"
    columns: Columns = Columns()
    windows: WindowSettings = WindowSettings()
    answers: AnswerSettings = AnswerSettings()
    runner: RunnerSettings = RunnerSettings()
    limits: Limits = Limits()
    retry_rejects: bool = False  # of a finished output: ask the rejected questions again, and those alone
    storage: StorageSettings = StorageSettings()
    preview: int = Field(5, ge=0)  # how many answers to print at the end


class PrepareConfig(Section):
    """``qa-ray prepare``."""

    source: Place
    output: Place
    layout: Literal["auto", "squad", "text", "dataset"] = "auto"
    questions: str | None = None
    split: str | None = None
    join: bool = False
    prefix: str = ""
    columns: dict[str, str] = {}
    storage: StorageSettings = StorageSettings()


class LengthenConfig(Section):
    """``qa-ray lengthen``."""

    model: Place
    output: Place
    max_tokens: PositiveInt = 4096
    attention_window: PositiveInt = 512
    storage: StorageSettings = StorageSettings()


class GoldColumns(Columns):
    """The same for tables with gold answers."""

    answers: str = "answers"


class ValidationSettings(Section):
    """What a model is measured and calibrated by, after every epoch: tables of their own, or documents held out."""

    documents: Place | None = None
    questions: Place | None = None
    held_out: float = Field(default=0.1, gt=0, lt=1)  # share of the documents, without tables
    metric: Literal["squad", "cmrc"] = "squad"

    @model_validator(mode="after")
    def _both(self) -> "ValidationSettings":
        if (self.documents is None) != (self.questions is None):
            raise PydanticCustomError("both", "validation needs documents and questions, or neither")
        return self


class TrainingSettings(Section):
    """What is learned from, and how. Nothing but ``batch_tokens`` is without effect on the result."""

    epochs: NonNegativeInt = 3
    learning_rate: float = Field(default=3e-5, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    attention_dropout: float | None = Field(default=0.0, ge=0, lt=1)
    window_tokens: list[PositiveInt] | None = Field(default=None, min_length=1)
    positives: float = Field(default=1.0, gt=0)
    negatives: float = Field(default=1.0, ge=0)
    step_tokens: PositiveInt = 8_192
    batch_tokens: PositiveInt | None = None
    gradient_checkpointing: bool = False
    checkpoint_steps: PositiveInt = 200
    seed: int = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    averaged_with: Annotated[list[Place], BeforeValidator(_as_list)] = []
    saved_dtype: Literal["float32", "float16", "bfloat16"] = "float32"


class WorkerSettings(Section):
    """Where to learn."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    cpus_per_worker: PositiveInt | None = None
    max_failures: int = Field(default=3, ge=0)


class FinetuneConfig(Section):
    """``qa-ray finetune``."""

    documents: Place
    questions: Place
    output: Place
    model: Place = "default"
    columns: GoldColumns = GoldColumns()
    validation: ValidationSettings = ValidationSettings()
    windows: WindowSettings = WindowSettings()
    training: TrainingSettings = TrainingSettings()
    runner: WorkerSettings = WorkerSettings()
    about: dict[str, Any] = {}  # data, licences, …: goes into the model's qa_ray.json
    storage: StorageSettings = StorageSettings()


class EvaluateConfig(Section):
    """``qa-ray evaluate``."""

    answers: Place
    questions: Place
    metric: Literal["squad", "cmrc", "cuad"] = "squad"
    by: Annotated[list[str], BeforeValidator(_as_list)] = []
    resamples: int = Field(default=1000, ge=0)
    output: Place | None = None
    storage: StorageSettings = StorageSettings()


Config = TypeVar("Config", bound=Section)


def read_config(kind: type[Config], path: str, words: Sequence[str] = ()) -> Config:
    """The config in the YAML file ``path``, with ``key=value`` words (``windows.max_tokens=4096``) laid over it.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, a missing one, a wrong value.
    """
    values = _read_yaml(path)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r}: not a setting; write key=value, for example windows.max_tokens=4096")
        _lay_over(values, key, _parse(word, text))
    return check_config(kind, values, path)


def check_config(kind: type[Config], values: dict[str, Any], place: str) -> Config:
    """``values`` as a checked config; ``place`` is named in errors."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{place}: " + "; ".join(_explain(kind, fault) for fault in error.errors()[:3])) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        filesystem, inside = open_filesystem(path)
        values = yaml.safe_load(filesystem.read_text(inside, encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"config {path!r}: no such file; the repository's configs/ has examples") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path!r}: cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config {path!r}: not YAML ({reason}); mend that line") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path!r}: holds {type(values).__name__}, not 'key: value' lines")
    return values


def _parse(word: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{word!r}: the value is not YAML; quote it") from error


def _lay_over(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        if not isinstance(inner := values[section], dict):
            raise ConfigError(f"{key}: {section!r} is a value ({inner!r}), not a section with settings of its own")
        values = inner
    values[last] = value


def _explain(kind: type[Section], fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = list(_keys(kind))
        sections = dict.fromkeys(k.split(".")[0] for k in known)
        close = get_close_matches(key, [*known, *sections], n=1)
        close = close or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
        return f"unknown setting {key!r}; " + (
            f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        )
    if fault["type"] == "missing":
        return f"the setting {key!r} is missing; add it to the file or as {key}=…"
    if fault["type"] == "secret":
        return f"{key}: {fault['msg']}"
    return f"{key}: {fault['msg']}, not {fault['input']!r}"


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
