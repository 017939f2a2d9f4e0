"""qa-ray beside transformers 5, the question-answering pipeline of transformers 4.57 and Haystack: make bench.

    python tests/benchmarks/bench.py [--rounds 5] [--only forward,share,job,reader,mixed] [--out bench.json]

Every row compares contenders that took turns in one run, on the same windows and weights: medians, and the spread
between the fastest and the slowest round. The floor is the operations of the window over the rate of matrix products,
which took turns with the contenders.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LongformerConfig, LongformerForQuestionAnswering

from qa_ray import Reader
from qa_ray.checkpoints import open_checkpoint
from qa_ray.config import AnswerConfig
from qa_ray.logits import Forward, Model
from qa_ray.packing import pack
from qa_ray.pipeline import answer_documents
from qa_ray.process import keep_memory
from qa_ray.reader import ReadableDocument
from qa_ray.resources import SPARE_CPUS, num_cores

HERE = Path(__file__).parent
NUM_QUESTION_TOKENS = 14


@dataclass
class Row:
    """What one contender took for one task; ``floor_s`` is what no program could beat at the measured rate."""

    task: str
    contender: str
    seconds: list[float]
    floor_s: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(
    contenders: dict[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, its own figure if it has one; to warm up, a round more comes first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(1 - warm_up, rounds + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            told = work()
            took = told if isinstance(told, float) else time.perf_counter() - started
            if round_:
                seconds[name].append(took)
    return seconds


MATRIX_SIZE = 2048


def matrix_product(dtype: str) -> Callable[[], object]:
    """A product of two square matrices, the one packed (15 % and more above the rate of ``a @ b`` in float32)."""
    kind = getattr(torch, dtype)
    layer, x = nn.Sequential(nn.Linear(MATRIX_SIZE, MATRIX_SIZE, dtype=kind)), torch.randn(MATRIX_SIZE, MATRIX_SIZE)
    pack(layer)
    x = x.to(kind)
    return torch.inference_mode()(lambda: layer(x))


def operations(config: LongformerConfig, num_tokens: int, num_global: int) -> float:
    """What exact attention needs for a window: a multiplication and an addition are two operations."""
    width, inner = config.hidden_size, config.intermediate_size
    total = 0.0
    for attention_window in cast("list[int]", config.attention_window):
        per_token = 2 * (6 * width**2 + 2 * width * inner)  # q, k, v, global k and v, output; feed-forward
        reach = attention_window // 2
        keys = sum(min(i + reach, num_tokens - 1) - max(i - reach, 0) + 1 for i in range(num_tokens))
        scores = keys + 2 * num_global * num_tokens
        total += per_token * num_tokens + 2 * width**2 * num_global + 4 * width * scores
    return total


# ---- the bare forward pass


def random_windows(vocab_size: int, num_windows: int, num_tokens: int) -> tuple[Any, ...]:
    """A batch as logits.Model takes it."""
    ids_N = np.random.default_rng(0).integers(10, vocab_size - 1, num_windows * num_tokens)
    return ids_N, np.full(num_windows, num_tokens), np.full(num_windows, NUM_QUESTION_TOKENS)


@contextmanager
def longformer_base() -> Iterator[str]:
    """A folder with random weights in the sizes of allenai/longformer-base-4096."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LongformerConfig(
            vocab_size=1000, max_position_embeddings=4098, type_vocab_size=1, attention_window=[512] * 12
        )
        LongformerForQuestionAnswering(config).save_pretrained(folder)
        yield folder


def forward_rows(rounds: int) -> Iterator[Row]:
    with longformer_base() as base:
        yield from forwards("default model", open_checkpoint("default").folder, rounds)
        yield from forwards("Longformer-base", base, rounds)


