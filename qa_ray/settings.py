"""What decides an answer besides the model: the user's settings laid over the checkpoint's own, and checked."""

from dataclasses import dataclass
from typing import Any

from qa_ray.checkpoints import Checkpoint
from qa_ray.errors import ConfigError
from qa_ray.records import Layout, Ranking


@dataclass(frozen=True)
class ReadingSettings:
    """Everything that decides an answer besides the model, with no default left open. Lengths in tokens."""

    max_tokens: int
    overlap_tokens: int
    max_question_tokens: int
    ranking: Ranking
    no_answer_threshold: float
    score_slope: float
    score_intercept: float
    max_answer_tokens: int = 30
    n_best: int = 5
    snippet_chars: int = 160


def settle(checkpoint: Checkpoint, layout: Layout, model_max_tokens: int, **given: Any) -> ReadingSettings:
    """The settings given, and the model's own where one is None, checked against each other and the model.

    Raises:
        ConfigError: windows longer than the model reads, or an overlap that leaves a window no step.
    """
    own = {name: getattr(checkpoint.settings, name) for name in type(checkpoint.settings).model_fields}
    settings = ReadingSettings(**own | {name: value for name, value in given.items() if value is not None})
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
