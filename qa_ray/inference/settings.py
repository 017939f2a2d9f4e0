"""What decides an answer besides the model: the user's settings laid over the checkpoint's own, and checked."""

from typing import Any

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from qa_ray.errors import ConfigError
from qa_ray.model.checkpoint import Checkpoint
from qa_ray.model.settings import ModelSettings
from qa_ray.schemas import Layout


class InferenceSettings(ModelSettings):
    """Everything that decides an answer besides the model, as ``settle`` finds it. Lengths in tokens."""

    model_config = ConfigDict(extra="forbid")

    max_answer_tokens: PositiveInt = 30
    n_best: PositiveInt = 5
    snippet_chars: NonNegativeInt = 160


def resolve_settings(checkpoint: Checkpoint, layout: Layout, model_max_tokens: int, **given: Any) -> InferenceSettings:
    """The settings given, and the model's own where one is None, checked against each other and the model.

    Raises:
        ConfigError: a value that cannot be, windows longer than the model reads, or an overlap that leaves a window no
            step.
    """
    own = checkpoint.settings.model_dump(include=set(ModelSettings.model_fields))
    try:
        settings = InferenceSettings(**own | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"{fault['loc'][0]}={fault['input']!r}: {fault['msg']}") from error
    longest = min(checkpoint.max_positions, model_max_tokens)
    if settings.max_tokens > longest:
        raise ConfigError(
            f"windows.max_tokens={settings.max_tokens}: model {checkpoint.name!r} reads at most {longest} tokens; "
            f"set windows.max_tokens={longest} or less"
        )
    room = settings.max_tokens - layout.num_special_tokens - settings.max_question_tokens
    if room < 1 or settings.overlap_tokens >= room:
        raise ConfigError(
            f"windows.overlap_tokens={settings.overlap_tokens} does not fit: windows of {settings.max_tokens} tokens "
            f"less {layout.num_special_tokens} special ones less windows.max_question_tokens="
            f"{settings.max_question_tokens} leave {room} for the document, and the overlap must be smaller; "
            "take longer windows or a smaller overlap"
        )
    return settings
