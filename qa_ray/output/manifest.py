"""The manifests of an output folder: which files are its results, with their sizes and checksums.

``manifest.json`` is the first; each retry of rejects adds one, ``manifest-2.json`` and so on, and the highest number
counts. A manifest is created exclusively, complete, and never changed: its creation is the commit. So of two runs that
each believe the output to be theirs, one commits, and what the other wrote is named by no manifest.
"""

import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import join, open_filesystem, read_text

NAME = re.compile(r"manifest(?:-([1-9]\d*))?\.json")
FOLDERS = ("answers", "exports", "rejects", "model")  # with the files that manifests name


def manifest_name(number: int) -> str:
    """The name of the manifest with this number, from 1."""
    return "manifest.json" if number == 1 else f"manifest-{number}.json"


def newest_number(names: Iterable[str]) -> int:
    """The highest number of a manifest among these file names; 0 if there is none."""
    return max((int(match[1] or 1) for name in names if (match := NAME.fullmatch(name))), default=0)


def read_manifest(uri: str) -> dict[str, Any]:
    """The manifest that counts of the output folder ``uri``.

    Raises:
        OutputError: there is none, or it cannot be read.
    """
    filesystem, path = open_filesystem(uri)
    paths = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    if not (number := newest_number(posixpath.basename(str(name)) for name in paths)):
        raise OutputError(
            f"output: {uri!r} has no manifest.json: it is no output folder, or its run is not finished; give the "
            "output of a finished run, or run the same command again to finish it"
        )
    return parse_manifest(uri, manifest_name(number))


def parse_manifest(uri: str, name: str) -> dict[str, Any]:
    """The manifest ``name`` of the output folder ``uri``.

    Raises:
        OutputError: it cannot be read.
    """
    text = read_text(join(uri, name))
    if text == "":
        raise OutputError(
            f"output: {join(uri, name)!r} is empty, as a kill during the commit can leave it on a file system without "
            "hard links; remove this file and run the same command again"
        )
    try:
        manifest = json.loads(text or "")
        return manifest if isinstance(manifest["identity"], dict) else {}["identity"]
    except (ValueError, TypeError, LookupError) as error:
        raise OutputError(
            f"output: {join(uri, name)!r} is not a manifest of qa-ray; restore it, or remove the output folder and run "
            "the same command again"
        ) from error


def named_files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files that the manifest names, by their path in the output folder: name, rows, bytes, sha256."""
    return {f"{folder}/{file['name']}": file for folder, files in manifest.get("files", {}).items() for file in files}


def result_files(uri: str) -> Iterator[tuple[str, int]]:
    """The path in the output folder, and the size, of each file of its result folders, with temporary ones."""
    filesystem, root = open_filesystem(uri)
    for folder in FOLDERS:
        entries: Any = filesystem.find(posixpath.join(root, folder), detail=True)
        for path, entry in entries.items():
            yield posixpath.relpath(path, root), entry["size"]
