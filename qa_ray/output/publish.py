"""Publishes the results of a run, of the answer job and of the fine-tuning job.

The order is the protocol: the manifest describes files that are complete, ``_SUCCESS`` follows the manifest, and
``_run`` goes last. A run that is killed in between is published by the next one. ``_SUCCESS`` is created only by the
run that holds the lease, and only if it does not exist; readers trust the results once it does.
"""

import json
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import create_text, join, write_text
from qa_ray.output.folder import OutputFolder


def publish(output: OutputFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest, creates ``_SUCCESS``, removes ``_run``; returns the manifest.

    Raises:
        OutputError: another run holds the lease or has finished the output, or it cannot be written.
    """
    write_manifest(output, manifest)
    output.check()
    if output.lease and not create_text(join(output.uri, "_SUCCESS"), output.lease.holder.token):
        raise OutputError(f"output: {output.uri!r} was finished by another run; use its results")
    output.end()
    return manifest


def write_manifest(output: OutputFolder, manifest: dict[str, Any]) -> None:
    """Writes ``manifest.json``.

    Raises:
        OutputError: another run holds the lease, or the file cannot be written.
    """
    output.check()
    write_text(join(output.uri, "manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
