"""Which files of a folder are those of a table, and which are not, by kind and count."""

import posixpath
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import fsspec

from qa_ray.errors import InputError
from qa_ray.io.listing import list_folder
from qa_ray.io.local_files import LocalFiles
from qa_ray.io.local_folders import kind_of_link
from qa_ray.io.storage import open_filesystem
from qa_ray.wording import counted

SUFFIXES = (".parquet", ".pq", ".parq")
HIDDEN, WITHOUT_SUFFIX = "hidden", "without suffix"
SHOWN_KINDS = 5
# Formats of tables with versions, by a part of the paths of their logs: not all of their Parquet files count.
LOGS = {"/_delta_log/": "Delta Lake", "/.hoodie/": "Hudi", ".metadata.json": "Iceberg"}


@dataclass(frozen=True)
class FileCounts:
    """The files of a table, and those beside them."""

    num_files: int = 0
    not_read: dict[str, int] = field(default_factory=dict)  # by kind: as kind_of has them, or HIDDEN

    @property
    def not_read_words(self) -> str:
        """Such as "2 .pdf, 1 hidden"; empty if all were read."""
        counts = [f"{count:,} {kind}" for kind, count in self.not_read.items()]
        more = sum([*self.not_read.values()][SHOWN_KINDS:])
        return ", ".join(counts[:SHOWN_KINDS] + ([f"{more:,} others"] if more else []))

    @property
    def words(self) -> str:
        """Such as "4 files; not read: 2 .pdf, 1 hidden"."""
        files = counted(self.num_files, "file")
        return f"{files}; not read: {self.not_read_words}" if self.not_read else files

    def as_json(self) -> dict[str, Any]:
        """As the manifest has them."""
        return {"files": self.num_files, "not_read": self.not_read}


class ParquetListing(NamedTuple):
    """The Parquet files at a path."""

    root: str  # folders below it that are called name=value are the values of a column
    paths: list[str]  # sorted, in the file system
    counts: FileCounts
    log: str | None  # of LOGS


def list_parquet(uri: str, table: str) -> ParquetListing:
    """The files of ``list_folder`` with one of SUFFIXES, in upper or lower case.

    Raises:
        InputError: there are none; the message begins with ``table`` ("documents").
    """
    root, files, hidden, skipped = list_folder(uri, table)
    filesystem, path = open_filesystem(uri)
    paths = [file for file in files if file.lower().endswith(SUFFIXES)]
    others = [*skipped, *(file for file in files if not file.lower().endswith(SUFFIXES))]
    kinds = Counter(kind_of(filesystem, file) for file in others)
    not_read = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))) | (
        {HIDDEN: len(hidden)} if hidden else {}
    )
    if paths:
        log = next((LOGS[part] for part in LOGS for file in (*hidden, *files) if part in file), None)
        return ParquetListing(root, paths, FileCounts(len(paths), not_read), log)
    if not files and not hidden and not filesystem.exists(path):
        raise InputError(f"{table}: no such file or folder: {uri!r}; give a Parquet file, a folder or a glob")
    names = [posixpath.basename(file) for file in files[:5]] + ([f"{len(hidden)} hidden"] if hidden else [])
    raise InputError(
        f"{table}: no Parquet file (*.parquet) in {uri!r}, which holds {', '.join(names) or 'nothing'}; "
        "make some from SQuAD JSON, text files or a dataset with 'qa-ray prepare'"
    )


def kind_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """The kind of a file that is not read, nor hidden: a suffix in lower case, WITHOUT_SUFFIX, BROKEN or SKIPPED."""
    link = kind_of_link(path) if isinstance(filesystem, LocalFiles) else None
    return link or posixpath.splitext(path)[1].lower() or WITHOUT_SUFFIX
