"""The output folder of a job, and what state it is in: new, to be resumed, finished, or another run's.

    OUTPUT/
      _run/identity.json     what defines this run: inputs, model, settings; a run that differs is refused
      _run/leases/           which live run may write (output/lease.py)
      _run/parts/            one row per document, written by the actors (answering/part_files.py)
      answers/*.parquet      one row per (document, question)
      exports/FORMAT/        the same rows in other formats (output/sinks.py)
      rejects/*.parquet      the questions that could not be answered, and why; absent if there are none
      model/                 the model that a fine-tuning job made
      manifest.json          files, counts, settings, fingerprints: the commit (output/manifest.py)
      _SUCCESS               all that follows the commit is done, too; ``_run`` is gone

``inspect_output`` reports the state and changes nothing. An output is finished once it has a manifest: what a kill left
to be done after that, the next start does (``complete``). ``acquire_output`` (output/acquire.py) takes the lease.
"""

import json
import posixpath
from dataclasses import dataclass, field
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.local_files import TEMPORARY_NAME
from qa_ray.io.storage import (
    copy_file,
    is_local,
    join,
    open_filesystem,
    read_text,
    remove_empty_folders,
    remove_file,
    remove_folder,
    write_text,
)
from qa_ray.io.storage_errors import writing
from qa_ray.log import LOG
from qa_ray.output.lease import Lease
from qa_ray.output.manifest import (
    FOLDERS,
    NAME,
    manifest_name,
    named_files,
    newest_number,
    parse_manifest,
    result_files,
)

RESULTS = {*FOLDERS, "_SUCCESS"}
KNOWN_NAMES = RESULTS | {"_run", "run.json", "run.log", "tensorboard"}


@dataclass
class OutputFolder:
    """An output folder; with a ``lease``, this run alone may write to it."""

    uri: str
    identity: dict[str, Any]
    manifest_number: int  # of the newest manifest; 0: it is not finished
    resumed: bool
    has_leftovers: bool  # it is finished, but what follows the commit was not done, or a retry was killed
    run_id: str = ""  # of this run, the same when it is resumed
    lease: Lease | None = field(default=None, repr=False)
    keeps_files: bool = False  # even if this run fails: a manifest may name them, or the error message does

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error and self.lease and not self.lease.released:
                self._raise_if_fenced()
        finally:
            self.release()

    def _raise_if_fenced(self) -> None:
        """Raises the error that says why this run was interrupted, or lost its files, if another one took over."""
        try:
            self.check()
        except OutputError:
            raise
        except Exception:
            LOG.warning("output: %r: cannot tell whether another run took over", self.uri)

    @property
    def finished(self) -> bool:
        """Whether it has a manifest."""
        return self.manifest_number > 0

    @property
    def parts(self) -> str:
        """The folder of the actors' part files, one row per document."""
        return join(self.uri, "_run", "parts")

    @property
    def attempt(self) -> str:
        """What the names of this attempt's data files end with: no other run, and no other attempt, writes them."""
        return self.lease.holder.token[:8] if self.lease else "no-lease"

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return parse_manifest(self.uri, manifest_name(self.manifest_number))

    def check(self) -> None:
        """Raises an OutputError if this run may no longer write."""
        if self.lease:
            self.lease.check()

    def release(self) -> None:
        """Lets another run acquire the folder."""
        if self.lease:
            self.lease.release()

    def complete(self) -> None:
        """Does what follows the commit, as far as it is not done; may be repeated.

        Copies what the manifest says, removes what it does not name, creates ``_SUCCESS``, and removes ``_run``.

        Raises:
            OutputError: another run holds the lease, or the folder cannot be written.
        """
        manifest = self.manifest()
        for folder, source in manifest.get("copied_from", {}).items():
            self._copy(manifest["files"][folder], join(self.uri, folder), join(self.uri, source))
        self._remove_strays(manifest)
        self.check()
        write_text(join(self.uri, "_SUCCESS"), "")
        self._remove_run()

    def _copy(self, files: list[dict[str, Any]], folder: str, source: str) -> None:
        for file in files:
            self.check()
            copy_file(join(source, file["name"]), join(folder, file["name"]), num_bytes=file["bytes"])

    def _remove_strays(self, manifest: dict[str, Any]) -> None:
        """Removes the files that killed and fenced runs left, and those that earlier manifests named."""
        named = named_files(manifest)
        strays = [path for path, _ in result_files(self.uri) if path not in named] if "files" in manifest else []
        if strays:
            self.check()
        for path in strays:
            remove_file(join(self.uri, path))
        filesystem, root = open_filesystem(self.uri)
        for path in filesystem.ls(root, detail=False):
            if TEMPORARY_NAME.fullmatch(posixpath.basename(str(path))):
                remove_file(join(self.uri, posixpath.basename(str(path))))
        remove_empty_folders(self.uri, FOLDERS)

    def _remove_run(self) -> None:
        """Removes ``_run``, the lease last: until then no other run writes there."""
        self.check()
        remove_folder(join(self.uri, "_run"), keep="leases")
        if self.lease:
            self.lease.remove()
        remove_empty_folders(self.uri, ["_run"])


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
    all_names = {posixpath.basename(str(name)) for name in paths}
    names = {name for name in all_names if not TEMPORARY_NAME.fullmatch(name)}
    if filesystem.isfile(path):
        raise OutputError(f"output: {uri!r} is a file; give a folder with output=…")
    if unknown_names := sorted(name for name in names - KNOWN_NAMES if not NAME.fullmatch(name)):
        raise OutputError(
            f"output: {uri!r} holds {unknown_names[0]!r}, which no run wrote; give an empty or new folder with output=…"
        )
    number = newest_number(names)
    if number:
        earlier = parse_manifest(uri, manifest_name(number))["identity"]
    else:
        earlier = read_json(join(uri, "_run", "identity.json")).get("identity", {})
    if not earlier and names & RESULTS:
        raise OutputError(
            f"output: {uri!r} holds results of an unknown run; give a new folder with output=… or remove them"
        )
    if earlier and (different := differences(earlier, identity)):
        raise OutputError(
            f"output: {uri!r} holds another run, which differs in {'; '.join(different)}; "
            "give a new folder with output=… or remove this one"
        )
    has_leftovers = bool(number) and ("_run" in names or "_SUCCESS" not in names or names < all_names)
    return OutputFolder(uri, identity, number, bool(earlier) and not number, has_leftovers)


def read_json(uri: str) -> dict[str, Any]:
    """The JSON object in the file ``uri``; empty if the file is missing or was not written completely."""
    try:
        return json.loads(read_text(uri) or "{}")
    except ValueError:
        return {}


def check_writable(uri: str) -> None:
    """Raises an OutputError if nothing can be written at ``uri``; leaves nothing behind."""
    filesystem, path = open_filesystem(uri)
    missing_folders = []
    folder = posixpath.join(path, "_run")
    while is_local(uri) and not filesystem.isdir(folder):
        missing_folders.append(folder)
        folder = posixpath.dirname(folder)
    write_text(join(uri, "_run", "probe"), "")
    remove_file(join(uri, "_run", "probe"))
    for folder in missing_folders:
        filesystem.rmdir(folder)


def differences(earlier: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """The keys in which the identities differ, each with both values."""
    return [
        f"{key} ({_short(earlier.get(key))} there, {_short(identity.get(key))} now)"
        for key in sorted(earlier.keys() | identity.keys())
        if earlier.get(key) != identity.get(key)
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "…"
