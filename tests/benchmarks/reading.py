"""A document and its questions, from text to answers: beside other tools, and beside the forward passes alone."""

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
from qa_ray.schemas import ReadableDocument, Tokens

HERE = Path(__file__).parent


class Peer:
    """Another tool in a process of its own, that reads what it is given and says how long it took."""

    def __init__(self, kind: str, python: Path, model: str):
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            [python, HERE / "peer.py", kind, model],
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
        """Seconds for the job, without the process's start."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        response = json.loads(self._process.stdout.readline())
        self.answers = response["answers"]
        return response["seconds"]


def asked_documents(folder: Path | None) -> list[tuple[str, list[str]]]:
    """The texts of two tables as ``prepare`` makes them (by default the demo's) and their questions, longest last."""
    if not folder:
        questions = [json.loads(line) for line in Path("qa_ray/assets/demo/questions.jsonl").read_text().splitlines()]
        texts = {path.stem: path.read_text() for path in Path("qa_ray/assets/demo/documents").glob("*.txt")}
    else:
        questions = ds.dataset(folder / "questions").to_table().to_pylist()
        texts = {row["document_id"]: row["text"] for row in ds.dataset(folder / "documents").to_table().to_pylist()}
    of_document: dict[str | None, list[str]] = {}
    for row in questions:
        of_document.setdefault(row.get("document_id"), []).append(row["question"])
    asked = [(text, of_document.get(name, []) + of_document.get(None, [])) for name, text in texts.items()]
    return sorted((pair for pair in asked if pair[1]), key=lambda pair: len(pair[0]))


def reader_rows(rounds: int, peers: Path, data: Path | None) -> Iterator[Row]:
    """The whole way from text to answers, beside the other tools."""
    model = open_checkpoint("default").folder
    text, questions = asked_documents(data)[-1]
    with ExitStack() as stack:
        peer = {
            f"{name}, float32": stack.enter_context(Peer(kind, peers / "bin" / "python", model))
            for kind, name in (("pipeline", "transformers 4.57 pipeline"), ("haystack", "Haystack"))
        }
        for max_tokens, overlap, num_questions in ((384, 128, 5), (4096, 512, 5)):
            asked = (questions * num_questions)[:num_questions]
            windows: dict[str, Any] = {"max_tokens": max_tokens, "overlap_tokens": overlap}
            readers = {f"qa-ray, {dtype}": Reader(model, device="cpu", dtype=dtype, **windows) for dtype in dtypes()}
            job = {"document": text, "questions": asked, "max_answer_tokens": 30, **windows}
            work: dict[str, Callable[[], object]] = {
                name: partial(reader.answer, asked, text, top_k=5) for name, reader in readers.items()
            }
            work |= {name: partial(other.read, job) for name, other in peer.items()}
            task = f"{len(text):,} characters × {num_questions} questions, windows of {max_tokens:,}/{overlap}"
            for contender, seconds in alternate(work, rounds).items():
                yield Row(task, contender, seconds)


class Recorder:
    """A model that keeps the batches which go through it."""

    def __init__(self, model: Model):
        self._model = model
        self.batches: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *batch: Any) -> Any:
        self.batches.append(batch)
        return self._model(*batch)


def share_rows(rounds: int, data: Path | None) -> Iterator[Row]:
    """The reader (windows, batches, forward, spans, answers) against its forward passes alone."""
    for max_tokens, overlap in ((384, 128), (4096, 512)):
        reader = Reader("default", device="cpu", max_tokens=max_tokens, overlap_tokens=overlap)
        text, questions = asked_documents(data)[-1]
        asked = [reader.tokenizer.question(question) for question in questions]
        document = ReadableDocument(text, reader.tokenizer(text), asked)
        work: dict[str, Callable[[], object]] = {
            "bare forward": partial(forward_all, reader.model, recorded(reader, document)),
            "from tokens to answers": partial(reader.read, [document]),
        }
        for contender, seconds in alternate(work, rounds).items():
            yield Row(f"{len(asked)} questions, windows of {max_tokens:,}/{overlap}", contender, seconds)


def length_rows(rounds: int, data: Path | None) -> Iterator[Row]:
    """Ten windows of a document that has ten of them, or a hundred."""
    reader = Reader("default", device="cpu", max_tokens=384, overlap_tokens=128)
    text, questions = asked_documents(data)[-1]
    question = reader.tokenizer.question(questions[0])
    room = reader.settings.max_tokens - reader.layout.num_special_tokens - len(question)
    long_text = text * 10
    tokens = reader.tokenizer(long_text)

    def ten_of(num_windows: int) -> float:
        num_tokens = room + (num_windows - 1) * (room - reader.settings.overlap_tokens)
        started = time.perf_counter()
        (found,) = reader.read([ReadableDocument(long_text, Tokens(*(a[:num_tokens] for a in tokens)), [question])])
        assert found[0]["num_windows"] == num_windows, found
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
