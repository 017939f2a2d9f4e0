"""What decides an answer besides the weights: the user's settings, then the checkpoint's own, checked together.

Importing this module is light: pydantic, and neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, ValidationError

from qa_ray.errors import ConfigError
from qa_ray.model.settings import ModelSettings
from qa_ray.wording import shown

if TYPE_CHECKING:
    from qa_ray.model.checkpoint import Checkpoint
    from qa_ray.schemas import Layout


class InferenceSettings(ModelSettings):
    """Everything that decides an answer besides the weights, as ``resolve_settings`` returns it."""

    model_config = ConfigDict(extra="forbid")

    max_answer_tokens: int = Field(default=30, gt=0, description="Longest answer in tokens.")
    n_best: int = Field(default=5, gt=0, description="Number of answers kept for each question, best first.")
    snippet_chars: int = Field(
        default=160, ge=0, description="Length of the text shown around an answer, in characters; the answer is whole."
    )


def resolve_settings(checkpoint: Checkpoint, layout: Layout, max_positions: int, **settings: Any) -> InferenceSettings:
    """``settings``, with the model's own where a value is None or absent; checked against each other and the model.

    ``max_positions`` are the tokens of the longest window that the model reads (model.proof).

    Raises:
        ConfigError: an unknown name, a value out of bounds, windows longer than the model's positions, or an overlap
            that leaves no room to advance.
    """
    check_names(settings, InferenceSettings.model_fields)
    own = checkpoint.settings.model_dump(include=set(ModelSettings.model_fields))
    try:
        resolved = InferenceSettings(**own | {name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"{fault['loc'][0]}={shown(fault['input'])}: {fault['msg']}") from error
    if resolved.max_tokens > max_positions:
        raise ConfigError(
            f"windows.max_tokens={resolved.max_tokens}: model {checkpoint.name!r} reads at most {max_positions} "
            f"tokens; set windows.max_tokens={max_positions} or less"
        )
    room = resolved.max_tokens - layout.num_special_tokens - resolved.max_question_tokens
    if room < 1 or resolved.overlap_tokens >= room:
        raise ConfigError(
            f"windows.overlap_tokens={resolved.overlap_tokens} does not fit: windows of {resolved.max_tokens} tokens "
            f"less {layout.num_special_tokens} special ones less windows.max_question_tokens="
            f"{resolved.max_question_tokens} leave {room} for the document, and the overlap must be smaller; "
            "take longer windows or a smaller overlap"
        )
    return resolved


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError for the first name that is not known, with the closest one and all known ones."""
    known = list(known)
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise ConfigError(
                f"unknown setting {name!r}; "
                + (f"did you mean {close[0]!r}? " if close else "")
                + f"known are {', '.join(known)}"
            )
