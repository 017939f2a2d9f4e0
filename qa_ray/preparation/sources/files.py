"""The files at a source: which have a suffix that a format reads, and which are passed over, by kind and count."""

import posixpath
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import fsspec

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.io.listing import list_folder
from qa_ray.io.local_folders import is_hidden
from qa_ray.io.parquet_listing import HIDDEN, kind_of
from qa_ray.wording import counted

TEXT_SUFFIXES = (".txt", ".md", ".text")
TABLE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".pq", ".parq", ".arrow")
REMEDIES = {
    ".pdf": "pdftotext makes .txt of .pdf",
    ".docx": "pandoc -t plain makes .txt of .docx",
    ".odt": "pandoc -t plain makes .txt of .odt",
    ".html": "pandoc -t plain makes .txt of .html",
    ".xlsx": "save .xlsx as .csv",
    ".gz": "unpack .gz",
    ".zip": "unpack .zip",
    HIDDEN: "rename hidden ones",
}
NAMED_FILES = 3  # of each kind whose names say more than the kind


class SourceFiles(NamedTuple):
    """The files at a source, as paths in its file system, sorted."""

    filesystem: fsspec.AbstractFileSystem
    root: str
    read: list[str]
    not_read: list[str]

    def only(self, read: Collection[str]) -> "SourceFiles":
        """These files, of which only ``read`` are read."""
        not_read = sorted({*self.read, *self.not_read} - {*read})
        return SourceFiles(self.filesystem, self.root, sorted(read), not_read)

    def kinds_not_read(self) -> dict[str, dict[str, Any]]:
        """By kind, the number of files that are not read and the first of them, relative to the source."""
        kinds: dict[str, dict[str, Any]] = {}
        for file in self.not_read:
            name = posixpath.relpath(file, self.root)
            name = posixpath.basename(file) if name.startswith("../") else name  # beside the questions
            kind_name = HIDDEN if is_hidden(name) else kind_of(self.filesystem, file)
            kind = kinds.setdefault(kind_name, {"files": 0, "first": []})
            kind["files"] += 1
            kind["first"] += [name][len(kind["first"]) // NAMED_FILES :]
        return dict(sorted(kinds.items(), key=lambda item: (-item[1]["files"], item[0])))


def describe(kinds: dict[str, dict[str, Any]]) -> str:
    """``4 files: 2 .pdf, 1 .docx, 1 hidden (_amendment.txt)``."""
    total = sum(kind["files"] for kind in kinds.values())
    parts = []
    for name, kind in kinds.items():
        more = ", …" if kind["files"] > len(kind["first"]) else ""
        names = "" if name.startswith(".") else f" ({', '.join(kind['first'])}{more})"
        parts.append(f"{kind['files']:,} {name}{names}")
    return f"{counted(total, 'file')}: {', '.join(parts)}"


def source_files(uri: str, suffixes: Collection[str]) -> SourceFiles:
    """The files at ``uri`` (a file, a folder and all below it, or a glob), split by whether they have a suffix.

    Raises:
        InputError: none has; or there is no such file or folder, or no permission.
    """
    files = list_source(uri)
    read = [file for file in files.read if suffix_of(file) in suffixes]
    if read:
        return files.only(read)
    if not files.read and not files.not_read and not files.filesystem.exists(open_path(uri)):
        raise missing_source(uri)
    raise nothing_to_read(uri, files.only([]), suffixes)


def list_source(uri: str) -> SourceFiles:
    """All files at ``uri``, of which those that are not hidden are read.

    Raises:
        InputError: no permission.
    """
    listing = list_folder(uri, "source")
    not_read = sorted([*listing.hidden, *listing.skipped])
    return SourceFiles(storage.open_filesystem(uri)[0], listing.root, listing.files, not_read)


def open_path(uri: str) -> str:
    """The path of ``uri`` in its file system."""
    return storage.open_filesystem(uri)[1]


def suffix_of(path: str) -> str:
    """The suffix of a path in lower case, with its dot; "" if it has none."""
    return posixpath.splitext(path)[1].lower()


def missing_source(uri: str) -> InputError:
    """The error for a source that does not exist."""
    return InputError(f"no such file or folder: {uri!r}; check the path (a dataset's hub id is 'owner/name')")


def nothing_to_read(uri: str, files: SourceFiles, suffixes: Iterable[str]) -> InputError:
    """The error for a source without a file that can be read: it names the kinds there are, and what would work."""
    readable = f"{', '.join(suffixes)} files"
    kinds = files.kinds_not_read()
    if not kinds:
        return InputError(f"source {uri!r} is an empty folder; put {readable} into it")
    remedies = [REMEDIES[kind] for kind in kinds if kind in REMEDIES]
    other_layouts = Counter(suffix_of(file) for file in files.not_read).keys() & {*TEXT_SUFFIXES, *TABLE_SUFFIXES}
    if other_layouts - {*suffixes}:
        remedies.append("or give another layout, or leave it out")
    return InputError(
        f"source {uri!r} has no file that can be read, only {describe(kinds)}; "
        f"give {readable}{''.join(f'; {remedy}' for remedy in remedies)}"
    )
