import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from huggingface_hub.errors import RevisionNotFoundError
from running import fill, raises_error, small_disk, write_job
from transformers import BertModel

from qa_ray.answering.plan import make_plan
from qa_ray.errors import ConfigError, ModelError
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer


@pytest.fixture
def folder(models: dict[str, str], tmp_path: Path) -> Path:
    """A copy of the small BERT for a test to break."""
    return Path(shutil.copytree(models["bert"], tmp_path / "model"))


def assert_refused(name: Path | str, *messages: str) -> None:
    with raises_error(ModelError, str(name), *messages):
        Tokenizer(open_checkpoint(str(name)).folder)


def test_the_same_weights_have_the_same_fingerprint_in_every_folder(folder: Path, models: dict[str, str]):
    assert open_checkpoint(str(folder)).fingerprint == open_checkpoint(models["bert"]).fingerprint
    (folder / "qa_ray.json").write_text('{"max_tokens": 32}')
    assert open_checkpoint(str(folder)).fingerprint != open_checkpoint(models["bert"]).fingerprint


def test_a_model_without_a_question_answering_head_is_refused(folder: Path):
    BertModel.from_pretrained(folder).save_pretrained(folder)
    assert_refused(
        folder, "no question-answering head (qa_outputs)", "['BertModel']", "use a checkpoint fine-tuned for"
    )


@pytest.mark.parametrize("family", ["gpt5", None])
def test_a_family_that_cannot_answer_questions_is_refused(folder: Path, family: str | None):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": family}))
    assert_refused(folder, f"model_type {family!r}, for which transformers has no question-answering model")


def test_pickled_weights_are_not_loaded(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_refused(folder, "only pickled weights (pytorch_model.bin)", "convert with model.save_pretrained(folder)")
    (folder / "pytorch_model.bin").unlink()
    assert_refused(folder, "no weights in", "qa-ray loads only safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage " * 99, b"\1" + b"\0" * 7 + b"5", b"\2" + b"\0" * 7 + b"[]"])
def test_broken_safetensors_are_refused(folder: Path, content: bytes):
    (folder / "model.safetensors").write_bytes(content)
    assert_refused(folder, "model.safetensors' is not a safetensors file; copy it again")


def test_truncated_weights_are_refused(folder: Path):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])
    assert_refused(folder, f"is truncated to {len(content) - 1000:,} of {len(content):,} bytes; copy it again")


def test_a_model_without_a_tokenizer_is_refused(folder: Path):
    (folder / "tokenizer.json").write_text("{")
    assert_refused(folder, "no tokenizer can be loaded", "tokenizer.save_pretrained(folder)")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert_refused(folder, "no tokenizer in", "save it there with tokenizer.save_pretrained(folder)")


@pytest.mark.parametrize(
    ("file", "content", "messages"),
    [
        ("config.json", "{", ["config.json' is not JSON", "save the model again"]),
        ("config.json", "[]", ["config.json' is not a JSON object; save the model again"]),
        ("config.json", None, ["has no config.json; give the folder that save_pretrained wrote"]),
        ("qa_ray.json", "[]", ["qa_ray.json' is not a JSON object"]),
        ("qa_ray.json", '{"max_tokens": "x"}', ["qa_ray.json: max_tokens: Input should be a valid integer", "not 'x'"]),
    ],
)
def test_invalid_json_beside_the_weights_is_reported(folder: Path, file: str, content: str | None, messages: list[str]):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert_refused(folder, *messages)


def test_missing_paths_are_reported(tmp_path: Path):
    message = "no such folder; give 'default', a folder, a URI or a hub id such as 'org/name'"
    assert_refused(tmp_path / "nothing", message)
    assert_refused("../nothing/here", message)
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "has no config.json")
    assert_refused("memory://nothing/here", "cannot be fetched (", "check the URI")


def test_an_unknown_hub_id_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused(
        "no-such-org/no-such-model", "no such folder, and it cannot be downloaded from the hub (", "check the name"
    )


