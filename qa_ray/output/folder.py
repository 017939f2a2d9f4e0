"""The output folder of a job, and what state it is in: new, to be resumed, finished, or another run's.

    OUTPUT/
      _run/identity.json     what defines this run: inputs, model, settings; a run that differs is refused
      _run/leases/           which live run may write (output/lease.py)
      _run/parts/            one row per document, written by the actors (answering/part_files.py)
      answers/*.parquet      one row per (document, question)
      exports/FORMAT/        the same rows in other formats (output/sinks.py)
      rejects/*.parquet      the questions that could not be answered, and why; absent if there are none
      manifest.json          files, counts, settings, fingerprints
      _SUCCESS               the results are complete; ``_run`` is gone (output/publish.py)

``inspect_output`` reports the state and changes nothing; ``acquire_output`` takes the lease for this run.
"""

import json
import posixpath
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import is_local, join, open_filesystem, read_text, remove_folder, write_text
from qa_ray.io.storage_errors import writing
from qa_ray.output.lease import Lease

RESULTS = {"answers", "exports", "rejects", "manifest.json", "_SUCCESS", "model"}
KNOWN_NAMES = RESULTS | {"_run", "run.json", "run.log", "tensorboard"}


@dataclass
class OutputFolder:
    """An output folder; with a ``lease``, this run alone may write to it."""

    uri: str
    identity: dict[str, Any]
    finished: bool
    resumed: bool
    has_leftovers: bool  # finished, but ``_run`` is still there
    lease: Lease | None = field(default=None, repr=False)

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, *error: object) -> None:
        if self.lease and self.lease.fenced:
            self.check()  # raises the error that says why this run was interrupted
        self.release()

    def release(self) -> None:
        """Lets another run acquire the folder."""
        if self.lease:
            self.lease.release()

    def end(self) -> None:
        """Releases the folder of a finished run, and removes what only a live run needs."""
        self.release()
        remove_folder(join(self.uri, "_run"))

    def check(self) -> None:
        """Raises an OutputError if this run may no longer write."""
        if self.lease:
            self.lease.check()

    @property
    def parts(self) -> str:
        """The folder of the actors' part files, one row per document."""
        return join(self.uri, "_run", "parts")

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return json.loads(read_text(join(self.uri, "manifest.json")) or "{}")


def inspect_output(uri: str, identity: dict[str, Any]) -> OutputFolder:
    """The state of the output folder ``uri`` for a run of this identity; changes nothing.

    Raises:
        OutputError: it holds files of another origin, or another run; the settings that differ are named.
    """
    if "?" in uri:  # readers would take it for a glob pattern, or for the start of a query
        raise OutputError(f"output: {uri!r} has a question mark in its name; give another folder with output=…")
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        paths = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    names = {posixpath.basename(str(name)) for name in paths}
    if filesystem.isfile(path):
        raise OutputError(f"output: {uri!r} is a file; give a folder with output=…")
    if unknown_names := sorted(names - KNOWN_NAMES):
        raise OutputError(
            f"output: {uri!r} holds {unknown_names[0]!r}, which no run wrote; give an empty or new folder with output=…"
        )
    finished = "_SUCCESS" in names
    if finished:
        earlier = _read_json(join(uri, "manifest.json")).get("identity", {})
    else:
        earlier = _read_json(join(uri, "_run", "identity.json"))
    if not earlier and names & RESULTS:
        raise OutputError(
            f"output: {uri!r} holds results of an unknown run; give a new folder with output=… or remove them"
        )
    if earlier and (differences := _differences(earlier, identity)):
        raise OutputError(
            f"output: {uri!r} holds another run, which differs in {'; '.join(differences)}; "
            "give a new folder with output=… or remove this one"
        )
    return OutputFolder(
        uri, identity, finished, bool(earlier) and not finished, has_leftovers=finished and "_run" in names
    )


def acquire_output(uri: str, identity: dict[str, Any], *, retry: bool = False) -> OutputFolder:
    """The output folder ``uri``, leased to this run if it is new or to be resumed.

    A finished folder is leased only to ``retry`` its rejects, or to clean up after a run that was killed between
    ``_SUCCESS`` and the removal of ``_run``.

    Raises:
        OutputError: as ``inspect_output``; it cannot be written; or a live run holds it.
    """
    output = inspect_output(uri, identity)
    if output.finished and not retry:
        with suppress(OutputError):  # no permission to write, or a live retry: leave ``_run`` as it is
            if output.has_leftovers:
                replace(output, lease=Lease(uri)).end()
        return output
    lease = Lease(uri)
    try:
        output = inspect_output(uri, identity)  # again, now that no other run can change it
        if output.finished and not retry:
            replace(output, lease=lease).end()
            return output
        run = identity | ({"retry": len(output.manifest().get("retries", []))} if output.finished else {})
        if _read_json(join(uri, "_run", "identity.json")) != run:
            remove_folder(join(uri, "_run", "parts"))
            write_text(join(uri, "_run", "identity.json"), json.dumps(run, indent=2, ensure_ascii=False))
    except BaseException:
        lease.release()
        raise
    return replace(output, lease=lease)


def _read_json(uri: str) -> dict[str, Any]:
    """The JSON object in the file ``uri``; empty if the file is missing or was not written completely."""
    try:
        return json.loads(read_text(uri) or "{}")
    except ValueError:
        return {}


def check_writable(uri: str) -> None:
    """Raises an OutputError if nothing can be written at ``uri``; leaves nothing behind."""
    filesystem, path = open_filesystem(uri)
    missing_folders = [folder for folder in (f"{path}/_run", path) if not filesystem.isdir(folder)]
    write_text(join(uri, "_run", "probe"), "")
    filesystem.rm(f"{path}/_run/probe")
    for folder in missing_folders if is_local(uri) else []:
        filesystem.rmdir(folder)


def _differences(earlier: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    return [
        f"{key} ({_short(earlier.get(key))} there, {_short(identity.get(key))} now)"
        for key in sorted(earlier.keys() | identity.keys())
        if earlier.get(key) != identity.get(key)
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "…"
