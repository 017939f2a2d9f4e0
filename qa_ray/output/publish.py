"""Publishes the results of a run: of the answer job, of a retry of rejects, and of the fine-tuning job.

A run may stall at any operation, be presumed dead, and wake up after another has finished. Hence these laws:

1. Data files carry the name of the attempt that wrote them; no other run writes or overwrites them.
2. The commit is one operation: the exclusive creation of the manifest that names them. Of two runs, one succeeds.
3. A file of another attempt is removed only if the newest manifest does not name it, and no older attempt can commit
   any more, by the run that holds the lease.
4. What follows the commit (removals, ``_SUCCESS``) may be done by any later run, and repeated.

So every state that a kill leaves is "unfinished" or "finished", and the same command brings either to its end.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import create_text, join, remove_file, wait_for_requests, write_text
from qa_ray.output.folder import OutputFolder
from qa_ray.output.manifest import manifest_name, result_files


@contextmanager
def uncommitted(output: OutputFolder) -> Iterator[None]:
    """For the block that writes data files: while it runs, readers find no ``_SUCCESS``.

    If it raises before the commit, its files are removed, and a retry's output is as it was.
    """
    try:
        if output.finished:
            output.check()
            remove_file(join(output.uri, "_SUCCESS"))
        yield
    except BaseException:
        for _ in range(2):  # the heartbeat's thread may interrupt the first attempt, if this run was fenced
            if not output.keeps_files:
                with suppress(Exception, KeyboardInterrupt):  # the next start removes them, too
                    wait_for_requests()  # else a file that is being written may appear after that
                    discard(output)
                    break
        raise


def publish(output: OutputFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """Creates the manifest, then does what follows the commit; returns the manifest.

    Raises:
        OutputError: another run holds the lease or has finished the output, or it cannot be written.
    """
    manifest = {"run_id": output.run_id, **manifest}
    committed = replace(output, manifest_number=output.manifest_number + 1)
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    output.check()
    output.keeps_files = True
    if not create_text(join(output.uri, manifest_name(committed.manifest_number)), text):
        discard(committed)
        raise OutputError(f"output: {output.uri!r} was finished by another run; use its results")
    committed.complete()
    return manifest


def discard(output: OutputFolder, *, keep: str | None = None) -> None:
    """Removes this attempt's data files, which no manifest names, except those in the folder to ``keep``."""
    for path, _ in result_files(output.uri):
        if output.attempt in path.rsplit("/", 1)[-1] and path.split("/")[0] != keep:
            remove_file(join(output.uri, path))
    if output.finished:
        write_text(join(output.uri, "_SUCCESS"), "")
