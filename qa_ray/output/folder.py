"""The output folder of an answer job, and whose it is: new, to be resumed, finished, or another run's.

    OUTPUT/
      _run/identity.json     what this run is: inputs, model, settings; another one is refused
      _run/leases/           which live run may write (claims)
      _run/parts/            one row per document, written by the run's actors (parts)
      answers/*.parquet      one row per (document, question)
      rejects/*.parquet      what could not be answered, and why (absent if all could)
      manifest.json          files, rows, settings, fingerprints
      _SUCCESS               the results are whole; ``_run`` is gone (commit)

``look`` tells what stands there; ``claim`` makes it this run's.
"""

import json
import posixpath
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import is_local, join, open_filesystem, read_text, remove_folder, write_text, writing
from qa_ray.output.lease import Lease

KNOWN_NAMES = {"_run", "_SUCCESS", "answers", "rejects", "manifest.json", "run.json", "run.log", "model", "tensorboard"}


@dataclass
class OutputFolder:
    """An output folder; with a ``claim``, this run alone may write there."""

    uri: str
    identity: dict[str, Any]
    finished: bool
    resumed: bool
    has_leftovers: bool  # finished, and yet something of a run is there
    lease: Lease | None = field(default=None, repr=False)

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, *error: object) -> None:
        if self.lease and self.lease.lost:
            self.check()  # says why this run was interrupted
        self.release()

    def release(self) -> None:
        """Lets another run have the folder."""
        if self.lease:
            self.lease.release()

    def end(self) -> None:
        """Releases the folder of a finished run, and removes what only a run needs."""
        self.release()
        remove_folder(join(self.uri, "_run"))

    def check(self) -> None:
        """Raises an OutputError if this run may write no longer."""
        if self.lease:
            self.lease.check()

    @property
    def parts(self) -> str:
        """Where the actors write, one row per document."""
        return join(self.uri, "_run", "parts")

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return json.loads(read_text(join(self.uri, "manifest.json")) or "{}")


def inspect_output(uri: str, identity: dict[str, Any]) -> OutputFolder:
    """What stands at ``uri``, changing nothing.

    Raises:
        OutputError: files that are not ours, or another run; the settings that differ are named.
    """
    if "?" in uri:  # whoever reads it would take it for a pattern, or what follows for a query
        raise OutputError(f"output: {uri!r} has a question mark in its name; give another folder with output=…")
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        found = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    names = {posixpath.basename(str(name)) for name in found}
    if filesystem.isfile(path):
        raise OutputError(f"output: {uri!r} is a file; give a folder with output=…")
    if strangers := sorted(names - KNOWN_NAMES):
        raise OutputError(
            f"output: {uri!r} holds {strangers[0]!r}, which no run wrote; give an empty or new folder with output=…"
        )
    finished = "_SUCCESS" in names
    if finished:
        earlier = _read_json(join(uri, "manifest.json")).get("identity", {})
    else:
        earlier = _read_json(join(uri, "_run", "identity.json"))
    if not earlier and names & {"answers", "rejects", "manifest.json", "_SUCCESS", "model"}:
        raise OutputError(
            f"output: {uri!r} holds answers of an unknown run; give a new folder with output=… or remove them"
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
    """The output folder ``uri`` for this run: new, to be resumed, or finished already. A live run's stays its own.

    A finished one is claimed only to ``retry`` its rejects, or to tidy up behind a run that was killed at its very end.

    Raises:
        OutputError: as ``look``; not writable; or a live run holds it.
    """
    output = inspect_output(uri, identity)
    if output.finished and not retry:
        with suppress(OutputError):  # who may only read the results may leave it there, and so may a live retry
            if output.has_leftovers:
                replace(output, lease=Lease(uri)).end()
        return output
    lease = Lease(uri)
    try:
        output = inspect_output(uri, identity)  # once more, now that no other run changes it
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
    """The object in the file ``uri``; none if the file is missing or was not written to its end."""
    try:
        return json.loads(read_text(uri) or "{}")
    except ValueError:
        return {}


def check_writable(uri: str) -> None:
    """Raises an OutputError if nothing can be written at ``uri``; leaves nothing behind."""
    filesystem, path = open_filesystem(uri)
    new = [folder for folder in (f"{path}/_run", path) if not filesystem.isdir(folder)]
    write_text(join(uri, "_run", "probe"), "")
    filesystem.rm(f"{path}/_run/probe")
    for folder in new if is_local(uri) else []:
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