class Hub:
    """The hub with one repository, which takes the place of huggingface_hub.snapshot_download."""

    def __init__(self, folder: str, revisions: set[str | None]):
        self.folder, self.revisions = folder, revisions
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, repository: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        self.asked.append((repository, revision))
        if revision not in self.revisions:
            response: Any = SimpleNamespace(headers={}, request=None)
            raise RevisionNotFoundError("404 Client Error.\n\nRevision Not Found for url", response=response)
        return self.folder


@pytest.fixture
def hub(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(models["bert"], {None, "v1.0", "refs/pr/7", "6c7a2b1"})
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("name@6c7a2b1", "name", "6c7a2b1"),
        ("org/a.b_c-d@refs/pr/7", "org/a.b_c-d", "refs/pr/7"),
    ],
)
def test_a_hub_id_may_name_a_revision(hub: Hub, name: str, repository: str, revision: str | None):
    assert open_checkpoint(name).name == name
    assert hub.asked == [(repository, revision)]


def test_an_unknown_revision_is_reported(hub: Hub):
    assert_refused(
        "org/name@v9",
        "model 'org/name@v9': 'org/name' has no revision 'v9' on the hub; give a branch, a tag or a commit",
    )


@pytest.mark.parametrize("name", ["org/name@", "@v1.0", "org/name@v1@v2", "org/name@/v1", "org/name@v1/", "a/b/c@v1"])
def test_a_revision_that_cannot_be_one_is_not_looked_up(hub: Hub, name: str):
    assert_refused(name, "no such folder; give 'default', a folder, a URI or a hub id", "'org/name@revision'")
    assert hub.asked == []


def test_a_folder_with_an_at_sign_in_its_name_is_a_folder(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    folder.rename(folder.parent / "model@v1.0")
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint("model@v1.0").folder == str(folder.parent / "model@v1.0")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (
            {"overlap_tokens": 31},
            "windows.overlap_tokens=31 does not fit: windows of 64 tokens less 3 special ones less "
            "windows.max_question_tokens=30 leave 31 for the document, and the overlap must be smaller",
        ),
        ({"max_question_tokens": 61}, "leave 0 for the document"),
        ({"max_tokens": 131}, "windows.max_tokens=131: model "),
    ],
)
def test_windows_that_do_not_fit_the_model_are_reported(models: dict[str, str], tmp_path: Path, windows, message: str):
    with raises_error(ConfigError, message):
        make_plan(write_job(tmp_path, models["bert"], windows=windows))


def test_the_largest_overlap_and_the_longest_window_are_allowed(models: dict[str, str], tmp_path: Path):
    plan = make_plan(write_job(tmp_path, models["bert"], windows={"max_tokens": 130, "overlap_tokens": 96}))
    assert (plan.settings.max_tokens, plan.settings.overlap_tokens) == (130, 96)


def test_the_models_own_settings_apply_unless_overridden(folder: Path, tmp_path: Path):
    (folder / "qa_ray.json").write_text(json.dumps({"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 9}))
    plan = make_plan(write_job(tmp_path, str(folder), windows={"overlap_tokens": 4}))
    assert (plan.settings.max_tokens, plan.settings.overlap_tokens, plan.settings.max_question_tokens) == (48, 4, 9)


def test_a_cache_that_is_read_only_or_full_is_reported(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    memory = fsspec.filesystem("memory")
    memory.put(models["bert"], "/scratch/model", recursive=True)
    uri = "memory://scratch/model"
    with small_disk(tmp_path / "ro", options="ro") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        with raises_error(
            ModelError, f"model {uri!r}: cannot be cached in '", "(Read-only file system); set XDG_CACHE_HOME"
        ):
            open_checkpoint(uri)
    with small_disk(tmp_path / "full") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        (disk / "qa-ray" / "models").mkdir(parents=True)
        filler = fill(disk)
        with raises_error(ModelError, f"model {uri!r}: ", "No space left on device"):
            open_checkpoint(uri)
        filler.unlink()
        assert open_checkpoint(uri).fingerprint == open_checkpoint(models["bert"]).fingerprint
        assert len(list((disk / "qa-ray" / "models").iterdir())) == 1
