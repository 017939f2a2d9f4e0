"""Turns storage errors of any file system into an InputError (``reading``) or an OutputError (``writing``)."""

import errno
import os

import pyarrow as pa

from qa_ray.errors import InputError, OutputError

# Packages of fsspec's file systems and of their clients, which raise errors of their own beside Python's.
CLIENTS = (
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google.api_core",
    "google.auth",
    "s3fs",
)
# OSErrors that no storage client raises. ConnectionError is none of them: a client may have lost its server.
OF_PROCESSES = (ChildProcessError, ProcessLookupError, BlockingIOError, InterruptedError)
OF_FILES = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Of the errors without a class of their own, those that a read or a write raises for a file that is open already: such
# an error has no file name.
ERRNOS_OF_FILES = {
    errno.EBUSY,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EROFS,
    errno.ESTALE,
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_storage_error(error: object) -> bool:
    """Whether ``error``, which came out of a storage operation, is a failure of the storage.

    For blocks that do nothing but read or write: there, a ConnectionError is the storage client's.
    """
    return _is_of_client(error) or (isinstance(error, OSError) and not isinstance(error, OF_PROCESSES))


def came_from_storage(error: BaseException) -> bool:
    """Whether a file system raised ``error``, wherever it was caught.

    Told by the error alone, so the other uses of OSError do not count: pipes, sockets, processes, requests to Ray.
    """
    if _is_of_client(error) or _is_of_client(error.__cause__):  # s3fs translates botocore's errors to Python's
        return True
    if not isinstance(error, OSError) or type(error).__module__ != "builtins":
        return False
    if isinstance(error, (ConnectionError, *OF_PROCESSES)):
        return False
    return isinstance(error, OF_FILES) or error.filename is not None or error.errno in ERRNOS_OF_FILES


def _is_of_client(error: object) -> bool:
    return f"{type(error).__module__}.".startswith(tuple(f"{package}." for package in CLIENTS))


def explain(error: BaseException) -> str:
    """The message of a storage error, followed by the remedy where one is known."""
    reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    if isinstance(error, FileNotFoundError) and os.path.islink(error.filename or ""):
        return f"{reason} (it is a link to {os.readlink(error.filename)!r})"
    if isinstance(error, PermissionError):
        return f"no permission ({reason}); check its owner, or the credentials in environment, profile or role"
    if "credentials" in reason.lower():
        return f"{reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
    if "connect to the endpoint" in reason.lower():
        return f"{reason}; check storage.endpoint_url and the network"
    return reason


class reading:
    """``with reading(uri, "documents"):`` raises an InputError for a read that fails; the name is for the message."""

    def __init__(self, uri: str, table: str):
        self.uri, self.table = uri, table

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        # Broken pages raise an OSError too, but one without errno.
        if isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None):
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.table}: {self.uri!r} cannot be read as Parquet ({reason}); write it again or move it"
            ) from error
        if error is not None and is_storage_error(error):
            raise InputError(f"{self.table}: cannot read {self.uri!r}: {explain(error)}") from error


class writing:
    """``with writing(uri):`` raises an OutputError for a write that fails."""

    def __init__(self, uri: str):
        self.uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and is_storage_error(error):
            is_full = getattr(error, "errno", None) in FULL
            remedy = "free some space or give another place" if is_full else "or give another place"
            raise OutputError(f"output: cannot write {self.uri!r}: {explain(error)}; {remedy} with output=…") from error
