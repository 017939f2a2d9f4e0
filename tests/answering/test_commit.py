"""The commit: counts are verified, rejects are bounded, files are well-sized; a full disk leaves nothing half done.

tests/output/test_publish.py kills and suspends it before each of its operations.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from parts import part_of, plan_of
from running import raises_error, small_disk

from qa_ray.answering import flatten
from qa_ray.answering.commit import commit
from qa_ray.answering.part_files import list_parts, write_part
from qa_ray.errors import JobError, OutputError
from qa_ray.io.id_hashes import HASH_KEYS
from qa_ray.output import sinks
from qa_ray.output.acquire import acquire_output
from qa_ray.output.folder import OutputFolder, inspect_output
from qa_ray.output.verify import verify

IDS = [f"d{i:03}" for i in range(200)]
IDENTITY = {"model": "m"}


def write_ballast(output: OutputFolder, ids: list[str], rejected: str | None = None) -> None:
    """Writes a part file of these documents, with 3 kB of ballast each."""
    write_part(output.parts, part_of(ids, rejected, ballast=[os.urandom(3000) for _ in ids]))


def commit_all(output: OutputFolder, **settings: Any) -> dict[str, Any]:
    return commit(plan_of(IDS, IDS, **settings), output, {})


def test_files_hold_the_answers_in_the_order_of_the_documents_whatever_order_they_were_finished_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flatten, "ROWS_PER_FILE", 110)
    monkeypatch.setattr(sinks, "ROWS_PER_GROUP", 30)
    monkeypatch.setattr(flatten, "run_tasks", lambda function, arguments: [function(*each) for each in arguments])
    with acquire_output(str(tmp_path), IDENTITY) as output:
        for start in (150, 50, 100, 0):
            write_ballast(output, IDS[start : start + 50])
        manifest = commit_all(output)
    assert [file["rows"] for file in manifest["files"]["answers"]] == [100, 100]
    files = [tmp_path / "answers" / file["name"] for file in manifest["files"]["answers"]]
    assert [id_ for file in files for id_ in pq.read_table(file)["document_id"].to_pylist()] == IDS
    groups = [pq.read_metadata(file).row_group(i) for file in files for i in range(4)]
    assert [group.num_rows for group in groups] == [30, 30, 30, 10] * 2
    ranges = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    assert ranges[1] == ("d030", "d059")
    lines = [line for file in manifest["files"]["exports/jsonl"] for line in jsonl(tmp_path, file["name"])]
    assert [line["document_id"] for line in lines] == IDS
    assert verify(str(tmp_path)).problems == []


def jsonl(output: Path, name: str) -> list[dict[str, Any]]:
    lines = (output / "exports" / "jsonl" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.usefixtures("ray_session")
def test_large_outputs_are_flattened_in_ray_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flatten, "ROWS_PER_FILE", 60)
    with acquire_output(str(tmp_path), IDENTITY) as output:
        for start in range(0, 200, 50):
            write_ballast(output, IDS[start : start + 50])
        manifest = commit_all(output)
    assert [file["rows"] for file in manifest["files"]["answers"]] == [50] * 4
    assert manifest["counts"]["documents"] == manifest["counts"]["answers"] == 200
    assert verify(str(tmp_path)).problems == []


def test_part_files_that_are_known_are_not_read_again(tmp_path: Path):
    parts = str(tmp_path / "parts")
    write_part(parts, part_of(["b", "c"]))
    known = list_parts(parts, "document_id", HASH_KEYS[0])
    Path(parts, known[0].name).write_bytes(b"")  # it cannot be read any more
    write_part(parts, part_of(["a"]))
    assert [part.first_id for part in list_parts(parts, "document_id", HASH_KEYS[0], known)] == ["a", "b"]


def test_a_damaged_part_file_is_not_counted(tmp_path: Path):
    parts = str(tmp_path / "parts")
    write_part(parts, part_of(["a"]))
    write_part(parts, part_of(["b"]))
    damaged = list_parts(parts, "document_id", HASH_KEYS[0])[0].name
    Path(parts, damaged).write_bytes(Path(parts, damaged).read_bytes()[:-1])
    assert [part.first_id for part in list_parts(parts, "document_id", HASH_KEYS[0])] == ["b"]


def test_a_disk_that_fills_up_at_the_commit_is_reported_and_the_next_run_commits(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        uri = str(disk / "out")
        with (
            acquire_output(uri, IDENTITY) as output,
            raises_error(OutputError, "cannot write '", "': No space left on device; free some space or give another"),
        ):
            write_ballast(output, IDS)
            commit_all(output)
        assert not (disk / "out" / "_SUCCESS").exists()
        assert not list((disk / "out").rglob("answers/*"))  # nor a temporary file
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        with acquire_output(uri, IDENTITY) as output:
            assert output.resumed
            assert commit_all(output)["counts"]["answers"] == 200
        assert sorted(os.listdir(uri)) == ["_SUCCESS", "answers", "exports", "manifest.json"]
        assert inspect_output(uri, IDENTITY).finished


def test_a_missing_document_prevents_the_commit(tmp_path: Path):
    with acquire_output(str(tmp_path), IDENTITY) as output:
        write_ballast(output, IDS[:100])
        write_ballast(output, IDS[101:])
        message = (
            "200 documents and 200 questions went in, 199 documents came out with 199 answers and 0 rejects; nothing"
        )
        with raises_error(JobError, message):
            commit_all(output)
    assert not (tmp_path / "_SUCCESS").exists()
    assert not list(tmp_path.rglob("answers/*"))


def test_too_many_rejects_keep_the_rejects_and_commit_nothing(tmp_path: Path):
    with acquire_output(str(tmp_path), IDENTITY) as output:
        write_ballast(output, IDS, rejected="d007")
        with raises_error(
            JobError,
            "1 of 200 questions (0.5%) were rejected (process_died 1), more than limits.max_rejected_fraction=0.0; ",
            f"/rejects/*-{output.attempt}*'; raise the limit and run the same command again, which computes nothing",
        ):
            commit_all(output, limits={"max_rejected_fraction": 0})
        (rejects,) = (tmp_path / "rejects").glob(f"*-{output.attempt}*")
        assert pq.read_table(rejects)["document_id"].to_pylist() == ["d007"]
        assert not list(tmp_path.rglob("answers/*"))
    with acquire_output(str(tmp_path), IDENTITY) as output:
        assert commit_all(output)["counts"]["rejects"] == 1
    assert verify(str(tmp_path)).problems == []
