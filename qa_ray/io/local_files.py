"""fsspec's local file system with atomic writes, as object storage has them.

A file that is written appears under its name, complete, when it is closed, or not at all: it is written beside its
name as ``.NAME.….tmp`` and then renamed. A kill or a full disk leaves the earlier file as it was, and at most a
temporary one.
"""

import errno
import os
import posixpath
import re
import shutil
from contextlib import suppress
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

# Left by a process that was killed while it wrote.
TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalFiles(LocalFileSystem):
    """Local files that are replaced as a whole (mode "w") or created exclusively (mode "x"); makes missing folders."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode in ("wb", "xb"):
            return _AtomicFile(self._strip_protocol(path), exclusive=mode == "xb")
        return super()._open(path, mode, block_size, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Writes ``value`` to the file; with mode "create" raises a FileExistsError if it exists, atomically."""
        with self._open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copies a file; for a folder, only makes it."""
        if not self.isfile(path1):
            super().cp_file(path1, path2, **options)
            return
        with open(self._strip_protocol(path1), "rb") as source, self._open(path2, "wb") as file:
            shutil.copyfileobj(source, file, 2**20)


class _AtomicFile:
    """A file opened for writing that appears under its name on ``close``; ``discard`` drops it until then."""

    def __init__(self, path: str, *, exclusive: bool):
        self.path, self._exclusive = path, exclusive
        folder, name = posixpath.split(path)
        os.makedirs(folder, exist_ok=True)
        self._temporary = posixpath.join(folder, f".{name}.{uuid4().hex}.tmp")
        self._file = open(self._temporary, "xb")  # noqa: SIM115

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Publishes the file under its name; raises a FileExistsError if it is exclusive and the name is taken."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())  # else a power failure could leave the name with an empty file
            self._file.close()
            if self._exclusive:
                _rename_exclusively(self._temporary, self.path)
            else:
                os.replace(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Drops the file if it is not published yet."""
        with suppress(OSError):  # a full disk: what is buffered cannot be written
            self._file.close()
        with suppress(FileNotFoundError):
            os.remove(self._temporary)

    def __enter__(self) -> "_AtomicFile":
        return self

    def __exit__(self, error_type: object, *error: object) -> None:
        if error_type is None:
            self.close()
        self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # it could be opened
            self.discard()


def _rename_exclusively(source: str, target: str) -> None:
    """Renames the file; raises a FileExistsError if ``target`` exists, atomically."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        # A file system without hard links (exFAT, some FUSE): exclusive, but a kill in between leaves an empty file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, target)
        return
    os.remove(source)
