"""Reads the answers of a finished output, by its manifest."""

from typing import Any

import pyarrow.dataset

from qa_ray.errors import OutputError
from qa_ray.io.storage import absolute_uri, is_local, join, open_filesystem
from qa_ray.output.manifest import read_manifest
from qa_ray.schemas import ANSWERS


def read_answers(output: str) -> pyarrow.dataset.Dataset:
    """The answers of the output folder ``output`` (a path or URI), as an Arrow dataset that reads what is asked of it.

    It goes by the manifest: files of a run that is not finished, or that was fenced, are not in it.

        >>> qa_ray.read_answers("out").to_table(columns=["document_id", "answer", "score"])

    Raises:
        OutputError: the folder has no finished run, or not one of the answer job.
    """
    manifest = read_manifest(uri := absolute_uri(output))
    if "answers" not in manifest["files"]:
        raise OutputError(f"output: {uri!r} has no answers: it is not the output of `qa-ray answer`")
    filesystem, path = open_filesystem(uri)
    files = [join(path, "answers", file["name"]) for file in manifest["files"]["answers"]]
    if not files:
        return pyarrow.dataset.dataset(ANSWERS.empty_table())
    options: dict[str, Any] = {} if is_local(uri) else {"filesystem": filesystem}
    return pyarrow.dataset.dataset(files, format="parquet", **options)
