"""Compares an output folder with its manifest: sizes, checksums and rows of its files, counts, and strays."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.io.storage import absolute_uri, file_sha256, join, open_filesystem
from qa_ray.output.manifest import named_files, read_manifest, result_files

READ_THREADS = 8


class Verification(NamedTuple):
    """What was compared, and each difference as a line."""

    num_files: int
    num_bytes: int
    problems: list[str]


def verify(output: str) -> Verification:
    """Reads all files that the manifest of the output folder ``output`` names, and compares them with it.

    Raises:
        OutputError: the folder has no finished run.
    """
    manifest = read_manifest(uri := absolute_uri(output))
    named, sizes = named_files(manifest), dict(result_files(uri))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        differences = pool.map(lambda path: _difference(uri, path, named[path], sizes.get(path)), named)
        problems = [f"{path}: {difference}" for path, difference in zip(named, differences) if difference]
    problems += _count_differences(manifest)
    problems += [f"{path}: not in the manifest" for path in sorted(sizes.keys() - named.keys())]
    problems += _leftovers(uri)
    return Verification(len(named), sum(file["bytes"] for file in named.values()), problems)


def _difference(uri: str, path: str, file: dict[str, Any], num_bytes: int | None) -> str:
    """What is wrong with a file; empty if it is as the manifest says."""
    if num_bytes is None:
        return "missing"
    if num_bytes != file["bytes"]:
        return f"{num_bytes:,} bytes, not {file['bytes']:,}"
    if file_sha256(join(uri, path)) != file["sha256"]:
        return "its checksum differs: its content was changed or damaged"
    if path.endswith(".parquet"):
        filesystem, place = open_filesystem(join(uri, path))
        try:
            with filesystem.open(place, "rb") as opened:
                num_rows = pq.read_metadata(opened).num_rows
        except pa.ArrowInvalid as error:
            return f"not Parquet ({error})"
        if num_rows != file["rows"]:
            return f"{num_rows:,} rows, not {file['rows']:,}"
    return ""


def _count_differences(manifest: dict[str, Any]) -> Iterator[str]:
    for folder, files in manifest["files"].items():
        table = "answers" if folder.startswith("exports/") else folder
        num_rows, expected = sum(file.get("rows", 0) for file in files), manifest["counts"].get(table)
        if expected is not None and num_rows != expected:
            yield f"{folder}: {num_rows:,} rows in its files, and counts.{table} is {expected:,}"


def _leftovers(uri: str) -> Iterator[str]:
    filesystem, path = open_filesystem(uri)
    if not filesystem.exists(join(path, "_SUCCESS")):
        yield "_SUCCESS: missing; a run was killed after its commit: run the same command again"
    if filesystem.exists(join(path, "_run")):
        yield "_run: left by a run that was killed, or of one that is live: run the same command again"
