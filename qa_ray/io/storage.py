"""Reads and writes files at local paths and at any URI that fsspec supports (``s3://…``, ``gs://…``).

The only module that knows file systems. Credentials come from the environment, never from a path or a config.
"""

import asyncio
import glob
import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
import pyarrow.parquet as pq
from fsspec import asyn
from fsspec.config import conf as fsspec_options

from qa_ray.errors import InputError, OutputError
from qa_ray.io.local_files import LocalFiles
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
    filesystem = _filesystem(uri)
    path: Any = filesystem._strip_protocol(os.path.expanduser(uri) if is_local(uri) else uri)
    return filesystem, path.rstrip("/") or "/"


def _filesystem(uri: str) -> fsspec.AbstractFileSystem:
    if is_local(uri):
        return LocalFiles(auto_mkdir=True)
    try:
        return fsspec.core.url_to_fs(uri)[0]
    except (ValueError, ImportError) as error:
        raise InputError(f"{uri!r}: {error}; use a local path or a URI such as s3://bucket/folder") from error


def join(uri: str, *names: str) -> str:
    """``uri/name/…``, for local paths and URIs."""
    return posixpath.join(uri.rstrip("/") or "/", *names)


def absolute_uri(uri: str) -> str:
    """``uri`` with local paths made absolute, so that processes with another working directory can use it."""
    return os.path.abspath(os.path.expanduser(re.sub("^(file|local)://", "", uri))) if is_local(uri) else uri


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


class NewFile:
    """The file ``uri``, opened for writing: it appears, complete, on ``close``, and not at all if it is discarded.

    Leaving a ``with`` block closes it, or discards it if the block raises. Counts bytes and computes their SHA-256.
    """

    def __init__(self, uri: str):
        filesystem, path = open_filesystem(uri)
        self._file: Any = filesystem.open(path, "wb")
        self._digest, self.num_bytes, self.closed = hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        if self.closed:  # a Parquet writer that was not closed writes its footer when it is collected
            return len(data)
        self._digest.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Does nothing: what is not closed does not exist."""

    def close(self) -> None:
        self._file.close()
        self.closed = True

    @property
    def sha256(self) -> str:
        """Of what was written, in hexadecimal."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Drops the file unless it is closed."""
        if self.closed:
            return
        self.closed = True
        with suppress(Exception):  # parts of an upload may remain, as after a kill; buckets have rules for them
            self._file.discard()
        if not self._file.closed:
            with suppress(AttributeError):  # of the file system in memory, which has nothing to complete
                self._file.closed = True  # else fsspec would complete it, when it is collected at the latest

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(self, error_type: object, *error: object) -> None:
        if error_type is None:
            self.close()
        self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.discard()


def wait_for_requests(seconds: float = 60) -> None:
    """Waits until the requests to object storage whose callers were interrupted have ended: fsspec's thread goes on."""

    async def wait() -> None:
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=seconds)

    if asyn.loop[0]:
        asyn.sync(asyn.loop[0], wait)


def write_text(uri: str, text: str) -> None:
    """Writes ``text`` to the file ``uri`` as UTF-8, replacing it as a whole if it exists."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        filesystem.pipe_file(path, text.encode())


def create_text(uri: str, text: str) -> bool:
    """Writes ``text`` to the file ``uri`` unless it exists, and returns whether it did; atomic: one writer wins.

    A write whose reply was lost is recognized by the file's content, so each writer's ``text`` must be unique.
    """
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        try:
            filesystem.pipe_file(path, text.encode(), mode="create")
            return True
        except FileExistsError:
            return read_text(uri) == text


def read_text(uri: str) -> str | None:
    """The text of the file ``uri``, or None if there is no such file."""
    filesystem, path = open_filesystem(uri)
    try:
        return filesystem.cat_file(path).decode()  # pyright: ignore[reportAttributeAccessIssue]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def file_sha256(uri: str) -> str:
    """The SHA-256 of the file ``uri``, in hexadecimal."""
    filesystem, path = open_filesystem(uri)
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while block := file.read(STREAM_BYTES):
            digest.update(block)  # pyright: ignore[reportArgumentType] (opened for bytes)
    return digest.hexdigest()


def list_sizes(uri: str) -> dict[str, int]:
    """The size in bytes of each file directly in the folder ``uri``, by name, sorted; empty if there is no such folder.

    Files that are being written, which begin with a period, are skipped.
    """
    filesystem, path = open_filesystem(uri)
    try:
        entries: Any = filesystem.ls(path, detail=True, refresh=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    files = [entry for entry in entries if entry["type"] == "file" and entry["name"] != path]
    sizes = {posixpath.basename(entry["name"]): entry["size"] for entry in files}
    return {name: sizes[name] for name in sorted(sizes) if not name.startswith(".")}


def list_names(uri: str) -> list[str]:
    """The names of the files of ``list_sizes``."""
    return list(list_sizes(uri))


def remove_file(uri: str) -> None:
    """Removes the file ``uri`` if it exists."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):
        filesystem.rm_file(path)


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
        filesystem.put(f"{folder}/", f"{path}/", recursive=True)


def copy_file(source: str, target: str, *, num_bytes: int) -> None:
    """Copies a file within one file system, unless ``target`` exists with ``num_bytes``.

    Raises:
        OutputError: it cannot be written, or ``source`` is missing.
    """
    filesystem, path = open_filesystem(target)
    with writing(target):
        if filesystem.isfile(path) and filesystem.size(path) == num_bytes:
            return
        filesystem.cp_file(open_filesystem(source)[1], path)


def remove_folder(uri: str, *, keep: str | None = None) -> None:
    """Removes the folder ``uri`` and all below it, if it exists; of its direct entries, all but the one to ``keep``."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):  # another run may have removed it meanwhile
        entries = [path] if keep is None else [str(entry) for entry in filesystem.ls(path, detail=False)]
        for entry in entries:
            if posixpath.basename(entry) == keep:
                continue
            if is_local(uri) or not glob.has_magic(entry):
                filesystem.rm(entry, recursive=True)
                continue
            for file in filesystem.find(entry):  # rm would take the path for a pattern: out[1] for out1
                filesystem.rm_file(file)


def move_file(source_uri: str, target_uri: str) -> None:
    """Moves a file within one file system, replacing the target."""
    filesystem, source = open_filesystem(source_uri)
    _, target = open_filesystem(target_uri)
    with writing(target_uri):
        if is_local(source_uri):
            filesystem.mv(source, target)
        else:  # mv would expand the paths as patterns
            filesystem.cp_file(source, target)
            filesystem.rm_file(source)


def remove_empty_folders(uri: str, names: Iterable[str]) -> None:
    """Removes the folders ``names`` in ``uri``, and folders in them, that have no file; object stores have none."""
    for name in names if is_local(uri) else ():
        for folder, _, _ in os.walk(open_filesystem(join(uri, name))[1], topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