def forwards(name: str, folder: str, rounds: int) -> Iterator[Row]:
    config = LongformerConfig.from_pretrained(folder)
    whose: dict[str, Forward] = {"qa-ray": "auto", "transformers 5": "transformers"}
    models = {
        f"{name}, {dtype}": Model(folder, document_type_id=0, device="cpu", dtype=dtype, forward=forward)
        for dtype in ("float32", "bfloat16")
        for name, forward in whose.items()
    }
    for num_windows, num_tokens in ((1, 4096), (1, 2048), (5, 384)):
        batch = random_windows(config.vocab_size, num_windows, num_tokens)
        num_operations = num_windows * operations(config, num_tokens, NUM_QUESTION_TOKENS)
        work: dict[str, Callable[[], object]] = {key: partial(model, *batch) for key, model in models.items()}
        work |= {dtype: matrix_product(dtype) for dtype in ("float32", "bfloat16")}
        seconds = alternate(work, rounds)
        rates = {dtype: 2 * MATRIX_SIZE**3 / min(seconds.pop(dtype)) for dtype in ("float32", "bfloat16")}
        for contender, taken in seconds.items():
            dtype = contender.split(", ")[1]
            task = f"{name}, forward, {num_windows} × {num_tokens:,} tokens"
            notes = {"gflops": rates[dtype] / 1e9}
            yield Row(task, contender, taken, num_operations / rates[dtype], notes)
    batch = random_windows(config.vocab_size, 2, 4096)
    exact = models.pop("transformers 5, float32")(*batch)[0]
    for contender, model in models.items():
        difference = float((model(*batch)[0] - exact).abs().max() / exact.abs().max())
        yield Row(f"{name}, largest difference of logits", contender, [], notes={"relative": difference})


# ---- a document and its questions, whole


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
        told = json.loads(self._process.stdout.readline())
        self.answers = told["answers"]
        return told["seconds"]


def asked_documents(folder: Path | None) -> list[tuple[str, list[str]]]:
    """The texts of two tables as ``prepare`` makes them (by default the demo's) and their questions, longest last."""
    if not folder:
        questions = [json.loads(line) for line in Path("qa_ray/demo/questions.jsonl").read_text().splitlines()]
        texts = {path.stem: path.read_text() for path in Path("qa_ray/demo/documents").glob("*.txt")}
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
            readers = {
                f"qa-ray, {dtype}": Reader(model, device="cpu", dtype=dtype, **windows)
                for dtype in ("float32", "bfloat16")
            }
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
        asked = [reader.tokeniser.question(question) for question in questions]
        document = ReadableDocument(text, reader.tokeniser(text), asked)
        work: dict[str, Callable[[], object]] = {
            "bare forward": partial(forward_all, reader.model, recorded(reader, document)),
            "from tokens to answers": partial(reader.read, [document]),
        }
        for contender, seconds in alternate(work, rounds).items():
            yield Row(f"{len(asked)} questions, windows of {max_tokens:,}/{overlap}", contender, seconds)


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


# ---- the job on Ray


def job_rows(rounds: int, peers: Path, data: Path | None) -> Iterator[Row]:
    """Seconds for 100 windows of the answer job after its start, of its model alone, and of another tool."""
    text, questions = asked_documents(data)[-1]
    asked = questions[:4]
    windows: dict[str, Any] = {"max_tokens": 384, "overlap_tokens": 128}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_tables(folder, [(text, asked)] * 8)
        stack.enter_context(local_ray())
        for dtype in ("float32", "bfloat16"):
            reader = Reader("default", device="cpu", dtype=dtype, **windows)
            tokens = [reader.tokeniser.question(question) for question in asked]
            document = ReadableDocument(text, reader.tokeniser(text), tokens)
            num_windows = sum(len(reader.pair(document, ids, reader.settings).windows) for ids in tokens)
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
                job = {"document": text, "questions": asked, "max_answer_tokens": 30, **windows}
                work["transformers 4.57 pipeline"] = partial(per_100_windows, peer, job, num_windows)
            for contender, seconds in alternate(work, rounds, warm_up=False).items():
                yield Row(f"100 windows of 384/128 in {dtype}", contender, seconds)


def write_tables(folder: str, asked: list[tuple[str, list[str]]]) -> None:
    """The inputs of a job, a document at a time."""
    ids = [f"d{i}" for i in range(len(asked))]
    of_question = [
        (document_id, text) for document_id, (_, questions) in zip(ids, asked, strict=True) for text in questions
    ]
    tables = {
        "documents": {"document_id": ids, "text": [text for text, _ in asked]},
        "questions": {
            "question_id": [*map(str, range(len(of_question)))],
            "document_id": [document_id for document_id, _ in of_question],
            "question": [text for _, text in of_question],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), f"{folder}/{name}.parquet", row_group_size=1)


@contextmanager
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=num_cores() + SPARE_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def bare(reader: Reader, document: ReadableDocument, num_threads: int, num_windows: int) -> float:
    """The forward passes of a document's windows, ready made."""
    torch.set_num_threads(num_threads)
    batches = recorded(reader, document)
    started = time.perf_counter()
    forward_all(reader.model, batches)
    seconds = time.perf_counter() - started
    torch.set_num_threads(num_cores())
    return 100 * seconds / num_windows


