"""The actor with the model, without Ray."""

import gc
import weakref
from typing import Any

import pytest
import torch

from qa_ray.answering import answer_stage
from qa_ray.answering.answer_stage import ActorSettings, AnswerDocuments
from qa_ray.config import StorageSettings
from qa_ray.errors import ModelError
from qa_ray.inference.settings import resolve_settings
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import use_threads
from qa_ray.model.proof import Proof
from qa_ray.model.tokenizer import Tokenizer


@pytest.fixture
def restored_threads():
    num_threads = torch.get_num_threads()
    yield
    use_threads(num_threads)


@pytest.mark.usefixtures("restored_threads")
def test_an_actor_loads_its_model_with_one_thread_since_ray_calls_it_in_another(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    num_threads = []

    def load(*_: object, **__: object):
        num_threads.append(torch.get_num_threads())
        raise ModelError("this is as far as the test goes")

    checkpoint, tokenizer = open_checkpoint(models["bert"]), Tokenizer(models["bert"])
    proof = Proof(checkpoint.fingerprint, max_tokens=130)
    settings = ActorSettings(
        storage=StorageSettings().model_dump(),
        model=models["bert"],
        gate=None,
        proof=proof,
        id_column="document_id",
        inference=resolve_settings(checkpoint, tokenizer.layout(), proof.max_tokens),
        device="cpu",
        dtype="float32",
        forward="auto",
        batch_tokens=None,
        num_threads=2,
        parts="",
        block_timeout_s=None,
    )
    use_threads(2)
    monkeypatch.setattr(answer_stage, "Reader", load)
    monkeypatch.setattr(answer_stage, "keep_memory", lambda: None)
    with pytest.raises(ModelError, match="as far as"):
        AnswerDocuments(settings, stats=None, crash_guard=None)
    assert num_threads == [1]


class ProcessEnded(BaseException):
    """Stands for the end of the process."""


class FailingReader:
    """Raises ``error`` for documents called "bad", and from then on always if it ``is_sticky``, as CUDA does."""

    def __init__(self, error: Exception, *, is_sticky: bool):
        self.error, self.is_sticky = error, is_sticky
        self.has_failed = False

    def read(self, documents: list[Any], *_: object) -> list[list[dict[str, Any]]]:
        if "bad" in documents or (self.is_sticky and self.has_failed):
            self.has_failed = True
            raise self.error
        return [[{"answer": document}] for document in documents]


def actor(reader: Any) -> Any:
    """An actor that needs no model."""
    actor: Any = object.__new__(AnswerDocuments)
    actor._reader = reader
    actor._settings = type("Settings", (), {"inference": None})()
    return actor


def answer(reader: Any) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """The answers and the rejects of three documents, of which the second is bad."""
    rejects: list[list[dict[str, Any]]] = [[], [], []]
    questions = [[{"question_id": "q"}] for _ in rejects]
    return actor(reader)._answer_batch(["good", "bad", "fine"], questions, rejects), rejects


def test_a_document_on_which_the_model_fails_is_rejected_and_its_neighbors_are_answered():
    for error in (ValueError("no such token"), torch.OutOfMemoryError("a document of 9 tokens does not fit")):
        answers, rejects = answer(FailingReader(error, is_sticky=False))
        assert answers == [[{"answer": "good"}], [], [{"answer": "fine"}]]
        reject = {"question_id": "q", "stage": "logits", "reason": type(error).__name__, "detail": str(error)}
        assert rejects == [[], [reject], []]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=str,
)
def test_a_failure_of_the_gpu_ends_the_process_and_rejects_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
):
    exit_codes = []

    def end_process(exit_code: int) -> None:
        exit_codes.append(exit_code)
        raise ProcessEnded

    monkeypatch.setattr("os._exit", end_process)
    reader = FailingReader(error, is_sticky=True)
    with pytest.raises(ProcessEnded):
        answer(reader)
    rejects: list[dict[str, Any]] = []
    with pytest.raises(ProcessEnded):
        actor(reader)._answer_document("good", [{"question_id": "q"}], rejects)
    assert (exit_codes, rejects) == ([1, 1], [])
    monkeypatch.setattr("ray.get", lambda result, timeout: result)
    failing, reported = actor(reader), []
    add_error = type("Method", (), {"remote": staticmethod(lambda *values: reported.append(values))})
    failing._crash_guard = type("Guard", (), {"add_error": add_error})
    with pytest.raises(ProcessEnded):
        failing._answer_document("bad", [{"question_id": "q"}], rejects, "document 7")
    assert reported == [("logits", "document 7", str(error))]
    assert f"the GPU failed, so this process ends and another one goes on: {error}" in caplog.text


def test_what_the_failed_batch_held_is_freed_before_its_documents_are_answered_alone():
    class Batch:
        """Stands for the tensors of a batch, which a traceback keeps alive."""

    class Reader:
        batch: Any = None

        def read(self, documents: list[Any], *_: object) -> list[list[dict[str, Any]]]:
            if len(documents) > 1:
                batch = Batch()
                self.batch = weakref.ref(batch)
                raise ValueError(f"no {len(documents)} documents")
            gc.collect()
            assert self.batch() is None
            return [[]]

    assert answer(Reader())[1] == [[], [], []]
