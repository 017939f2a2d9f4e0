"""The output folder of prepare: which files are its own, whose tables they are, and how new ones take their place.

``_PREPARED.json`` has the files that prepare wrote and may replace, the inputs that they were made of, and the counts.
"""

import json
import posixpath
from collections.abc import Collection, Mapping
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io import storage
from qa_ray.io.storage_errors import writing

MARKER = "_PREPARED.json"
TABLES = ("documents", "questions", "rejects")

Inputs = dict[str, str | None]


def files_of_earlier_prepare(output: str, inputs: Inputs) -> list[str]:
    """The files of the tables that an earlier prepare of the same inputs wrote, relative to ``output``.

    Raises:
        OutputError: a table has a file that prepare did not write, or that it made of other inputs.
    """
    filesystem, root = storage.open_filesystem(output)
    try:
        marker = json.loads(storage.read_text(storage.join(output, MARKER)) or "{}")
        listed, earlier_inputs = set(marker["files"]), marker.get("inputs")
    except (ValueError, KeyError, TypeError):
        listed, earlier_inputs = set(), None
    files = [posixpath.relpath(file, root) for name in TABLES for file in filesystem.find(posixpath.join(root, name))]
    if foreign := [file for file in files if file not in listed]:
        raise OutputError(
            f"output {output!r} holds {foreign[0]!r}, which prepare did not write ({MARKER} does not list it); "
            "move it away or give another output"
        )
    if files and earlier_inputs != inputs:
        earlier = earlier_inputs if isinstance(earlier_inputs, dict) else {}
        differing = [name for name in inputs if name in earlier and earlier[name] != inputs[name]]
        differences = [f"{name}={earlier[name]!r}, now {inputs[name]!r}" for name in differing]
        of = f"another source, which differs in {', '.join(differences)}" if differences else "a source that is unknown"
        raise OutputError(f"output {output!r} holds the tables of {of}; give another output, or remove this one")
    return files


def publish(
    output: str, staging: str, earlier_files: Collection[str], inputs: Inputs, summary: Mapping[str, Any]
) -> None:
    """Moves the staged files to their place, and removes earlier ones that have no successor.

    The marker first lists old and new files: if this is killed at any point, the next prepare still recognizes all of
    them as its own.
    """
    filesystem, root = storage.open_filesystem(output)
    _, staging_root = storage.open_filesystem(staging)
    files = [posixpath.relpath(file, staging_root) for file in filesystem.find(staging_root)]
    marker = storage.join(output, MARKER)
    storage.write_text(marker, json.dumps({"files": sorted({*earlier_files, *files}), "inputs": inputs}))
    with writing(output):
        for file in sorted({*earlier_files} - {*files}):
            filesystem.rm_file(posixpath.join(root, file))
        for file in files:
            storage.move_file(storage.join(staging, file), storage.join(output, file))
    storage.write_text(marker, json.dumps({"files": files, "inputs": inputs, **summary}, indent=2))


def publish_rejects(output: str, staging: str, earlier_files: Collection[str], inputs: Inputs) -> None:
    """Moves only the staged rejects to their place, in that of earlier ones; other tables stay as they are."""
    for name in TABLES:
        if name != "rejects":
            storage.remove_folder(storage.join(staging, name))
    others = [file for file in earlier_files if not file.startswith("rejects/")]
    rejects = [file for file in earlier_files if file.startswith("rejects/")]
    publish(output, staging, rejects, inputs, {})
    marker = storage.join(output, MARKER)
    files = json.loads(storage.read_text(marker) or "{}")["files"]
    storage.write_text(marker, json.dumps({"files": [*others, *files], "inputs": inputs}, indent=2))
