"""Reads and writes files at local paths and at any URI that fsspec supports (``s3://…``, ``gs://…``).

The only module that knows file systems. Credentials come from the environment, never from a path or a config.
"""

import glob
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
import pyarrow.parquet as pq
from fsspec.config import conf as fsspec_options

from qa_ray.errors import InputError, OutputError
from qa_ray.io.storage_errors import explain, is_storage_error, reading, writing

STREAM_BYTES = 8_000_000  # of a column, read at a time


def configure_s3(
    *,
    endpoint_url: str | None,
    region: str | None,
    addressing_style: str,
    max_attempts: int,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> None:
    """Configures S3 access for this process. Credentials come from the environment, a profile or a role.

    botocore makes up to ``max_attempts`` attempts per request with exponential backoff: 8 take a minute on average.
    On top of that, s3fs retries five times when the server asks to slow down or a connection breaks.
    """
    options = {
        "endpoint_url": endpoint_url,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "s3": {"addressing_style": addressing_style},
            # The newer "standard" mode fails at once when a process has used up a quota of about a hundred retries.
            "retries": {"mode": "legacy", "max_attempts": max_attempts},
            "connect_timeout": connect_timeout_s,
            "read_timeout": read_timeout_s,
        },
        "use_listings_cache": False,  # other processes write to the same folders
    }
    fsspec_options["s3"] = fsspec_options["s3a"] = options


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path on this machine's file system."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of ``uri`` and the path in it (absolute if local), without a trailing slash.

    Raises:
        InputError: an unknown protocol, or its fsspec package is not installed.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.expanduser(uri) if is_local(uri) else uri)
    except (ValueError, ImportError) as error:
        raise InputError(f"{uri!r}: {error}; use a local path or a URI such as s3://bucket/folder") from error
    return filesystem, path.rstrip("/") or "/"


def join(uri: str, *names: str) -> str:
    """``uri/name/…``, for local paths and URIs."""
    return posixpath.join(uri.rstrip("/") or "/", *names)


def absolute_uri(uri: str) -> str:
    """``uri`` with local paths made absolute, so that processes with another working directory can use it."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))) if is_local(uri) else uri


def list_files(uri: str, table: str) -> list[str]:
    """The files at ``uri`` (a file, a folder and all below it, or a glob), sorted; empty if there are none.

    They are paths in its file system. In a folder, names that begin with ``_`` or ``.`` are skipped, as Parquet readers
    commonly do.

    Raises:
        InputError: no permission; the message begins with ``table`` ("documents").
    """
    filesystem, path = open_filesystem(uri)
    with reading(uri, table):
        if filesystem.isfile(path):
            return [path]
        if glob.has_magic(path) and not filesystem.exists(path):
            return sorted(str(file) for file in filesystem.glob(path))
        try:
            filesystem.ls(path, detail=False)  # raises for a missing or forbidden folder, which find() ignores
            files = sorted(str(file) for file in filesystem.find(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [file for file in files if not re.search(r"/[_.]", "/" + file[len(path) :])]


def parquet_files(uri: str, table: str) -> list[str]:
    """The files of ``list_files`` with the suffix .parquet or .pq.

    Raises:
        InputError: there are none; the message begins with ``table`` ("documents").
    """
    all_files = list_files(uri, table)
    if files := [file for file in all_files if file.endswith((".parquet", ".pq"))]:
        return files
    filesystem, path = open_filesystem(uri)
    if not all_files and not filesystem.exists(path):
        raise InputError(f"{table}: no such file or folder: {uri!r}; give a Parquet file, a folder or a glob")
    names = ", ".join(posixpath.basename(file) for file in all_files[:5]) or "nothing"
    raise InputError(
        f"{table}: no Parquet file (*.parquet) in {uri!r}, which holds {names}; "
        "make some from SQuAD JSON, text files or a dataset with 'qa-ray prepare'"
    )


def open_parquet(
    filesystem: fsspec.AbstractFileSystem, path: str, table: str, *, stream: bool = False
) -> pq.ParquetFile:
    """The Parquet file ``path``; ``stream`` reads STREAM_BYTES of a column at a time, not whole row groups.

    Raises:
        InputError: the file is broken, missing or forbidden; the message begins with ``table`` ("documents").
    """
    with reading(path, table):
        if stream:  # fsspec's cache would be discarded at each change from column to column
            file = filesystem.open(path, "rb", cache_type="none")
            return pq.ParquetFile(file, pre_buffer=False, buffer_size=STREAM_BYTES)
        return pq.ParquetFile(filesystem.open(path, "rb"))


def read_bytes(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """The content of the file ``path``.

    Raises:
        InputError: the file is missing or forbidden.
    """
    try:
        content: Any = filesystem.cat_file(path)
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise InputError(f"{path!r} cannot be read: {explain(error)}; check the path") from error
    return content


def write_text(uri: str, text: str) -> None:
    """Writes ``text`` to the file ``uri`` as UTF-8, replacing it if it exists."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        make_folder(posixpath.dirname(uri))
        filesystem.write_text(path, text, encoding="utf-8")


def create_text(uri: str, text: str) -> bool:
    """Writes ``text`` to the file ``uri`` unless it exists, and returns whether it did; atomic: one writer wins.

    A write whose reply was lost is recognized by the file's content, so each writer's ``text`` must be unique.
    """
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        make_folder(posixpath.dirname(uri))
        try:
            if is_local(uri):
                _create_local(path, text)
            else:
                filesystem.pipe_file(path, text.encode(), mode="create")
            return True
        except FileExistsError:
            return read_text(uri) == text


def _create_local(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:  # for example a full disk: the empty file would block other writers
            os.remove(path)
            raise


def read_text(uri: str) -> str | None:
    """The text of the file ``uri``, or None if there is no such file."""
    filesystem, path = open_filesystem(uri)
    try:
        return filesystem.cat_file(path).decode()  # pyright: ignore[reportAttributeAccessIssue]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def list_names(uri: str) -> list[str]:
    """The names of the files directly in the folder ``uri``, sorted; empty if there is no such folder."""
    filesystem, path = open_filesystem(uri)
    try:
        entries: Any = filesystem.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        posixpath.basename(entry["name"]) for entry in entries if entry["type"] == "file" and entry["name"] != path
    )


def remove_file(uri: str) -> None:
    """Removes the file ``uri`` if it exists."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):
        filesystem.rm_file(path)


def make_folder(uri: str) -> None:
    """Makes the local folder ``uri`` and its parents; does nothing in object storage, which has no folders."""
    if is_local(uri):
        filesystem, path = open_filesystem(uri)
        filesystem.makedirs(path, exist_ok=True)


@contextmanager
def new_folder(uri: str) -> Iterator[str]:
    """A temporary local folder for the block to fill; its content is copied to ``uri`` when the block ends.

    Raises:
        OutputError: ``uri`` is a file, a folder that is not empty, or cannot be written.
    """
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        is_taken = filesystem.isfile(path) or (filesystem.isdir(path) and filesystem.ls(path))
    if is_taken:
        raise OutputError(f"output: {uri!r} is not empty; give a new folder with output=… or remove it")
    with tempfile.TemporaryDirectory() as folder:
        yield folder
        upload_folder(folder, uri)


def upload_folder(folder: str, uri: str) -> None:
    """Copies the content of the local ``folder`` to ``uri``, replacing files of the same name."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        make_folder(uri)
        filesystem.put(f"{folder}/", f"{path}/", recursive=True)


def remove_folder(uri: str) -> None:
    """Removes the folder ``uri`` and all below it, if it exists."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):  # another run may have removed it meanwhile
        filesystem.rm(path, recursive=True)
