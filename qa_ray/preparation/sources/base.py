"""The interface of a source format, and the helpers that readers share.

A reader goes through its files in sorted order, one file at a time, so that a second run gives the same ids.
"""

import inspect
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import fsspec
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.preparation.question_rows import Fault, Row

TEXT_SUFFIXES = (".txt", ".md", ".text")
TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


class SourceRecord(NamedTuple):
    """A document with its questions; without a document, the questions are asked of every document.

    ``document`` has ``document_id`` and ``text`` (str or None); ``questions`` are rows as ``question_row`` makes them,
    whose ``document_id`` prepare fills in. Either may have the extra columns that the stream declares. With a ``fault``
    the document is not written, and its questions are rejected. The same document may come again, with more questions;
    a different text under the same id is rejected with its questions (``unique_name`` makes ids unique).
    """

    document: Row | None
    questions: list[Row]
    fault: Fault | None = None


class RecordStream(NamedTuple):
    """The records of a source, read lazily, and the extra columns of the two tables."""

    records: Iterator[SourceRecord]
    document_fields: Sequence[pa.Field] = ()
    question_fields: Sequence[pa.Field] = ()


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


def suffix_of(path: str) -> str:
    """The suffix of a path in lower case, with its dot; "" if it has none."""
    return posixpath.splitext(path)[1].lower()


def file_suffixes(uri: str) -> set[str]:
    """The suffixes of all files at ``uri`` (a file, a folder or a glob); empty if there are none."""
    return {suffix_of(path) for path in storage.list_files(uri, "source")}


def missing_source(uri: str) -> InputError:
    """The error for a source that does not exist."""
    return InputError(f"no such file or folder: {uri!r}; check the path (a dataset's hub id is 'owner/name')")


def files_with_suffix(uri: str, suffixes: Collection[str]) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    """The file system of ``uri`` and the paths of the files there that have one of the suffixes, sorted.

    Raises:
        InputError: there is no such file.
    """
    filesystem, path = storage.open_filesystem(uri)
    all_files = storage.list_files(uri, "source")
    if not all_files and not filesystem.exists(path):
        raise missing_source(uri)
    if files := [file for file in all_files if suffix_of(file) in suffixes]:
        return filesystem, files
    names = ", ".join(posixpath.basename(file) for file in all_files[:5]) or "nothing"
    raise InputError(
        f"source {uri!r}: no file with the suffix {' or '.join(suffixes)}, only {names}; give another path or layout"
    )
