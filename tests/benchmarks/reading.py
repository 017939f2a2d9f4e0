"""From a document and its questions to answers, beside other tools and beside the forward passes alone."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import torch
from rounds import Row, alternate, dtypes

from qa_ray import Reader
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.runner import Model
from qa_ray.process import num_cores
from qa_ray.schemas import ReadableDocument, Tokens

HERE = Path(__file__).parent


class Peer:
    """Another tool in its own process and environment (peer.py), which reports the seconds that each job took."""

    def __init__(self, tool: str, python: Path, model: str):
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            [python, HERE / "peer.py", tool, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.answers: list[str] = []

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def read(self, job: dict[str, Any]) -> float:
        """Seconds for the job, without the start of the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        response = json.loads(self._process.stdout.readline())
        self.answers = response["answers"]
        return response["seconds"]


def documents_with_questions(folder: Path | None) -> list[tuple[str, list[str]]]:
    """The texts of the tables that ``prepare`` wrote, or of the demo, each with its questions; the longest is last."""
    if not folder:
        questions = [json.loads(line) for line in Path("qa_ray/assets/demo/questions.jsonl").read_text().splitlines()]
        texts = {path.stem: path.read_text() for path in Path("qa_ray/assets/demo/documents").glob("*.txt")}
    else:
        questions = ds.dataset(folder / "questions").to_table().to_pylist()
        texts = {row["document_id"]: row["text"] for row in ds.dataset(folder / "documents").to_table().to_pylist()}
    by_document: dict[str | None, list[str]] = {}
    for row in questions:
        by_document.setdefault(row.get("document_id"), []).append(row["question"])
    documents = [(text, by_document.get(name, []) + by_document.get(None, [])) for name, text in texts.items()]
    return sorted((pair for pair in documents if pair[1]), key=lambda pair: len(pair[0]))


def reader_rows(rounds: int, peers: Path, data: Path | None) -> Iterator[Row]:
    """From text to answers, beside the other tools."""
    model = open_checkpoint("default").folder
    text, questions = documents_with_questions(data)[-1]
    with ExitStack() as stack:
        peer = {
            f"{name}, float32": stack.enter_context(Peer(tool, peers / "bin" / "python", model))
            for tool, name in (("pipeline", "transformers 4.57 pipeline"), ("haystack", "Haystack"))
        }
        for max_tokens, overlap, num_questions in ((384, 128, 5), (4096, 512, 5)):
            repeated = (questions * num_questions)[:num_questions]
            windows: dict[str, Any] = {"max_tokens": max_tokens, "overlap_tokens": overlap}
            readers = {
                f"qa-ray, {dtype}": Reader(model, device="cpu", dtype=dtype, threads=num_cores(), **windows)
                for dtype in dtypes()
            }
            job = {"document": text, "questions": repeated, "max_answer_tokens": 30, **windows}
            work: dict[str, Callable[[], object]] = {
                name: partial(reader.answer, repeated, text, top_k=5) for name, reader in readers.items()
            }
            work |= {name: partial(other.read, job) for name, other in peer.items()}
            task = f"{len(text):,} characters × {num_questions} questions, windows of {max_tokens:,}/{overlap}"
            for contender, seconds in alternate(work, rounds).items():
                yield Row(task, contender, seconds)


class Recorder:
    """A model that records its batches."""

    def __init__(self, model: Model):
        self._model = model
        self.batches: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *batch: Any) -> Any:
        self.batches.append(batch)
        return self._model(*batch)


def share_rows(rounds: int, data: Path | None) -> Iterator[Row]:
    """The reader (windows, batches, forward passes, spans, answers) beside its forward passes alone."""
    for max_tokens, overlap in ((384, 128), (4096, 512)):
        reader = Reader("default", device="cpu", threads=num_cores(), max_tokens=max_tokens, overlap_tokens=overlap)
        text, questions = documents_with_questions(data)[-1]
        question_ids = [reader.tokenizer.question(question) for question in questions]
        document = ReadableDocument(text, reader.tokenizer(text), question_ids)
        work: dict[str, Callable[[], object]] = {
            "bare forward": partial(forward_all, reader.model, recorded(reader, document)),
            "from tokens to answers": partial(reader.read, [document]),
        }
        for contender, seconds in alternate(work, rounds).items():
            yield Row(f"{len(questions)} questions, windows of {max_tokens:,}/{overlap}", contender, seconds)


def length_rows(rounds: int, data: Path | None) -> Iterator[Row]:
    """Seconds per ten windows of a document of ten windows and of one of a hundred."""
    reader = Reader("default", device="cpu", threads=num_cores(), max_tokens=384, overlap_tokens=128)
    text, questions = documents_with_questions(data)[-1]
    question = reader.tokenizer.question(questions[0])
    window_tokens = reader.settings.max_tokens - reader.layout.num_special_tokens - len(question)
    long_text = text * 10
    tokens = reader.tokenizer(long_text)

    def ten_of(num_windows: int) -> float:
        num_tokens = window_tokens + (num_windows - 1) * (window_tokens - reader.settings.overlap_tokens)
        started = time.perf_counter()
        (answers,) = reader.read([ReadableDocument(long_text, Tokens(*(a[:num_tokens] for a in tokens)), [question])])
        assert answers[0]["num_windows"] == num_windows, answers
        return 10 * (time.perf_counter() - started) / num_windows

    work: dict[str, Callable[[], object]] = {f"document of {n} windows": partial(ten_of, n) for n in (10, 100)}
    for contender, seconds in alternate(work, rounds).items():
        yield Row("10 windows of 384/128, from tokens to answers", contender, seconds)


def recorded(reader: Reader, document: ReadableDocument) -> list[tuple[Any, ...]]:
    """The batches of a document's windows."""
    recorder: Any = Recorder(reader.model)
    model, reader.model = reader.model, recorder
    reader.read([document])
    reader.model = model
    return recorder.batches


def forward_all(model: Model, batches: list[tuple[Any, ...]]) -> None:
    for batch in batches:
        model(*batch)
