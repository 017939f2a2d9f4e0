"""Files, wherever they are: a local path or any URI that fsspec knows (``s3://…``, ``gs://…``).

The one place that knows file systems. Credentials come from the environment, never from a path or a config.
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
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.config import conf as fsspec_options

from qa_ray.errors import InputError, OutputError

STREAM_BYTES = 8_000_000


def configure_s3(
    *,
    endpoint_url: str | None,
    region: str | None,
    addressing_style: str,
    max_attempts: int,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> None:
    """Sets how this process reaches S3, from here on. Credentials come from the environment, a profile or a role.

    A request is tried ``max_attempts`` times, waiting twice as long each time: 8 take a minute on average. Above that,
    s3fs tries five times more when told to slow down or when a connection breaks.
    """
    options = {
        "endpoint_url": endpoint_url,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "s3": {"addressing_style": addressing_style},
            # The newer "standard" mode gives up at once when a hundred requests of a process had to be tried again.
            "retries": {"mode": "legacy", "max_attempts": max_attempts},
            "connect_timeout": connect_timeout_s,
            "read_timeout": read_timeout_s,
        },
        "use_listings_cache": False,  # other processes write there too
    }
    fsspec_options["s3"] = fsspec_options["s3a"] = options


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


def absolute_uri(uri: str) -> str:
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
    with reading(uri, what):
        if filesystem.isfile(path):
            return [path]
        if glob.has_magic(path) and not filesystem.exists(path):
            return sorted(str(file) for file in filesystem.glob(path))
        try:
            filesystem.ls(
                path, detail=False
            )  # find() passes over a missing or forbidden folder in silence; this raises
            found = sorted(str(file) for file in filesystem.find(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
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


def open_parquet(
    filesystem: fsspec.AbstractFileSystem, path: str, what: str, *, stream: bool = False
) -> pq.ParquetFile:
    """``path`` opened for reading by row groups; a broken or forbidden file is an InputError.

    With ``stream`` a row group is not read whole, but STREAM_BYTES of a column at a time.
    """
    with reading(path, what):
        if stream:  # fsspec's own cache would be thrown away at each change from column to column
            file = filesystem.open(path, "rb", cache_type="none")
            return pq.ParquetFile(file, pre_buffer=False, buffer_size=STREAM_BYTES)
        return pq.ParquetFile(filesystem.open(path, "rb"))


def read_bytes(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    """What the file ``path`` holds; one that is missing or forbidden is an InputError."""
    try:
        content: Any = filesystem.cat_file(path)
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise InputError(f"{path!r} cannot be read: {explain(error)}; check the path") from error
    return content


def write_text(uri: str, text: str) -> None:
    """Writes ``text`` to the file ``uri`` as UTF-8."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        make_folder(posixpath.dirname(uri))
        filesystem.write_text(path, text, encoding="utf-8")


def create_text(uri: str, text: str) -> bool:
    """Writes ``text`` to the file ``uri`` unless there is one: of many who try at once, one succeeds.

    A write whose reply was lost counts by what stands there afterwards, so ``text`` must be the writer's own.
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
        except OSError:  # a full disk: an empty file would keep others away
            os.remove(path)
            raise


def read_text(uri: str) -> str | None:
    """The text of the file ``uri``, or None if there is none."""
    filesystem, path = open_filesystem(uri)
    try:
        return filesystem.cat_file(path).decode()  # pyright: ignore[reportAttributeAccessIssue]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
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


def make_folder(uri: str) -> None:
    """Makes the local folder ``uri``; elsewhere folders are no more than names, and nothing is done."""
    if is_local(uri):
        filesystem, path = open_filesystem(uri)
        filesystem.makedirs(path, exist_ok=True)


@contextmanager
def new_folder(uri: str) -> Iterator[str]:
    """A local folder for the block to fill; then all that is in it stands at ``uri``.

    Raises:
        OutputError: something stands there already, or it cannot be written.
    """
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        taken = filesystem.isfile(path) or (filesystem.isdir(path) and filesystem.ls(path))
    if taken:
        raise OutputError(f"output: {uri!r} is not empty; give a new folder with output=… or remove it")
    with tempfile.TemporaryDirectory() as folder:
        yield folder
        upload_folder(folder, uri)


def upload_folder(folder: str, uri: str) -> None:
    """Copies all that is in the local ``folder`` to ``uri``, over what has the same name there."""
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        make_folder(uri)
        filesystem.put(f"{folder}/", f"{path}/", recursive=True)


def remove_folder(uri: str) -> None:
    """Removes the folder ``uri`` with all below, if there is one."""
    filesystem, path = open_filesystem(uri)
    with writing(uri), suppress(FileNotFoundError):  # another run may be removing it too
        filesystem.rm(path, recursive=True)


def is_storage_error(error: object) -> bool:
    """Whether ``error`` came from a file system: the operating system's, or those that s3fs lets through."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("botocore", "aiohttp")


def explain(error: BaseException) -> str:
    """What a storage error says, and what mends it where that can be told."""
    reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    if isinstance(error, PermissionError):
        return f"no permission ({reason}); check its owner, or the credentials in environment, profile or role"
    if "credentials" in reason.lower():
        return f"{reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
    if "connect to the endpoint" in reason.lower():
        return f"{reason}; check storage.endpoint_url and the network"
    return reason


class reading:
    """``with reading(uri, "documents"):`` turns what storage says of a failed read into an InputError."""

    def __init__(self, uri: str, what: str):
        self.uri, self.what = uri, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Broken pages are an OSError too, but one without a number.
        if isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None):
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.what}: {self.uri!r} cannot be read as Parquet ({reason}); write it again or move it"
            ) from error
        if error is not None and is_storage_error(error):
            raise InputError(f"{self.what}: cannot read {self.uri!r}: {explain(error)}") from error


class writing:
    """``with writing(uri):`` turns what storage says of a failed write into an OutputError."""

    def __init__(self, uri: str):
        self.uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and is_storage_error(error):
            raise OutputError(
                f"output: cannot write {self.uri!r}: {explain(error)}; "
                "free some room or give another place with output=…"
            ) from error
