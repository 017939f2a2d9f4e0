"""The settings that belong to a model, each declared once: defaults here, a model's own in its ``qa_ray.json``."""

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt

from qa_ray.schemas import Ranking


class ModelSettings(BaseModel):
    """``qa_ray.json``: what was measured to be best for these weights. Other keys (data, scores, …) may stand there."""

    model_config = ConfigDict(extra="allow", frozen=True)

    max_tokens: PositiveInt = 384
    overlap_tokens: NonNegativeInt = 128
    max_question_tokens: PositiveInt = 64
    ranking: Ranking = "logit_minus_null"
    lexical_weight: float = Field(default=0.0, ge=0, le=100)
    no_answer_threshold: float = Field(default=1.0, ge=0, le=1)
    score_slope: FiniteFloat = Field(default=1.0, gt=0)
    score_intercept: FiniteFloat = 0.0
