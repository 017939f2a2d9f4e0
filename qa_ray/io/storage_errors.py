"""Turns storage errors of any file system into an InputError (``reading``) or an OutputError (``writing``)."""

import pyarrow as pa

from qa_ray.errors import InputError, OutputError


def is_storage_error(error: object) -> bool:
    """Whether a file system raised ``error``: an OSError, or one of the errors that s3fs does not translate."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("botocore", "aiohttp")


def explain(error: BaseException) -> str:
    """The message of a storage error, followed by the remedy where one is known."""
    reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
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
            raise OutputError(
                f"output: cannot write {self.uri!r}: {explain(error)}; "
                "free some space or give another place with output=…"
            ) from error
