"""Bytes of a file -> text, and its lines: UTF-8, whatever a byte order mark says, or the encoding that the user names.

Nothing is guessed: all bytes are valid in most of the older encodings, so a wrong guess gives wrong text in silence.
"""

import codecs
import re

from qa_ray.errors import ConfigError, InputError
from qa_ray.wording import shortened, shown

BYTE_ORDER_MARKS = {  # those of UTF-32 first, as they begin like those of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Valid as UTF-8, but text of another encoding: NUL as in UTF-16, escape sequences of ISO 2022 (Japanese, Korean).
FOREIGN = re.compile(rb"\0|\x1b[$(][@-Z]|\x1b\$\)C")
LINE_END = re.compile(r"\r\n?|\n")  # str.splitlines would also split at characters within a text, such as U+2028
REMEDY = "save it as UTF-8, or name the encoding of such files with encoding=…, such as cp1252, gb18030 or utf-16-le"


def check_encoding(encoding: str | None) -> None:
    """Raises a ConfigError unless ``encoding`` is a text encoding that Python knows, or None."""
    try:
        if encoding is not None:
            b"a".decode(encoding, "replace")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"encoding={shown(encoding)}: {shortened(str(error), 80)}; give one such as cp1252, gb18030 or utf-16-le"
        ) from error


def decode(content: bytes, place: str, encoding: str | None = None) -> str:
    """The text of a file without its byte order mark.

    ``encoding`` is for files that are not UTF-8 and have no byte order mark: a folder may hold both.

    Raises:
        InputError: the file has another encoding; the message begins with ``place`` and gives the byte.
    """
    for mark, name in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return _decode(content, name, place)
    if (foreign := FOREIGN.search(content)) and encoding is None:
        what = "NUL, as in UTF-16 or a file that is not text" if foreign[0] == b"\0" else "an escape of ISO 2022"
        raise InputError(f"{place}: byte {foreign.start()} is {what}; {REMEDY}")
    if foreign and encoding:
        return _decode(content, encoding, place)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return _decode(content, encoding or "utf-8", place)


def decode_head(content: bytes) -> str:
    """The beginning of a file, which may be cut within a character; what cannot be decoded is replaced."""
    name = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(name, "replace")


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends, which are those of Unix, Windows or an old Mac."""
    return LINE_END.split(text)


def _decode(content: bytes, encoding: str, place: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = codecs.lookup(encoding).name.removesuffix("-sig").upper()
        raise InputError(f"{place}: byte {error.start} is not {name} ({error.reason}); {REMEDY}") from error
