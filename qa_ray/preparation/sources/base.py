"""The interface of a source format, and the helpers that readers share.

A reader goes through its files in sorted order, one file at a time, so that a second run gives the same ids.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from qa_ray.preparation.question_rows import Fault
from qa_ray.preparation.sources.files import SourceFiles
from qa_ray.preparation.values import Row


class SourceRecord(NamedTuple):
    """A document with its questions; without a document, the questions are asked about every document.

    ``document`` has ``document_id`` and ``text`` (str or None); ``questions`` are rows as ``question_row`` makes them,
    whose ``document_id`` prepare fills in. Either may have the extra columns that the stream declares. With a ``fault``
    the document is not written, and its questions are rejected. The same document may come again, with more questions;
    a different text under the same id is rejected with its questions (``unique_name`` makes ids unique).
    """

    document: Row | None
    questions: list[Row]
    fault: Fault | None = None


@dataclass
class RecordStream:
    """The records of a source, read lazily, and the extra columns of the two tables.

    ``files``, where given, are those that are read and those that are passed over, which prepare reports. A reader
    that settles gold itself (``gold.settle``) counts in ``notes`` what it changed.
    """

    records: Iterator[SourceRecord]
    document_fields: Sequence[pa.Field] = ()
    question_fields: Sequence[pa.Field] = ()
    files: SourceFiles | None = None
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Source:
    """A source format: how it is detected and how it is read."""

    name: str
    description: str  # what is read, and how "auto" detects it; one line, for the docs of the setting ``layout``
    matches: Callable[[str, Set[str]], bool]
    """``matches(uri, suffixes)``: whether files with these suffixes (none: no files) are in this format."""
    read: Callable[..., RecordStream]
    """``read(uri, **options)``: keyword-only parameters are the format's options; raises ConfigError or InputError."""

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the format's options, which are settings of ``qa-ray prepare``."""
        parameters = inspect.signature(self.read).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def unique_name(name: str, counts: Counter[str]) -> str:
    """``name``, or ``name (2)``, ``name (3)``, … if it is taken. ``counts`` holds the taken names and is updated."""
    unique = name
    while counts[unique]:
        counts[name] += 1
        unique = f"{name} ({counts[name]})"
    counts[unique] = 1
    return unique
