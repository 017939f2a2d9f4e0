"""A model's name -> a checkpoint folder on this machine, checked, with the settings stored beside its weights.

A name is ``default`` (the model inside this package), a folder, a URI on object storage, or a hub id, which may name a
revision: ``org/name@revision``. Nothing here loads weights or runs code: a folder must have safetensors weights, a fast
tokenizer and a question-answering head.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from qa_ray.errors import ModelError
from qa_ray.io.storage import absolute_uri, open_filesystem
from qa_ray.io.storage_errors import explain, is_storage_error
from qa_ray.model.config_checks import check_config, check_weight_types
from qa_ray.model.families import find_family
from qa_ray.model.settings import ModelSettings

SETTINGS_FILE = "qa_ray.json"
GATE_FILE = "gate.parquet"
NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", GATE_FILE)
# An id on the hub, and a branch, a tag, a commit or a reference such as refs/pr/1.
HUB_ID = re.compile(r"([\w-][\w.-]*(?:/[\w.-]+)?)(?:@([\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder that passed the checks."""

    name: str
    folder: str
    settings: ModelSettings
    fingerprint: str  # sha256 over weights, config, tokenizer, settings and gate
    family: str  # model_type of the config.json
    has_head: bool  # for question answering; without one, training starts with a new head

    @property
    def gate(self) -> str | None:
        """The gate in the folder (qa_ray.gate), if it has one."""
        path = Path(self.folder) / GATE_FILE
        return str(path) if path.is_file() else None


def open_checkpoint(name: str, *, needs_head: bool = True) -> Checkpoint:
    """The checkpoint called ``name``, downloaded if it is not on this machine.

    Without ``needs_head`` a checkpoint that was not fine-tuned for question answering is accepted.

    Raises:
        ModelError: no such model, no question-answering head, no tokenizer, only pickled weights, invalid settings, or
            what check_config refuses.
    """
    folder = _folder(name)
    config = _read_json(folder / "config.json", name, "no config.json; give the folder that save_pretrained wrote")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise ModelError(
            f"model {name!r}: {'only pickled weights (' + ', '.join(pickled) + ')' if pickled else 'no weights'} "
            f"in {str(folder)!r}; qa-ray loads only safetensors: convert with model.save_pretrained(folder)"
        )
    check_config(config, folder, name)
    tensors = [key for path in weights for key in _tensor_names(path, name)]
    head = find_family(config["model_type"]).head
    has_head = any(key.startswith(f"{head}.") for key in tensors)
    if needs_head and not has_head:
        raise ModelError(
            f"model {name!r}: no question-answering head ({head}) in {str(folder)!r}, "
            f"architectures {config.get('architectures')}; use a checkpoint fine-tuned for question answering"
        )
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise ModelError(
            f"model {name!r}: no tokenizer in {str(folder)!r}; save it there with tokenizer.save_pretrained(folder)"
        )
    return Checkpoint(name, str(folder), _settings(folder, name), _fingerprint(folder), config["model_type"], has_head)


def _folder(name: str) -> Path:
    if name == "default":
        return Path(str(files("qa_ray"))) / "assets" / "default_model"
    if "://" in name:
        return _download(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not (hub_id := HUB_ID.fullmatch(name)):
        raise ModelError(
            f"model {name!r}: no such folder; give 'default', a folder, a URI or a hub id such as 'org/name' or "
            "'org/name@revision'"
        )
    return _download_from_hub(name, *hub_id.groups())


def _download(uri: str) -> Path:
    """A copy of the folder ``uri`` in the cache, keyed by its files' names, sizes, and ETags or modification times."""
    filesystem, path = open_filesystem(uri)
    with _downloading(uri):
        listing = {str(f).rsplit("/", 1)[-1]: filesystem.info(f) for f in filesystem.ls(path, detail=False)}
    needed = {
        name: info for name, info in listing.items() if any(Path(name).match(pattern) for pattern in NEEDED_FILES)
    }
    state = json.dumps([uri, sorted((n, i["size"], str(i.get("ETag", i.get("mtime")))) for n, i in needed.items())])
    folder = _cache() / hashlib.sha256(state.encode()).hexdigest()[:16]
    if not folder.is_dir():
        partial = _make_scratch(folder.parent, uri)
        try:
            with _downloading(uri):
                for name in needed:
                    filesystem.get_file(f"{path}/{name}", str(partial / name))
            with suppress(OSError):  # another process on this machine was faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _make_scratch(cache: Path, uri: str) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=cache))
    except OSError as error:
        raise ModelError(
            f"model {uri!r}: cannot be cached in {str(cache)!r} ({error.strerror}); set XDG_CACHE_HOME to a writable "
            "folder"
        ) from error


@contextmanager
def _downloading(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise ModelError(f"model {uri!r}: cannot be fetched ({explain(error)}); check the URI") from error


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qa-ray" / "models"


def _download_from_hub(name: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(NEEDED_FILES)))
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model {name!r}: {repository!r} has no revision {revision!r} on the hub; give a branch, a tag or "
            f"a commit, or {repository!r} alone for its newest version"
        ) from error
    except Exception as error:  # a dozen classes: offline, not found, gated, timeouts of two HTTP libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"model {name!r}: no such folder, and it cannot be downloaded from the hub ({reason}); "
            "check the name and the network, or download it once and give the folder"
        ) from error


def _read_json(path: Path, name: str, remedy: str) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"model {name!r}: {str(path.parent)!r} has {remedy}") from error
    except ValueError as error:
        raise ModelError(f"model {name!r}: {str(path)!r} is not JSON ({error}); save the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"model {name!r}: {str(path)!r} is not a JSON object; save the model again")
    return content


def _settings(folder: Path, name: str) -> ModelSettings:
    if not (folder / SETTINGS_FILE).is_file():
        return ModelSettings()
    try:
        return ModelSettings(**_read_json(folder / SETTINGS_FILE, name, "no settings"))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"model {name!r}: {SETTINGS_FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}, "
            f"not {first['input']!r}; fix it, or remove the file to use the defaults"
        ) from error


def _tensor_names(path: Path, name: str) -> list[str]:
    """The names in a safetensors header: 8 bytes of length, then JSON. Checks that the file holds all tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, 100_000_000)))
            stop = max(tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__")
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ModelError(f"model {name!r}: {str(path)!r} is not a safetensors file; copy it again") from error
    if (size := path.stat().st_size) < 8 + length + stop:
        raise ModelError(
            f"model {name!r}: {str(path)!r} is truncated to {size:,} of {8 + length + stop:,} bytes; copy it again"
        )
    types = {key: tensor.get("dtype") for key, tensor in header.items() if key != "__metadata__"}
    check_weight_types(types, str(path), name)
    return list(types)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in NEEDED_FILES):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_anywhere(model: str) -> str:
    """A folder as its absolute path, because workers start in other folders; other names are returned as they are."""
    return absolute_uri(model) if model != "default" and Path(model).expanduser().is_dir() else model
