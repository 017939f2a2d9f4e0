"""A YAML file and ``key=value`` settings -> a checked config, or an error with the value, the place and the remedy."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from qa_ray.config.sections import JobConfig, Section, StorageSettings
from qa_ray.config.yaml_text import read_word, read_yaml, takes_text, type_of_setting
from qa_ray.errors import ConfigError
from qa_ray.io.storage import open_filesystem

MAX_ERRORS = 3  # reported at once

Config = TypeVar("Config", bound=JobConfig)


def read_config(config_class: type[Config], path: str, settings: Sequence[str] = ()) -> Config:
    """The config in the YAML file ``path``, a local path or a URI.

    ``settings`` are ``key=value`` overrides such as ``windows.max_tokens=4096``; their values are YAML, or plain text
    where a setting wants text. Keys with a dot may also stand in the file.

    Raises:
        ConfigError: no such file, not YAML, an unknown or a missing key, a wrong value.
    """
    values = _read_yaml(config_class, path)
    for key in [key for key in values if isinstance(key, str) and "." in key]:
        _override(values, key, values.pop(key))
    _override_all(config_class, values, settings)
    return check_config(config_class, values, path)


def read_storage(settings: Sequence[str]) -> StorageSettings:
    """The section ``storage`` from ``key=value`` settings alone, such as ``storage.region=eu-central-1``.

    Raises:
        ConfigError: as ``read_config``.
    """
    values: dict[str, Any] = {}
    _override_all(_OnlyStorage, values, settings)
    return check_config(_OnlyStorage, values, "settings").storage


class _OnlyStorage(JobConfig):
    storage: StorageSettings = StorageSettings()


def _override_all(config_class: type[JobConfig], values: dict[str, Any], settings: Sequence[str]) -> None:
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"{setting!r}: not a setting; write key=value, for example windows.max_tokens=4096")
        _override(values, key, _parse(key, text, type_of_setting(config_class, key)))


def check_config(config_class: type[Config], values: dict[str, Any], place: str) -> Config:
    """``values`` as a checked config; ``place`` is named in errors.

    Raises:
        ConfigError: an unknown or a missing key, a wrong value; the first MAX_ERRORS of them.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults = [_explain(config_class, fault) for fault in error.errors()[:MAX_ERRORS]]
        raise ConfigError(f"{place}: {'; '.join(faults)}") from error


def _read_yaml(config_class: type[JobConfig], path: str) -> dict[str, Any]:
    try:
        filesystem, inside = open_filesystem(path)
        values = read_yaml(str(filesystem.read_text(inside, encoding="utf-8")), config_class)
    except FileNotFoundError as error:
        raise ConfigError(
            f"config {path!r}: no such file; `qa-ray init {config_class.verb} > {config_class.verb}.yaml` writes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path!r}: cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"config {path!r}: not YAML ({reason}); fix that line: text that begins with one of @`*&!%[{{ or has ': ' "
            "in it needs quotes, such as documents: '@daily'"
        ) from error
    if not isinstance(values, dict):
        content = "nothing" if values is None else type(values).__name__
        raise ConfigError(
            f"config {path!r}: contains {content}, not 'key: value' lines; "
            f"`qa-ray init {config_class.verb}` prints a complete one"
        )
    return values


def _parse(key: str, text: str, wanted: Any) -> Any:
    try:
        return read_word(text, wanted)
    except yaml.YAMLError as error:
        remedy = f"; quote it: {_quoted(key, text)}" if wanted is None or takes_text(wanted) else ""
        raise ConfigError(f"{f'{key}={text}'!r}: the value is not YAML ({_reason(error)}){remedy}") from error


def _reason(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _quoted(key: str, text: str) -> str:
    """The setting as it is written in a shell, with ``text`` as text for YAML."""
    in_quotes = text.strip().replace("'", "''")
    return f"{key}=\"'{in_quotes}'\""


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        if not isinstance(inner := values[section], dict):
            raise ConfigError(f"{key}: {section!r} is a value ({inner!r}), not a section with settings of its own")
        values = inner
    values[last] = value


def _explain(config_class: type[Section], fault: Any) -> str:
    """One error of pydantic, as ``key: what is expected, not VALUE``."""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; {_suggest(key, list(known_keys(config_class)))}"
    if fault["type"] == "missing":
        return f"the setting {key!r} is missing; add it to the file or as {key}=…"
    if fault["type"] == "secret":
        return f"{key}: {fault['msg']}"
    if fault["input"] is None:
        is_text = fault["type"] == "string_type"
        return f"{key}: {fault['msg']}, not null" + (f"; for that word write {_quoted(key, 'null')}" if is_text else "")
    return f"{key}: {fault['msg']}, not {fault['input']!r}"


def _suggest(key: str, known: list[str]) -> str:
    """The key or section with the most similar spelling, else one with that last part, else all keys."""
    sections = dict.fromkeys(name.split(".")[0] for name in known)
    close = get_close_matches(key, [*known, *sections], n=1)
    close = close or [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def known_keys(config_class: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a config, such as ``windows.max_tokens``."""
    for name, field in config_class.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from known_keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
