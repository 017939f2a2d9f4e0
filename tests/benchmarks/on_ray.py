"""The answer job on Ray, beside its forward passes alone, other numbers of actors, and transformers 4.57."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from reading import Peer, documents_with_questions, forward_all, recorded
from rounds import Row, alternate, dtypes

from qa_ray import Reader
from qa_ray.answering.job import answer_documents
from qa_ray.config import AnswerConfig
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.process import num_cores
from qa_ray.runtime.resources import SPARE_CPUS
from qa_ray.runtime.session import start_ray
from qa_ray.schemas import ReadableDocument


def job_rows(rounds: int, peers: Path, data: Path | None) -> Iterator[Row]:
    """Seconds per 100 windows: the job once its actors run, its forward passes alone, and transformers 4.57."""
    text, questions = documents_with_questions(data)[-1]
    questions = questions[:4]
    windows: dict[str, Any] = {"max_tokens": 384, "overlap_tokens": 128}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_tables(folder, [(text, questions)] * 8)
        stack.enter_context(local_ray())
        for dtype in dtypes():
            reader = Reader("default", device="cpu", dtype=dtype, threads=num_cores(), **windows)
            document, num_windows = readable(reader, text, questions)
            work: dict[str, Callable[[], object]] = {
                f"bare forward, {threads} threads": partial(bare, reader, document, threads, num_windows)
                for threads in (1, num_cores())
            }
            for actors, threads in ((1, 1), (1, num_cores()), (num_cores(), 1)):
                runner = {"device": "cpu", "dtype": dtype, "actors": actors, "cpus_per_actor": threads}
                config = {"runner": runner, "windows": windows, "preview": 0}
                work[f"job, {actors} actors of {threads} threads"] = partial(run_job, folder, config)
            if dtype == "float32":
                python = peers / "bin" / "python"
                peer = stack.enter_context(Peer("pipeline", python, open_checkpoint("default").folder))
                job = {"document": text, "questions": questions, "max_answer_tokens": 30, **windows}
                work["transformers 4.57 pipeline"] = partial(per_100_windows, peer, [job], num_windows)
            for contender, seconds in alternate(work, rounds, warm_up=False).items():
                yield Row(f"100 windows of 384/128 in {dtype}", contender, seconds)


def write_tables(folder: str, documents: list[tuple[str, list[str]]]) -> None:
    """Writes the tables of a job on these texts with their questions, one document per row group."""
    ids = [f"d{i}" for i in range(len(documents))]
    questions = [(id_, question) for id_, (_, questions) in zip(ids, documents, strict=True) for question in questions]
    tables = {
        "documents": {"document_id": ids, "text": [text for text, _ in documents]},
        "questions": {
            "question_id": [*map(str, range(len(questions)))],
            "document_id": [id_ for id_, _ in questions],
            "question": [question for _, question in questions],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), f"{folder}/{name}.parquet", row_group_size=1)


@contextmanager
def local_ray() -> Iterator[None]:
    start_ray(num_cores() + SPARE_CPUS)
    try:
        yield
    finally:
        ray.shutdown()


def bare(reader: Reader, document: ReadableDocument, num_threads: int, num_windows: int) -> float:
    """Seconds per 100 windows of the forward passes of a document, whose batches are already made."""
    torch.set_num_threads(num_threads)
    batches = recorded(reader, document)
    started = time.perf_counter()
    forward_all(reader.model, batches)
    seconds = time.perf_counter() - started
    torch.set_num_threads(num_cores())
    return 100 * seconds / num_windows


def run_job(folder: str, config: dict[str, Any]) -> float:
    """Seconds per 100 windows of an answer job in the running Ray session, from when its first actor runs."""
    output = f"{folder}/output"
    paths = {"documents": f"{folder}/documents.parquet", "questions": f"{folder}/questions.parquet"}
    manifest = answer_documents(AnswerConfig(**paths, output=output, **config))
    shutil.rmtree(output)
    return 100 / manifest["windows_per_second"]


def mixed_rows(rounds: int, peers: Path, data: Path | None, num_documents: int, num_questions: int) -> Iterator[Row]:
    """Seconds per 100 long windows of documents of mixed lengths: the job, and the pipeline of transformers 4.57."""
    windows: dict[str, Any] = {"max_tokens": 4096, "overlap_tokens": 512, "max_question_tokens": 128}
    documents = documents_with_questions(data)
    indices = [len(documents) * (2 * i + 1) // (2 * num_documents) for i in range(num_documents)]  # evenly spaced
    chosen = [(documents[i][0], (documents[i][1] * num_questions)[:num_questions]) for i in indices]
    reader = Reader("default", device="cpu", threads=num_cores(), **windows)
    num_windows = sum(readable(reader, *pair)[1] for pair in chosen)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_tables(folder, chosen * 2)
        stack.enter_context(local_ray())
        python = peers / "bin" / "python"
        peer = stack.enter_context(Peer("pipeline", python, open_checkpoint("default").folder))
        jobs = [
            {"document": text, "questions": questions, "max_answer_tokens": 30, **windows} for text, questions in chosen
        ]
        work: dict[str, Callable[[], object]] = {
            f"job, {dtype}": partial(
                run_job, folder, {"runner": {"device": "cpu", "dtype": dtype}, "windows": windows, "preview": 0}
            )
            for dtype in dtypes()
        }
        work["transformers 4.57 pipeline, float32"] = partial(per_100_windows, peer, jobs, num_windows)
        lengths = ", ".join(f"{len(text):,}" for text, _ in chosen)
        task = f"{lengths} characters × {num_questions} questions: 100 windows of 4,096/512"
        for contender, seconds in alternate(work, rounds, warm_up=False).items():
            yield Row(task, contender, seconds)


def per_100_windows(peer: Peer, jobs: list[dict[str, Any]], num_windows: int) -> float:
    return 100 * sum(map(peer.read, jobs)) / num_windows


def readable(reader: Reader, text: str, questions: list[str]) -> tuple[ReadableDocument, int]:
    """A document with its questions, and the number of their windows."""
    question_ids = [reader.tokenizer.question(question) for question in questions]
    document = ReadableDocument(text, reader.tokenizer(text), question_ids)
    return document, sum(len(reader.pair(document, ids, reader.settings).windows) for ids in question_ids)
