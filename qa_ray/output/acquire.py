"""Takes an output folder for a run: for a new one, or one to be resumed, or a retry of rejects."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from qa_ray.errors import OutputError
from qa_ray.io.storage import join, remove_folder, write_text
from qa_ray.log import LOG
from qa_ray.output.folder import OutputFolder, inspect_output, read_json
from qa_ray.output.lease import Lease, is_exclusive
from qa_ray.output.publish import publish


def acquire_output(
    uri: str, identity: dict[str, Any], *, retry: bool = False, previous: dict[str, Any] | None = None
) -> OutputFolder:
    """The output folder ``uri``, leased to this run if it is new or to be resumed.

    A finished folder is leased only to ``retry`` its rejects, or to do what a killed run left to be done. ``previous``
    tells which earlier outputs the run takes answers from; they are no part of its identity, because a finished output
    does not need them any more, but a run that is resumed needs the same.

    Raises:
        OutputError: as ``inspect_output`` and ``check_same_previous``; it cannot be written; or a live run holds it.
    """
    output = inspect_output(uri, identity)
    if not output.finished or retry:
        return _acquire(uri, identity, retry=retry, previous=previous)
    if output.has_leftovers:
        with suppress(OutputError):  # no permission to write, or a live retry: it is finished all the same
            return _acquire(uri, identity, retry=False)
    return output


def check_same_previous(output: OutputFolder, previous: dict[str, Any] | None) -> None:
    """Raises an OutputError if the unfinished run in ``output`` was started with other earlier outputs.

    ``previous`` has the URIs of those ``outputs``, and a ``sha256`` of their files.
    """
    if not output.resumed:
        return
    earlier = read_json(_identity_file(output)).get("previous") or {}
    if earlier.get("sha256") != (previous or {}).get("sha256"):
        raise OutputError(
            f"output: {output.uri!r} holds an unfinished run with previous={earlier.get('outputs', [])} as they were "
            f"then, not {(previous or {}).get('outputs', [])} as they are now; give the same ones, or remove the "
            "output folder"
        )


def _acquire(
    uri: str, identity: dict[str, Any], *, retry: bool, previous: dict[str, Any] | None = None
) -> OutputFolder:
    lease = Lease(uri)
    try:
        output = replace(inspect_output(uri, identity), lease=lease)  # again, now that no other run can change it
        if output.finished and not retry:
            _complete(output)
            return replace(output, lease=None)
        check_same_previous(output, previous)
        return _with_run_id(output, None if output.finished else previous)
    except BaseException:
        lease.release()
        raise


def _complete(output: OutputFolder) -> None:
    """Does what a killed run left to be done after its commit."""
    if read_json(_identity_file(output)).get("manifest_number", 0) > output.manifest_number:
        # A retry was killed before its commit. If it only stalls, it must not commit files that are removed here: the
        # same manifest again takes the number of its own.
        publish(output, output.manifest())
    else:
        output.complete()


def _identity_file(output: OutputFolder) -> str:
    return join(output.uri, "_run", "identity.json")


def _with_run_id(output: OutputFolder, previous: dict[str, Any] | None) -> OutputFolder:
    """The output with the id of the run to be resumed; a new run's identity and id are written."""
    path = _identity_file(output)
    run = {"identity": output.identity, "manifest_number": output.manifest_number + 1}
    earlier = read_json(path)
    if earlier.get("run_id") and {key: earlier.get(key) for key in run} == run:
        return replace(output, run_id=earlier["run_id"])
    output.check()
    remove_folder(output.parts)
    if not output.finished and not is_exclusive(output.uri):
        LOG.warning(
            "output: %r is on storage that does not create files exclusively: two runs into it at the same time would "
            "damage its results, and are not refused; start one at a time, or use storage that honors If-None-Match",
            output.uri,
        )
    run["previous"] = previous
    run["run_id"] = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid4().hex[:6]}"
    write_text(path, json.dumps(run, indent=2, ensure_ascii=False))
    return replace(output, run_id=run["run_id"])
