"""The settings that belong to a model, each declared once: the defaults here, a model's own in its ``qa_ray.json``.

The config sections ``windows`` and ``answers`` and the keyword arguments of ``Reader`` derive from these classes and
from ``inference.settings.InferenceSettings``. Importing this module loads pydantic, and neither torch nor transformers.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qa_ray.schemas import Ranking

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Forward = Literal["auto", "transformers"]


class WindowSettings(BaseModel):
    """How documents are cut into windows (the config section ``windows``)."""

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
