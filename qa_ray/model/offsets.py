"""Whether the character offsets of a tokenizer are right, tried on texts of many scripts.

Each token is decoded and compared with the characters that its offsets name, letter by letter: without case, accents
and width, as a tokenizer may normalize them. If they differ, and those beside would not, the offsets are shifted.
Bytes of a character, unknown tokens and letters that a tokenizer rewrites show nothing.
"""

import json
import unicodedata
from typing import Any, NamedTuple

import tokenizers

from qa_ray.model.probes import TEXTS

MAX_SHIFT = 2


class WrongOffset(NamedTuple):
    """A token whose offsets are those of other characters."""

    text: str
    token: str
    characters: str


def find_wrong_offset(backend: tokenizers.Tokenizer) -> WrongOffset | None:
    """The first token of the probe texts whose offsets are not its own."""
    for text in TEXTS:
        encoding = backend.encode(text, add_special_tokens=False)
        last_start = 0
        for token, token_id, (start, stop) in zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True):
            if not last_start <= start <= stop <= len(text):
                return WrongOffset(text, token, text[start:stop])
            last_start = start
            if _is_shifted(text, start, stop, _letters(_decoded(backend, token, token_id))):
                return WrongOffset(text, token, text[start:stop])
    return None


def without_trimming(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer, with spaces left inside its offsets.

    A byte-level one trims the space that its token begins with. Where the space is not in the text (an earlier step
    took it away, and add_prefix_space put it back), that trims the word's first letter instead (tokenizers' ByteLevel).
    """
    state = json.loads(backend.to_str())
    for step in _steps(state["post_processor"]):
        if "trim_offsets" in step:
            step["trim_offsets"] = False
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _steps(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not processor:
        return []
    return [processor, *(step for part in processor.get("processors", ()) for step in _steps(part))]


def _is_shifted(text: str, start: int, stop: int, letters: str) -> bool:
    if not letters or _letters(text[start:stop]) == letters:
        return False
    return any(
        _letters(text[max(0, start + before) : stop + after]) == letters
        for before in range(-MAX_SHIFT, MAX_SHIFT + 1)
        for after in range(-MAX_SHIFT, MAX_SHIFT + 1)
        if start + before < stop + after
    )


def _decoded(backend: tokenizers.Tokenizer, token: str, token_id: int) -> str:
    """The token as text; empty if it stands for no text of its own."""
    model: Any = backend.model
    if token == getattr(model, "unk_token", None) or token_id == getattr(model, "unk_id", None):
        return ""
    prefix, suffix = (getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    if prefix and token.startswith(prefix):
        return token.removeprefix(prefix)
    if suffix and token.endswith(suffix):
        return token.removesuffix(suffix)
    text = backend.decoder.decode([token]) if backend.decoder else token
    return "" if "\ufffd" in text else text


def _letters(text: str) -> str:
    """What of the text no tokenizer normalizes away: no case, marks, spaces, or vowels of a Hangul syllable."""
    return "".join(
        char
        for char in unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        if char.isalnum() and not "\u1160" <= char <= "\u11ff"
    )
