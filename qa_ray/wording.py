"""Words for numbers in messages."""


def counted(number: float, noun: str) -> str:
    """Such as ``1 file`` and ``2,000 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
