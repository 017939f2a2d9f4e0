"""``--check`` refuses a model that the run could not answer exactly with, before Ray starts, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from families import save_family
from models import TEXT, save_model, wordpiece
from running import changed, raises_error, write_config, write_job
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerFast

from qa_ray.answering import answer_stage
from qa_ray.answering.answer_stage import AnswerDocuments
from qa_ray.answering.job import actor_settings
from qa_ray.answering.plan import make_plan
from qa_ray.cli.main import main
from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import ConfigError, ModelError
from qa_ray.inference.reader import Reader
from qa_ray.runtime.resources import Resources
from qa_ray.training.plan import make_plan as make_finetune_plan

WINDOWS = {"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 24}


def with_layout(pair: str) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with this template of a question and a document."""
    tokenizer = wordpiece(TEXT, types=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def refused_model(kind: str, folder: Path) -> str:
    """A model that cannot answer exactly."""
    if kind == "t5":
        return save_family("t5", folder, with_layout("$A [SEP] $B [SEP]"))
    if kind in ("gpt2", "llama", "bloom"):
        return save_family(kind, folder, with_layout("$A $B"))
    if kind == "xlnet":
        return save_family(kind, folder, with_layout("$A [SEP] $B:1 [SEP]:1 [CLS]:2"))
    if kind == "funnel":
        return save_family(kind, folder, with_layout("[CLS]:2 $A [SEP] $B:1 [SEP]:1"))
    if kind in ("big_bird", "splinter"):
        return save_family(kind, folder)
    model = save_family("bert", folder)
    if kind == "tokenizer":
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_tokens(["Ysbyty"])
        tokenizer.save_pretrained(model)
    else:
        config = json.loads((folder / "config.json").read_text())
        entries = {"quantized": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}}
        entries |= {"relative": {"position_embedding_type": "relative_key_query"}}
        (folder / "config.json").write_text(json.dumps(config | entries[kind]))
    return model


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", "no special token before the question, and the family 't5' is not supported"),
        ("gpt2", "no special token before the question, between question and document, after the document, and the f"),
        ("llama", "no special token before the question, between question and document, after the document, and the f"),
        ("bloom", "no special token before the question, between question and document, after the document, and the f"),
        ("xlnet", "no special token before the question, and the family 'xlnet' is not supported"),
        ("funnel", "its tokenizer gives token types that qa-ray does not have"),
        ("big_bird", "the family 'big_bird' is not supported"),
        ("splinter", "the family 'splinter' is not supported"),
        ("tokenizer", "from 'Ysbyty' on they have no embedding"),
        ("quantized", "its weights are quantized"),
        ("relative", "position_embedding_type 'relative_key_query'"),
    ],
)
def test_check_refuses_what_the_run_could_not_answer(
    kind: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
):
    job = write_job(tmp_path, refused_model(kind, tmp_path / "model"), windows=WINDOWS)
    assert main(["answer", str(write_config(tmp_path, job)), "--check"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    with pytest.raises(ModelError):  # and the Python interface likewise
        Reader(job.model, dtype="float32", **WINDOWS)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("model_type", "longest"), [("xmod", 128), ("ibert", 128), ("mpnet", 128), ("bart", 130)])
def test_the_longest_window_is_said_as_the_model_holds_it(model_type: str, longest: int, tmp_path: Path):
    job = write_job(tmp_path, save_family(model_type, tmp_path / "model"), windows=WINDOWS | {"max_tokens": 200})
    with raises_error(ConfigError, f"reads at most {longest} tokens; set windows.max_tokens={longest} or less"):
        make_plan(job)
    plan = make_plan(changed(job, windows=WINDOWS | {"max_tokens": longest}))
    assert plan.settings.max_tokens == plan.proof.max_tokens == longest


def test_the_windows_of_a_job_are_those_of_its_actors_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model of 128 positions without settings of its own, for which the default of 384 would be too long."""
    plan = make_plan(write_job(tmp_path, save_model("roberta", tmp_path / "model"), windows=WINDOWS))
    values: dict[str, Any] = dict.fromkeys(Resources.__dataclass_fields__, 1) | {"device": "cpu", "dtype": "float32"}
    resources = Resources(**values)
    given: dict[str, Any] = {}

    def read(*_: object, **settings: Any) -> None:
        given.update(settings)
        raise ModelError("this is as far as the test goes")

    monkeypatch.setattr(answer_stage, "Reader", read)
    monkeypatch.setattr(answer_stage, "keep_memory", lambda: None)
    with pytest.raises(ModelError, match="as far as"):
        AnswerDocuments(actor_settings(plan, resources, "parts"), stats=None, crash_guard=None)
    assert {name: given[name] for name in WINDOWS} == WINDOWS
    assert given["n_best"] == plan.settings.n_best


def test_a_pretrained_model_without_a_head_is_planned_for_training(tmp_path: Path):
    model = save_family("bert", tmp_path / "model")
    BertForMaskedLM.from_pretrained(model).save_pretrained(model)
    with raises_error(ModelError, "no question-answering head"):
        make_plan(write_job(tmp_path, model, windows=WINDOWS))
    rows = [{"document_id": name, "text": TEXT} for name in "abcdefghij"]
    gold = [{"text": "Ada Vane", "start_char": None}]
    questions = [
        {"question_id": name, "document_id": name, "question": "Who?", "answers": gold} for name in "abcdefghij"
    ]
    job = write_job(tmp_path / "training", model, rows, questions)
    paths = {"documents": job.documents, "questions": job.questions, "output": job.output, "model": model}
    config = check_config(FinetuneConfig, {**paths, "windows": WINDOWS, "validation": {"held_out": 0.4}}, "test")
    assert make_finetune_plan(config).settings.max_tokens == 48
