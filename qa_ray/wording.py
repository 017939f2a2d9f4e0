"""Numbers and values in messages."""

from typing import Any


def counted(number: float, noun: str) -> str:
    """Such as ``1 file`` and ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown(value: Any, max_chars: int = 60) -> str:
    """The value as Python writes it, cut to ``max_chars``."""
    try:
        text = repr(value)
    except ValueError:  # Python writes integers of at most 4,300 digits
        text = f"a {type(value).__name__}"
    return shortened(text, max_chars)


def shortened(text: str, max_chars: int) -> str:
    """The text; … takes the place of what is behind ``max_chars``."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
