"""The actor with the model, without Ray."""

import pytest
import torch

from qa_ray.answering import answer_stage
from qa_ray.answering.answer_stage import ActorSettings, AnswerDocuments
from qa_ray.config import StorageSettings
from qa_ray.errors import ModelError
from qa_ray.inference.settings import resolve_settings
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import use_threads
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
    settings = ActorSettings(
        storage=StorageSettings().model_dump(),
        model=models["bert"],
        model_fingerprint=checkpoint.fingerprint,
        id_column="document_id",
        inference=resolve_settings(checkpoint, tokenizer.layout(), tokenizer.model_max_tokens),
        device="cpu",
        dtype="float32",
        forward="auto",
        batch_tokens=None,
        num_threads=2,
        parts="",
    )
    use_threads(2)
    monkeypatch.setattr(answer_stage, "Reader", load)
    monkeypatch.setattr(answer_stage, "keep_memory", lambda: None)
    with pytest.raises(ModelError, match="as far as"):
        AnswerDocuments(settings, stats=None, crash_guard=None)
    assert num_threads == [1]