def run_job(folder: str, config: dict[str, Any]) -> float:
    """An answer job on the Ray that runs already."""
    output = f"{folder}/output"
    paths = {"documents": f"{folder}/documents.parquet", "questions": f"{folder}/questions.parquet"}
    manifest = answer_documents(AnswerConfig(**paths, output=output, **config))
    shutil.rmtree(output)
    return 100 / manifest["windows_per_second"]


def mixed_rows(rounds: int, peers: Path, data: Path | None, num_documents: int, num_questions: int) -> Iterator[Row]:
    """The whole job on documents of mixed lengths, long windows, beside the pipeline on the same: s for 100 windows."""
    windows: dict[str, Any] = {"max_tokens": 4096, "overlap_tokens": 512}
    documents = asked_documents(data)
    places = [len(documents) * (2 * i + 1) // (2 * num_documents) for i in range(num_documents)]
    chosen = [(documents[i][0], (documents[i][1] * num_questions)[:num_questions]) for i in places]
    reader = Reader("default", device="cpu", **windows)
    num_windows = 0
    for text, asked in chosen:
        tokens = [reader.tokeniser.question(question) for question in asked]
        document = ReadableDocument(text, reader.tokeniser(text), tokens)
        num_windows += sum(len(reader.pair(document, ids, reader.settings).windows) for ids in tokens)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_tables(folder, chosen * 2)
        stack.enter_context(local_ray())
        python = peers / "bin" / "python"
        peer = stack.enter_context(Peer("pipeline", python, open_checkpoint("default").folder))
        jobs = [{"document": text, "questions": asked, "max_answer_tokens": 30, **windows} for text, asked in chosen]
        work: dict[str, Callable[[], object]] = {
            f"job, {dtype}": partial(
                run_job, folder, {"runner": {"device": "cpu", "dtype": dtype}, "windows": windows, "preview": 0}
            )
            for dtype in ("float32", "bfloat16")
        }
        work["transformers 4.57 pipeline, float32"] = lambda: sum(map(peer.read, jobs)) * 100 / num_windows
        lengths = ", ".join(f"{len(text):,}" for text, _ in chosen)
        task = f"{lengths} characters × {num_questions} questions: 100 windows of 4,096/512"
        for contender, seconds in alternate(work, rounds, warm_up=False).items():
            yield Row(task, contender, seconds)


def per_100_windows(peer: Peer, job: dict[str, Any], num_windows: int) -> float:
    return 100 * peer.read(job) / num_windows


# ---- what a person sees


def show(rows: list[Row], console: Console) -> None:
    table = Table("task", "contender", "median s", "spread", "of floor", "times the slowest", title="make bench")
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    for task, of_task in tasks.items():
        slowest = max((row.median for row in of_task if row.seconds), default=0.0)
        for i, row in enumerate(of_task):
            name = task if not i else ""
            if not row.seconds:
                table.add_row(name, row.contender, f"{row.notes['relative']:.1e}", "", "", "")
                continue
            spread = f"{min(row.seconds):.3f}–{max(row.seconds):.3f}"
            floor = f"{row.floor_s / row.median:.0%} at {row.notes['gflops']:,.0f} GFLOP/s" if row.floor_s else ""
            table.add_row(name, row.contender, f"{row.median:.3f}", spread, floor, f"{slowest / row.median:.2f}")
        table.add_section()
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="forward,share,job,reader")
    parser.add_argument("--peers", type=Path, default=Path(".bench"), help="the environment of peers.txt")
    parser.add_argument("--data", type=Path, help="a folder with documents/ and questions/; the demo's are the default")
    parser.add_argument("--documents", type=int, default=4, help="of how many lengths, for mixed")
    parser.add_argument("--questions", type=int, default=10, help="how many of each, for mixed")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    torch.set_num_threads(num_cores())
    keep_memory()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    rows: list[Row] = []
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "forward": lambda: forward_rows(given.rounds),
        "share": lambda: share_rows(given.rounds, given.data),
        "job": lambda: job_rows(given.rounds, given.peers, given.data),
        "reader": lambda: reader_rows(given.rounds, given.peers, given.data),
        "mixed": lambda: mixed_rows(given.rounds, given.peers, given.data, given.documents, given.questions),
    }
    for name in given.only.split(","):
        rows += parts[name]()
    show(rows, console)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps([vars(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
