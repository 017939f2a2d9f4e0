"""Which errors are failures of a storage, and what a read or a write makes of them."""

import errno
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import aiohttp
import fsspec.exceptions
import pyarrow.fs
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from running import raises_error, small_disk
from s3fs.errors import translate_boto_error

from qa_ray.errors import InputError, OutputError
from qa_ray.io.storage_errors import came_from_storage, is_storage_error, reading, writing


def error_of(package: str, name: str, base: type[Exception] = Exception) -> Exception:
    """An error as a storage client raises it that is not installed here."""
    return type(name, (base,), {"__module__": package})("503 Service Unavailable")


def raised_by(operation: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        operation()
    return raised.value


def from_s3(code: str) -> Exception:
    """What s3fs makes of a server's error."""
    return translate_boto_error(ClientError({"Error": {"Code": code, "Message": code}}, "PutObject"))


STORAGE_ERRORS = {
    "no such file": raised_by(lambda: open("/no/such/file")),  # noqa: SIM115
    "a folder": raised_by(lambda: open("/")),  # noqa: SIM115
    "no such folder": raised_by(lambda: os.listdir("/no/such/folder")),
    "a file in place of a folder": raised_by(lambda: os.mkdir("/dev/null/folder")),
    "a name too long": raised_by(lambda: open("/" + 300 * "x")),  # noqa: SIM115
    "Arrow": raised_by(lambda: pyarrow.fs.LocalFileSystem().open_input_file("/no/such/file")),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a broken disk": OSError(errno.EIO, "Input/output error"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "a lost NFS file": OSError(errno.ESTALE, "Stale file handle"),
    "a mount that hangs": OSError(errno.ETIMEDOUT, "Connection timed out", "/mnt/file"),
    "S3: denied": from_s3("AccessDenied"),
    "S3: missing": from_s3("NoSuchKey"),
    "S3: busy": from_s3("SlowDown"),
    "S3: invalid": from_s3("InvalidBucketName"),
    "S3: timeout": from_s3("RequestTimeout"),
    "S3: conflict": from_s3("ConditionalRequestConflict"),
    "botocore": EndpointConnectionError(endpoint_url="http://localhost"),
    "aiohttp": aiohttp.ServerDisconnectedError(),
    "fsspec": fsspec.exceptions.FSTimeoutError(),
    "Google": error_of("gcsfs.retry", "HttpError"),
    "Google's login": error_of("google.auth.exceptions", "RefreshError"),
    "Azure": error_of("azure.core.exceptions", "ServiceRequestError"),
}
# Raised by a storage client they count, anywhere else they do not.
CONNECTION_ERRORS = {
    "a broken pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "a refused connection": raised_by(lambda: socket.create_connection(("127.0.0.1", 9))),
    "a reset connection": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "Ray": ConnectionError("Could not find any running Ray instance"),
    "a timeout": TimeoutError("timed out"),
    "an unknown host": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "TLS": ssl.SSLError(1, "certificate verify failed"),
    "a network": OSError(errno.ENETUNREACH, "Network is unreachable"),
    "words alone": OSError("Can't load the tokenizer"),
}
OTHER_ERRORS = {
    "no child": raised_by(lambda: os.waitpid(os.getpid(), 0)),
    "no process": raised_by(lambda: os.kill(2**22 + 1, signal.SIGCONT)),
    "would block": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "a command": raised_by(lambda: subprocess.run(["false"], check=True)),
    "another package": error_of("fsspec_like.errors", "HttpError"),
    "a mistake": TypeError("a mistake"),
}


@pytest.mark.parametrize("error", STORAGE_ERRORS.values(), ids=STORAGE_ERRORS)
def test_errors_of_file_systems_are_recognized_anywhere(error: Exception):
    assert came_from_storage(error)
    assert is_storage_error(error)


@pytest.mark.parametrize("error", CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_connection_errors_are_those_of_a_storage_only_while_it_is_used(error: Exception):
    assert not came_from_storage(error)
    with raises_error(OutputError, "output: cannot write 's3://lake/x': "), writing("s3://lake/x"):
        raise error
    with raises_error(InputError, "documents: "), reading("s3://lake/x", "documents"):
        raise error


@pytest.mark.parametrize("error", OTHER_ERRORS.values(), ids=OTHER_ERRORS)
def test_other_errors_pass_unchanged(error: Exception):
    assert not came_from_storage(error)
    for block in (writing("s3://lake/x"), reading("s3://lake/x", "documents")):
        with pytest.raises(type(error)) as raised, block:
            raise error
        assert raised.value is error


def test_a_full_disk_is_recognized_while_its_file_is_open(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk, (disk / "file").open("wb", buffering=0) as file:
        error = raised_by(lambda: [file.write(bytes(2**20)) for _ in range(2)])
    assert str(error) == "[Errno 28] No space left on device"  # no file name
    assert came_from_storage(error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; free some space or give another place",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded; free some space or give another place"),
        (NoCredentialsError(), "AWS_PROFILE, or give the machine a role; or give another place with output=…"),
        (
            EndpointConnectionError(endpoint_url="http://x"),
            "check storage.endpoint_url and the network; or give another",
        ),
        (from_s3("AccessDenied"), "or the credentials in environment, profile or role; or give another place"),
    ],
    ids=str,
)
def test_only_a_full_disk_needs_room(error: Exception, message: str):
    with raises_error(OutputError, message), writing("s3://lake/x"):
        raise error
