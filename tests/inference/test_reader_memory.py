"""What does not fit into memory is halved until it does, for good; a single pair that does not is an error."""

from typing import Any

import pytest
import torch
from models import TEXT

import qa_ray.inference.reader
from qa_ray import Reader
from qa_ray.inference.batching import logits
from qa_ray.schemas import ReadableDocument

DOCUMENT = TEXT * 5
QUESTIONS = ["Who built the lighthouse?", "它在哪里？", "When was the agreement signed, and by whom, and why?"]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
]


def float32_reader(folder: str, **settings: Any) -> Reader:
    return Reader(folder, dtype="float32", **settings)


def readable(reader: Reader, *questions: str, document: str = DOCUMENT) -> ReadableDocument:
    return ReadableDocument(document, reader.tokenizer(document), [reader.tokenizer.question(q) for q in questions])


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_batch_that_does_not_fit_in_memory_is_halved_permanently(models: dict[str, str], error: Exception):
    reader, sizes = float32_reader(models["longformer"], batch_tokens=1_000), []
    forward = reader.model.__call__

    class Small:
        """A device with memory for 300 tokens."""

        def __getattr__(self, name: str):
            return getattr(reader.model, name)

        def __call__(self, ids_N, *rest):
            if len(ids_N) > 300:
                raise error
            return forward(ids_N, *rest)

    small: Any = Small()
    small.batch_tokens = 1_000
    document = readable(reader, *QUESTIONS)
    pairs = [reader.pair(document, question, reader.settings) for question in document.questions]
    halved = logits(small, reader.layout, pairs, sizes.append)
    torch.testing.assert_close(halved, logits(reader.model, reader.layout, pairs))
    assert small.batch_tokens == sizes[0].batch_tokens <= 300
    assert sum(size.oom_retries for size in sizes) == sizes[0].oom_retries > 0
    assert sum(size.num_windows for size in sizes) == sum(len(pair.windows) for pair in pairs)
    assert all(size.num_tokens <= size.num_computed <= size.num_tokens + 63 for size in sizes)


class SmallMemory:
    """A function of pairs, as its argument number ``position``, that has memory for ``num_pairs`` of them."""

    def __init__(self, function: Any, position: int, num_pairs: int, error: Exception):
        self.function, self.position, self.num_pairs, self.error = function, position, num_pairs, error
        self.num_failures = 0

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments[self.position]) > self.num_pairs:
            self.num_failures += 1
            raise self.error
        return self.function(*arguments)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
@pytest.mark.parametrize(("function", "position"), [("logits", 2), ("answer_pairs", 1)])
def test_pairs_whose_logits_or_decoding_do_not_fit_in_memory_are_halved_permanently(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch, function: str, position: int, error: Exception
):
    documents = [readable(float32_reader(models["bert"]), *QUESTIONS, document=DOCUMENT[i:]) for i in range(4)]
    whole = float32_reader(models["bert"]).read(documents)
    reader = float32_reader(models["bert"])
    small = SmallMemory(getattr(qa_ray.inference.reader, function), position, 3, error)
    monkeypatch.setattr(qa_ray.inference.reader, function, small)
    assert_same_fields(reader.read(documents), whole)
    assert small.num_failures == 3  # 12 pairs, and 6, twice
    assert_same_fields(reader.read(documents), whole)
    assert small.num_failures == 3


def assert_same_fields(one: list[list[dict[str, Any]]], other: list[list[dict[str, Any]]]) -> None:
    """Equal but for the order in which sums are rounded, which depends on the batch."""
    for document, other_document in zip(one, other, strict=True):
        for fields, other_fields in zip(document, other_document, strict=True):
            spans, other_spans = fields["n_best"], other_fields["n_best"]
            assert [span["answer"] for span in spans] == [span["answer"] for span in other_spans]
            assert [span["start_char"] for span in spans] == [span["start_char"] for span in other_spans]
            for name in ("score", "no_answer_score", "num_windows"):
                assert fields[name] == pytest.approx(other_fields[name], rel=1e-4)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
@pytest.mark.parametrize("function", ["logits", "answer_pairs"])
def test_a_pair_that_does_not_fit_in_memory_is_an_error_with_a_remedy_and_costs_no_other_its_batch(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch, function: str, error: Exception
):
    reader = float32_reader(models["bert"])
    long, short = (readable(reader, "Who?", document=text) for text in (DOCUMENT, "Ada Vane built it."))
    small = SmallMemory(getattr(qa_ray.inference.reader, function), 2 if function == "logits" else 1, 0, error)
    with monkeypatch.context() as patch:
        patch.setattr(qa_ray.inference.reader, function, small)
        with pytest.raises(torch.OutOfMemoryError) as raised:
            reader.read([long, short])
    assert str(raised.value) == (
        f"a document of {len(long.tokens)} tokens, in windows of up to 64 tokens, does not fit into memory; lower "
        f"windows.max_tokens, or use a machine with more memory ({error})"
    )
    sizes: list[int] = []
    decode = qa_ray.inference.reader.answer_pairs

    def decode_and_count(documents: Any, *rest: Any) -> Any:
        sizes.append(len(documents))
        return decode(documents, *rest)

    monkeypatch.setattr(qa_ray.inference.reader, "answer_pairs", decode_and_count)
    reader.read([long, short])
    assert sizes == [2]
