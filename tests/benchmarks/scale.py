"""Resuming and committing runs with many documents and many part files: time, and memory of the driver.

    python tests/benchmarks/scale.py [--documents 1000000] [--parts 2000] [--s3]

Makes the part files of a run that is finished but for its commit (tiny documents, one question each), then measures the
start of a resume (the part files listed, unfinished row groups found), the commit (until ``_SUCCESS``) and the removal
of the part files after it, as the answer job does them. With ``--s3`` the same on a local S3 server beside the local
disk, at half and at full size, for the ratios.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from models import save_model
from s3_server import CREDENTIALS, bucket, s3_server

from qa_ray.answering.commit import commit
from qa_ray.answering.part_files import finished_documents, list_parts, write_part
from qa_ray.answering.plan import make_plan
from qa_ray.config import AnswerConfig, check_config
from qa_ray.io.document_table import unfinished_row_groups
from qa_ray.io.storage import configure_s3
from qa_ray.output.acquire import acquire_output
from qa_ray.output.folder import OutputFolder
from qa_ray.output.verify import verify
from qa_ray.process import peak_bytes
from qa_ray.runtime.session import ray_started
from qa_ray.schemas import PART, SPAN


def make_job(folder: Path, output: str, num_documents: int, storage: dict[str, Any]) -> AnswerConfig:
    """Tables of tiny documents and one question to all of them, and a small model."""
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    ids = pa.array([f"document-{i:08}" for i in range(num_documents)])
    documents = pa.table({"document_id": ids, "text": pa.array(["Ada Vane built it."] * num_documents)})
    pq.write_table(documents, folder / "documents" / "part-0.parquet", row_group_size=20_000)
    pq.write_table(pa.table({"question_id": ["q"], "question": ["Who?"]}), folder / "questions.parquet")
    if not (folder / "model").is_dir():
        save_model(
            "bert", folder / "model", settings={"max_tokens": 64, "overlap_tokens": 16, "max_question_tokens": 30}
        )
    paths = {"documents": str(folder / "documents"), "questions": str(folder / "questions.parquet")}
    runner = {"device": "cpu", "dtype": "float32"}
    values = {**paths, "model": str(folder / "model"), "output": output, "runner": runner, "storage": storage}
    return check_config(AnswerConfig, values, "scale")


def part_files(config: AnswerConfig, num_documents: int, num_parts: int, parts: str) -> None:
    """The part files that the actors would have written, in any order of the documents' blocks."""
    span = {"answer": "Ada Vane", "start_char": 0, "stop_char": 8, "score": 0.9}
    answer = {"question_id": "q", "question": "Who?", **span, "no_answer_score": 0.1, "n_best": [span] * 5}
    answer |= {"snippet": "Ada Vane built it.", "num_windows": 1}
    assert set(span) == set(SPAN.names)
    block = num_documents // num_parts
    row = {"answers": [answer], "rejects": [], "num_tokens": 5, "num_windows": 1, "text_sha256": "0" * 64}
    rows = pa.Table.from_pylist([row] * block, PART)
    for number in np.random.default_rng(0).permutation(num_parts):
        ids = [f"document-{i:08}" for i in range(number * block, (number + 1) * block)]
        write_part(parts, rows.add_column(0, "document_id", pa.array(ids)))


class Timer:
    """The time spent in a function."""

    seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed_function(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed_function


def measure(config: AnswerConfig, num_documents: int, num_parts: int) -> dict[str, Any]:
    """Seconds of the start of a resume and of the commit, and the driver's peak memory in MB."""
    configure_s3(**config.storage.model_dump())
    plan = make_plan(config)
    with acquire_output(plan.output, plan.identity) as output:
        part_files(config, num_documents, num_parts, output.parts)
    cleanup = Timer()
    OutputFolder._remove_run = cleanup.timed(OutputFolder._remove_run)
    started = time.perf_counter()
    plan = make_plan(config)
    planned = time.perf_counter()
    with acquire_output(plan.output, plan.identity) as output:
        parts = list_parts(output.parts, plan.documents.id_column, plan.documents.hash_key)
        assert unfinished_row_groups(plan.documents, finished_documents(parts)) == []
        listed = time.perf_counter()
        with ray_started():
            ray_is_up = time.perf_counter()
            manifest = commit(plan, output, {}, parts)
            committed = time.perf_counter()
    assert manifest["counts"]["answers"] == num_documents
    assert verify(plan.output).problems == []
    files = manifest["files"]["answers"]
    return {
        "documents": num_documents,
        "parts": num_parts,
        "plan_s": round(planned - started, 1),
        "resume_s": round(listed - planned, 1),
        "commit_s": round(committed - ray_is_up - cleanup.seconds, 1),
        "cleanup_s": round(cleanup.seconds, 1),
        "driver_mb": peak_bytes() // 10**6,
        "files": len(files),
        "answer_mb": sum(file["bytes"] for file in files) // 10**6,
    }


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """``measure`` in a process of its own, for the peak of its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, Any]]:
    with s3_server(folder) as server:
        bucket(server.endpoint_url, "scale")
        yield {"endpoint_url": server.endpoint_url, "addressing_style": "path"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=2_000)
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qa-ray-scale-") as name:
        folder = Path(name)
        for share in (0.5, 1.0) if arguments.s3 else (1.0,):
            sizes = int(arguments.documents * share), int(arguments.parts * share)
            local = make_job(folder, str(folder / f"out-{share}"), sizes[0], {})
            print("local", json.dumps(in_a_process(local, *sizes)), flush=True)  # noqa: T201
            if arguments.s3:
                (folder / f"swift-{share}").mkdir()
                with s3(folder / f"swift-{share}") as storage:
                    remote = make_job(folder, "s3://scale/out", sizes[0], storage)
                    print("s3   ", json.dumps(in_a_process(remote, *sizes)), flush=True)  # noqa: T201


if __name__ == "__main__":
    import os

    os.environ |= CREDENTIALS
    main()
