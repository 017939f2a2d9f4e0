"""Parts that several job configs share: the base class of a section, checked types, column names, windows, S3.

Every key carries a description. Types, bounds, defaults and descriptions are all that the YAML templates
(``config/template.py``) and the reference page (``config/reference.py``) are generated from.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, LiteralString

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from qa_ray.model import settings as model_settings


def _without_credentials(place: str) -> str:
    if re.match(r"\w+://[^/]*@", place):
        raise PydanticCustomError(
            "secret", "credentials in a URI end up in logs; give them by environment variables, a profile or a role"
        )
    return place


def as_list(value: Any) -> Any:
    """A string as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


# A path or URI. Not empty: an empty path would be the current folder.
Place = Annotated[
    str, Field(min_length=1, json_schema_extra={"format": "path or URI"}), AfterValidator(_without_credentials)
]
Documents = Annotated[
    Place,
    Field(
        description="Documents as Parquet: a file, a folder, a glob, or a URI such as s3://bucket/folder.",
        examples=["data/documents"],
    ),
]
Strings = Annotated[list[str], BeforeValidator(as_list)]
Places = Annotated[list[Place], BeforeValidator(as_list)]


@dataclass(frozen=True)
class OneOf:
    """Annotates a string that must be one of ``names()``; called at each check, because tables of names may grow."""

    names: Callable[[], Iterable[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"enum": list(self.names())}

    def _check(self, name: str) -> str:
        if name not in (names := list(self.names())):
            *others, last = map(repr, names)
            expected = f"{', '.join(others)} or {last}" if others else last
            raise PydanticCustomError("one_of", "Input should be {expected}", {"expected": expected})
        return name


class Section(BaseModel):
    """Settings; an unknown key is an error. A section whose lines are all commented out has its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_means_empty(cls, values: Any) -> Any:
        return {} if values is None else values


def number_or_range(value: Any, check: ValidatorFunctionWrapHandler, expected: LiteralString) -> Any:
    """A checked number, or a pair whose first is not above its second; ``expected`` says so in one error."""
    try:
        number = check(value)
    except ValidationError:
        number = (2, 1)
    if isinstance(number, tuple) and number[0] > number[1]:
        raise PydanticCustomError("number_or_range", f"Input should be {expected}")
    return number


class JobConfig(Section):
    """The config of a whole job."""

    verb: ClassVar[str]  # of the command line


def derived_settings(base: type[BaseModel], names: Iterable[str]) -> Any:
    """A Section with the settings ``names`` of ``base``: their types, bounds and descriptions.

    A setting that a model may have its own value for (``qa_ray.model.settings``) is None unless it is given; the others
    keep their default.
    """
    fields: dict[str, Any] = {}
    for name in names:
        field = base.model_fields[name]
        annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        options: dict[str, Any] = {"default": field.default}
        if name in model_settings.ModelSettings.model_fields:
            annotation = annotation | None
            options = {"default": None, "json_schema_extra": {"model_default": field.default}}
        fields[name] = (annotation, Field(description=field.description, examples=field.examples, **options))
    return create_model("DerivedSettings", __base__=Section, **fields)


class Columns(Section):
    """The names of the columns in your tables."""

    document_id: str = Field(default="document_id", description="Id of a document, unique among the documents.")
    text: str = Field(default="text", description="Text of a document.")
    question_id: str = Field(default="question_id", description="Id of a question, unique for its document.")
    question: str = Field(default="question", description="Text of a question.")
    question_document_id: str | None = Field(
        default=None,
        description="Column of the questions with the id of the document that each is about. If unset, it is called as "
        "that of the documents; a name that is missing is an error, except document_id.",
        examples=["contract"],
    )
    questions: str | None = Field(
        default="questions",
        description="Column of the documents with the questions about each: lists of structs whose fields are called "
        "as the columns of a questions table. null: there is none.",
    )


class WindowSettings(derived_settings(model_settings.WindowSettings, model_settings.WindowSettings.model_fields)):
    """How documents are cut into windows, and which of them are read."""

    long_questions: Literal["reject", "truncate"] = Field(
        default="reject",
        description="What happens to a question of more than max_question_tokens: it becomes a reject, or is truncated "
        "to that length.",
    )
    gate: Place | None = Field(
        default=None,
        description="Fitted gate that chooses the windows which `read` leaves: the output of `qa-ray gate`. If unset, "
        "the model's own, if there is one in its folder.",
        examples=["gate"],
    )


class StorageSettings(Section):
    """Access to S3, for every path of the job. Credentials come from environment variables, a profile or a role."""

    endpoint_url: str | None = Field(
        default=None,
        description="Server to use in place of AWS: MinIO, Ceph and others. If unset, AWS_ENDPOINT_URL or AWS itself.",
        examples=["https://minio.example:9000"],
    )
    region: str | None = Field(
        default=None,
        description="Region of the bucket. If unset, that of the AWS configuration.",
        examples=["eu-central-1"],
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether the bucket is part of the path or of the host name; path for servers whose bucket names "
        "are not host names.",
    )
    max_attempts: PositiveInt = Field(
        default=8,
        description="Attempts for each request. The wait between them doubles each time; 8 take about a minute.",
    )
    connect_timeout_s: float = Field(default=10, gt=0, description="Timeout for opening a connection, in seconds.")
    read_timeout_s: float = Field(default=60, gt=0, description="Timeout for reading from a connection, in seconds.")
