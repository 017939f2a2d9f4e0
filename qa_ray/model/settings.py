"""The settings that belong to a model, each declared once: the defaults here, a model's own in its ``qa_ray.json``.

The config sections ``windows`` and ``answers`` and the keyword arguments of ``Reader`` derive from these classes and
from ``inference.settings.InferenceSettings``. Importing this module loads pydantic, and neither torch nor transformers.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from qa_ray.schemas import Ranking

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Forward = Literal["auto", "transformers"]
DEFAULT_FLOOR = 6  # windows; the best 5 keep F1 on SQuAD's joined articles within a point (docs/measurements.md)


class ReadRule(BaseModel):
    """How many windows of a document are read: ``most``, or a ``fraction`` but ``at_least`` so many, or as many as keep
    a ``recall`` of the answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    most: PositiveInt | None = None
    fraction: float | None = Field(default=None, gt=0, le=1)
    at_least: PositiveInt | None = None  # None: DEFAULT_FLOOR
    recall: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_three(self) -> "ReadRule":
        given = [value for value in (self.most, self.fraction, self.recall) if value is not None]
        if len(given) != 1 or (self.at_least is not None and self.fraction is None):
            raise PydanticCustomError("rule", "one of most, fraction (with at_least or without) and recall")
        return self

    @property
    def floor(self) -> int:
        """The windows that are read at least, of a rule with a fraction."""
        return self.at_least or DEFAULT_FLOOR


def _explained(value: Any, check: Any) -> Any:
    """One error in place of one for each alternative."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "read",
            "Input should be all, or how many windows: {most: 8}, {fraction: 0.2, at_least: 6} with a fraction "
            "above 0 and up to 1, or {recall: 0.95} with a recall between 0 and 1",
        ) from None


WindowsRead = Literal["all"] | ReadRule


class WindowSettings(BaseModel):
    """How documents are cut into windows, and which of them are read (the config section ``windows``)."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    max_tokens: int = Field(
        default=384,
        gt=0,
        description="Length of a window in tokens, with the question and the special tokens.",
    )
    overlap_tokens: int = Field(
        default=128,
        ge=0,
        description="Number of document tokens that two neighboring windows share.",
    )
    max_question_tokens: int = Field(
        default=64,
        gt=0,
        description="Longest question in tokens; longer ones are rejected or truncated.",
    )
    read: Annotated[WindowsRead, WrapValidator(_explained)] = Field(
        default="all",
        description="Which windows of a document are read for a question: all; the best 8 by `{most: 8}`; the best "
        "fifth, but at least 6 (the default), by `{fraction: 0.2, at_least: 6}`; or as many as keep a share of the "
        "answers by `{recall: 0.95}`, which needs a fitted gate. Best are those with the rare words of the question "
        "(BM25), or those that the gate prefers.",
        examples=[{"most": 8}],
    )


class ModelSettings(WindowSettings):
    """The content of ``qa_ray.json``: what was measured to be best for these weights.

    The file may have other keys (data, licenses, scores, …).
    """

    model_config = ConfigDict(extra="allow")

    ranking: Ranking = Field(
        default="logit_minus_null",
        description="How spans of different windows are compared: by their logit, or by their logit minus the null "
        "logit of their window.",
    )
    lexical_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Weight of the lexical boost, which raises the logits of tokens near rare words of the question; "
        "0 turns it off, and 0.2 to 0.6 are worth trying.",
    )
    no_answer_threshold: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The answer is null if the no-answer score is above this value; 1 always gives an answer.",
    )
    score_slope: float = Field(
        default=1.0,
        gt=0,
        description="Slope of the score's calibration: score = sigmoid(slope · logit(P) + intercept). "
        "`qa-ray init calibrate` fits both.",
    )
    score_intercept: float = Field(
        default=0.0,
        description="Intercept of the score's calibration, see score_slope.",
    )
