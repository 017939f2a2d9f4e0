"""Files, wherever they are: a local path or any URI that fsspec knows (``s3://…``, ``gs://…``).

The one place that knows file systems. Credentials come from the environment, never from a path or a config.
"""

import glob
import os
import posixpath
import re
from contextlib import suppress
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import InputError, OutputError


def is_local(uri: str) -> bool:
    """Whether ``uri`` names a place on this machine's own file system."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of ``uri`` and the path within it (absolute for local ones)."""
    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.expanduser(uri) if is_local(uri) else uri)
    except (ValueError, ImportError) as error:
        raise InputError(f"{uri!r}: {error}; use a local path or a URI such as s3://bucket/folder") from error
    return filesystem, path.rstrip("/") or "/"


def join(uri: str, *names: str) -> str:
    """``uri/name/…``, for local paths and URIs alike."""
    return posixpath.join(uri.rstrip("/") or "/", *names)


def full_uri(uri: str) -> str:
    """``uri`` as any process on the cluster may use it: local paths made absolute."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))) if is_local(uri) else uri


def list_files(uri: str, what: str) -> list[str]:
    """The files at ``uri`` (a file, a folder with all below, a glob), sorted; none if there is nothing.

    They are paths within its file system. In a folder, what begins with ``_`` or ``.`` is skipped, as everywhere in the
    Parquet world.

    Raises:
        InputError: no permission; ``what`` ("documents") says whose path it is.

    """
    filesystem, path = open_filesystem(uri)
    if filesystem.isfile(path):
        return [path]
    if glob.has_magic(path) and not filesystem.exists(path):
        return sorted(str(file) for file in filesystem.glob(path))
    try:
        filesystem.ls(path, detail=False)  # find() passes over a missing or forbidden folder in silence; this raises
        found = sorted(str(file) for file in filesystem.find(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise InputError(f"{what}: no permission to read {uri!r}; check its owner or the credentials") from error
    return [file for file in found if not re.search(r"/[_.]", "/" + file[len(path) :])]


def parquet_files(uri: str, what: str) -> list[str]:
    """Those of ``list_files`` that are Parquet.

    Raises:
        InputError: nothing there, or no Parquet in it; ``what`` ("documents") says whose path it is.

    """
    found = list_files(uri, what)
    if files := [file for file in found if file.endswith((".parquet", ".pq"))]:
        return files
    filesystem, path = open_filesystem(uri)
    if not found and not filesystem.exists(path):
        raise InputError(f"{what}: no such file or folder: {uri!r}; give a Parquet file, a folder or a glob")
    seen = ", ".join(posixpath.basename(file) for file in found[:5]) or "nothing"
    raise InputError(
        f"{what}: no Parquet file (*.parquet) in {uri!r}, which holds {seen}; "
        "make some from SQuAD JSON, text files or a data set with 'qa-ray prepare'"
    )


def open_parquet(filesystem: fsspec.AbstractFileSystem, path: str, what: str) -> pq.ParquetFile:
    """``path`` opened for reading by row groups; a broken or forbidden file is an InputError."""
    with reading_parquet(path, what):
        return pq.ParquetFile(filesystem.open(path, "rb"))


def read_bytes(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """What the file ``path`` holds; one that is missing or forbidden is an InputError."""
    try:
        content: Any = filesystem.cat_file(path)
    except OSError as error:
        raise InputError(f"{path!r} cannot be read: {error}; check the path, its owner or the credentials") from error
    return content


def write_text(uri: str, text: str) -> None:
    """Writes ``text`` to the file ``uri`` as UTF-8."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        filesystem.write_text(path, text, encoding="utf-8")


def create_text(uri: str, text: str) -> bool:
    """Writes ``text`` to the file ``uri`` unless there is one: of many who try at once, one succeeds.

    A write whose reply was lost counts by what stands there afterwards, so ``text`` must be the writer's own.
    """
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        try:
            if is_local(uri):
                with open(path, "x", encoding="utf-8") as file:
                    file.write(text)
            else:
                filesystem.pipe_file(path, text.encode(), mode="create")
            return True
        except FileExistsError:
            return read_text(uri) == text


def read_text(uri: str) -> str | None:
    """The text of the file ``uri``, or None if there is none."""
    filesystem, path = open_filesystem(uri)
    try:
        return filesystem.cat_file(path).decode("utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    except (FileNotFoundError, IsADirectoryError):
        return None


def list_names(uri: str) -> list[str]:
    """The names of the files right in the folder ``uri``, sorted; none if there is no such folder."""
    filesystem, path = open_filesystem(uri)
    try:
        found: Any = filesystem.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        posixpath.basename(entry["name"]) for entry in found if entry["type"] == "file" and entry["name"] != path
    )


def remove_file(uri: str) -> None:
    """Removes the file ``uri``, if it is there."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):
        filesystem.rm_file(path)


def remove_folder(uri: str) -> None:
    """Removes the folder ``uri`` with all below, if there is one."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):  # another run may be removing it too
        filesystem.rm(path, recursive=True)


class reading_parquet:
    """``with reading_parquet(path, "documents"):`` turns whatever is wrong with that file into an InputError."""

    def __init__(self, path: str, what: str):
        self.path, self.what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionError):
            raise InputError(
                f"{self.what}: no permission to read {self.path!r}; check its owner or the credentials"
            ) from error
        if isinstance(error, pa.ArrowException | OSError):
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.what}: {self.path!r} cannot be read as Parquet ({reason}); write it again or move it"
            ) from error


class writing:
    """``with writing(uri):`` turns what the operating system says of a failed write into an OutputError."""

    def __init__(self, uri: str):
        self.uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise OutputError(
                f"output: cannot write {self.uri!r}: {error.strerror or error}; "
                "free some room or give another place with output=…"
            ) from error
