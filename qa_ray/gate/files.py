"""The file of a fitted gate: on a disk, in object storage, or in a model's folder."""

import posixpath
from typing import Any

from qa_ray.errors import ConfigError
from qa_ray.gate.fitted import FittedGate, read_gate
from qa_ray.gate.selector import WindowSelector
from qa_ray.io.storage import open_filesystem
from qa_ray.io.storage_errors import explain, is_storage_error
from qa_ray.model.checkpoint import GATE_FILE, Checkpoint
from qa_ray.model.settings import WindowsRead
from qa_ray.model.tokenizer import Tokenizer


def gate_bytes(place: str) -> bytes:
    """The content of the gate's file; ``place`` is that file, or a folder with it, as `qa-ray gate` writes it.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        filesystem, path = open_filesystem(place)
        if filesystem.isdir(path):
            path = posixpath.join(path, GATE_FILE)
        content: Any = filesystem.cat_file(path)
        return content
    except FileNotFoundError as error:
        raise ConfigError(
            f"windows.gate={place!r}: no such file, nor a folder with {GATE_FILE}; give the output of `qa-ray gate`"
        ) from error
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise ConfigError(f"windows.gate={place!r}: cannot be read ({explain(error)}); check the path") from error


def open_selector(read: WindowsRead, place: str | None, checkpoint: Checkpoint, tokenizer: Tokenizer) -> WindowSelector:
    """The selector of windows, with the gate at ``place``, or else the model's own if it has one.

    Raises:
        ConfigError: a gate is given and every window is read; a reason of ``open_gate`` or of WindowSelector.
    """
    if read == "all":
        if place is not None:
            raise ConfigError(
                f"windows.gate={place!r}: windows.read is all, so that no gate has anything to choose; say how many "
                "windows to read, such as windows.read={recall: 0.95}, or leave the gate out"
            )
        return WindowSelector(read)
    place = place or checkpoint.gate
    return WindowSelector(read, open_gate(place, tokenizer.fingerprint) if place else None)


def open_gate(place: str, tokenizer: str) -> FittedGate:
    """The gate at ``place``, for a model whose tokenizer has this fingerprint.

    Raises:
        ConfigError: there is none, or fitted.read_gate refuses it.
    """
    return read_gate(gate_bytes(place), place, tokenizer)
