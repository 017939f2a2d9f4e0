"""The commit: killed between any two of its steps, it is completed by the next run; no row is ever missing."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import raises_error, small_disk

from qa_ray.answering import commit as commit_module
from qa_ray.answering.commit import commit
from qa_ray.errors import JobError, OutputError
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable
from qa_ray.output import folder, lease, publish, sinks
from qa_ray.output.folder import OutputFolder, acquire_output, inspect_output
from qa_ray.output.lease import Lease
from qa_ray.output.sinks import JsonLines
from qa_ray.schemas import PART

ONE_QUESTION = QuestionTable(
    pa.table({"document_id": pa.nulls(1, pa.string()), "question_id": ["q"], "question": ["Who built it?"]})
)


def write_part(output: OutputFolder, first: int, stop: int) -> None:
    """Writes a part file with the answers of these documents to ONE_QUESTION; 3 kB of ballast each."""
    answer = {"question_id": "q", "question": "Who built it?", "score": 0.5, "n_best": [], "num_windows": 1}
    ids = [f"d{i}" for i in range(first, stop)]
    rows = [{"answers": [answer], "rejects": [], "num_tokens": 1, "num_windows": 1} for _ in ids]
    part = pa.Table.from_pylist(rows, PART).append_column("document_id", pa.array(ids))
    part = part.append_column("ballast", pa.array([os.urandom(3000) for _ in ids]))
    Path(output.parts).mkdir(exist_ok=True)
    pq.write_table(part, Path(output.parts) / f"{first}-{stop}.parquet")


def commit_200(output: OutputFolder, *export: str) -> dict:
    return commit(
        output,
        questions=ONE_QUESTION,
        num_documents=200,
        id_column="document_id",
        max_rejected_fraction=0,
        export=export,
        run_metrics={},
    )


# Every function through which the commit changes the output.
STEPS: list[tuple[Any, str]] = [
    (commit_module, "remove_folder"),
    (sinks, "remove_folder"),
    (ParquetFolderWriter, "_open"),
    (ParquetFolderWriter, "write"),
    (ParquetFolderWriter, "_close_file"),
    (JsonLines, "_open"),
    (JsonLines, "write"),
    (JsonLines, "close"),
    (publish, "write_text"),
    (publish, "create_text"),
    (Lease, "check"),
    (Lease, "release"),
    (lease, "remove_file"),
    (folder, "remove_folder"),
]


def before_each_step(do: Callable[[int], object], patch: pytest.MonkeyPatch) -> None:
    """Calls ``do`` with the number of the step before each step, from now on."""
    number = -1
    for place, name in STEPS:
        step = getattr(place, name)

        def counted(*values: Any, _step: Any = step, **named: Any) -> Any:
            nonlocal number
            number += 1
            do(number)
            return _step(*values, **named)

        patch.setattr(place, name, counted)


def killed_at(number: int, output: Path) -> bool:
    """Commits in a process of its own, killed before the step of this number; False if there is no such step."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    try:
        with acquire_output(str(output), {"model": "m"}) as acquired, pytest.MonkeyPatch.context() as patch:
            before_each_step(lambda step: step == number and os.kill(os.getpid(), signal.SIGKILL), patch)
            commit_200(acquired, "jsonl")
    finally:
        os._exit(0)


def exported_ids(output: Path) -> list[str]:
    (file,) = (output / "exports" / "jsonl").iterdir()
    return [json.loads(line)["document_id"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_commit_killed_between_any_two_steps_is_completed_by_the_next_run(tmp_path: Path):
    number, killed = 0, True
    while killed:
        output = tmp_path / str(number)
        with acquire_output(str(output), {"model": "m"}) as acquired:
            write_part(acquired, 0, 120)
            write_part(acquired, 100, 200)
        killed = killed_at(number, output)
        if (output / "_SUCCESS").exists():  # what readers may read is complete
            assert len(exported_ids(output)) == 200
            assert pq.read_table(output / "answers").num_rows == 200
            assert json.loads((output / "manifest.json").read_text())["counts"]["answers"] == 200
        with acquire_output(str(output), {"model": "m"}) as acquired:
            if not acquired.finished:
                commit_200(acquired, "jsonl")
        assert sorted(os.listdir(output)) == ["_SUCCESS", "answers", "exports", "manifest.json"]
        ids = pq.read_table(output / "answers")["document_id"].to_pylist()
        assert sorted(ids) == sorted(f"d{i}" for i in range(200))
        assert exported_ids(output) == ids
        number += 1
    assert number > 10


def test_a_disk_that_fills_up_at_the_commit_is_reported_and_the_next_run_commits(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        uri = str(disk / "out")
        with (
            acquire_output(uri, {"model": "m"}) as output,
            raises_error(
                OutputError, "cannot write '", "/answers': No space left on device; free some space or give another"
            ),
        ):
            write_part(output, 0, 200)
            commit_200(output)
        assert not (disk / "out" / "_SUCCESS").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        with acquire_output(uri, {"model": "m"}) as output:
            assert output.resumed
            assert commit_200(output)["counts"]["answers"] == 200
        assert sorted(os.listdir(uri)) == ["_SUCCESS", "answers", "manifest.json"]
        assert inspect_output(uri, {"model": "m"}).finished


def test_a_missing_document_prevents_the_commit(tmp_path: Path):
    with acquire_output(str(tmp_path), {"model": "m"}) as output:
        write_part(output, 0, 100)
        write_part(output, 101, 200)
        message = (
            "200 documents and 200 questions went in, 199 documents came out with 199 answers and 0 rejects; nothing"
        )
        with raises_error(JobError, message):
            commit_200(output)
    assert not (tmp_path / "_SUCCESS").exists()
