"""A YAML file and ``key=value`` settings -> a checked config, or an error with the value, the place and the remedy."""

import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from qa_ray.config.sections import JobConfig, Section, StorageSettings
from qa_ray.config.yaml_text import MAX_DEPTH, read_word, read_yaml, takes_text, type_of_setting
from qa_ray.errors import ConfigError
from qa_ray.io.storage import open_filesystem
from qa_ray.wording import shortened, shown

MAX_ERRORS = 3  # reported at once
MAX_SHOWN_CHARS = 60  # of a key or a value
COMMAND_LINE = "command line"

Config = TypeVar("Config", bound=JobConfig)


def read_config(config_class: type[Config], path: str, settings: Sequence[str] = ()) -> Config:
    """The config in the YAML file ``path``, a local path or a URI.

    ``settings`` are ``key=value`` overrides such as ``windows.max_tokens=4096``; their values are YAML, or plain text
    where a setting wants text. Keys with a dot may also stand in the file.

    Raises:
        ConfigError: no such file, not YAML, an unknown or a missing key, a wrong value.
    """
    values = _read_yaml(config_class, path)
    for key in [key for key in values if "." in key]:
        value = values.pop(key)
        section, name = _section_of(values, key, path)
        if name in section:
            raise ConfigError(f"{path}: {shown(key)} is set twice, keep one")
        section[name] = value
    overridden = _override_all(config_class, values, settings)
    return check_config(config_class, values, path, overridden)


def read_storage(settings: Sequence[str]) -> StorageSettings:
    """The section ``storage`` from ``key=value`` settings alone, such as ``storage.region=eu-central-1``.

    Raises:
        ConfigError: as ``read_config``.
    """
    values: dict[str, Any] = {}
    _override_all(_OnlyStorage, values, settings)
    return check_config(_OnlyStorage, values, COMMAND_LINE).storage


class _OnlyStorage(JobConfig):
    storage: StorageSettings = StorageSettings()


def _override_all(config_class: type[JobConfig], values: dict[str, Any], settings: Sequence[str]) -> list[str]:
    """Writes the settings into ``values``; returns their keys."""
    keys = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{COMMAND_LINE}: {shown(setting)}: not a setting; write key=value, for example windows.max_tokens=4096"
            )
        if re.search("[\ud800-\udfff]", setting):  # how Python takes bytes that are not UTF-8
            raise ConfigError(
                f"{COMMAND_LINE}: {shown(setting)} has bytes that are not UTF-8; use names and a terminal in UTF-8"
            )
        section, name = _section_of(values, key, COMMAND_LINE)
        section[name] = _parse(key, text, type_of_setting(config_class, key))
        keys.append(key)
    return keys


def check_config(
    config_class: type[Config], values: dict[str, Any], place: str, overridden: Collection[str] = ()
) -> Config:
    """``values`` as a checked config; errors name ``place``, or the command line for the keys that it has overridden.

    Raises:
        ConfigError: an unknown or a missing key, a wrong value; the first MAX_ERRORS of them.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults: dict[str, list[str]] = {place: [], COMMAND_LINE: []}
        for fault in error.errors()[:MAX_ERRORS]:
            key = _key_of(fault)
            is_overridden = any(_is_within(key, other) or _is_within(other, key) for other in overridden)
            faults[COMMAND_LINE if is_overridden else place].append(_explain(config_class, fault))
        raise ConfigError("; ".join(f"{at}: {'; '.join(found)}" for at, found in faults.items() if found)) from error


def _is_within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


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
        raise ConfigError(
            f"config {path!r}: not YAML ({_reason(error)}{_position(error)}); fix that line: text that begins with one "
            "of @`*&!%[{ or has ': ' in it needs quotes, such as documents: '@daily'"
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
        setting = f"{key}={text}"
        can_be_quoted = (wanted is None or takes_text(wanted)) and _printable(setting) == setting
        remedy = f"; quote it: {_quoted(key, text)}" if can_be_quoted else ""
        raise ConfigError(
            f"{COMMAND_LINE}: {shown(setting)}: the value is not YAML ({_reason(error)}){remedy}"
        ) from error


def _reason(error: yaml.YAMLError) -> str:
    return shortened(str(getattr(error, "problem", None) or error).splitlines()[0], 2 * MAX_SHOWN_CHARS)


def _position(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"; character {error.position + 1}"
    mark = getattr(error, "problem_mark", None)
    return f"; line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _quoted(key: str, text: str) -> str:
    """The setting as it is written in a shell, with ``text`` as text for YAML."""
    in_quotes = text.strip().replace("'", "''")
    return f"{key}=\"'{in_quotes}'\""


def _section_of(values: dict[str, Any], key: str, place: str) -> tuple[dict[str, Any], str]:
    """The section of ``values`` in which ``key`` is, made if it is missing, and the key's name in it."""
    *sections, last = key.split(".")
    if len(sections) > MAX_DEPTH:
        raise ConfigError(
            f"{place}: {shown(key)} is an unknown setting, in more than {MAX_DEPTH} sections; write section.name=value"
        )
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        if not isinstance(inner := values[section], dict):
            raise ConfigError(
                f"{place}: {_printable(key)}: {shown(section)} is a value ({shown(inner)}), not a section with "
                "settings of its own"
            )
        values = inner
    return values, last


def _key_of(fault: Any) -> str:
    return ".".join(str(part) for part in fault["loc"])


def _printable(key: str) -> str:
    """The key as it is, unless it is long or has characters that cannot be seen."""
    return key if key.isprintable() and len(key) <= MAX_SHOWN_CHARS else shown(key)


def _explain(config_class: type[Section], fault: Any) -> str:
    """One error of pydantic, as ``key: what is expected, not VALUE``."""
    key = _key_of(fault)
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {shown(key)}; {_suggest(key, list(known_keys(config_class)))}"
    if fault["type"] == "missing":
        return f"the setting {key!r} is missing; add it to the file or as {key}=…"
    key = _printable(key)
    if fault["type"] == "secret":
        return f"{key}: {fault['msg']}"
    if fault["input"] is None:
        is_text = fault["type"] == "string_type"
        return f"{key}: {fault['msg']}, not null" + (f"; for that word write {_quoted(key, 'null')}" if is_text else "")
    return f"{key}: {fault['msg']}, not {shown(fault['input'])}"


def _suggest(key: str, known: list[str]) -> str:
    """The setting or section of the most similar name, first of those beside it; else the names beside it."""
    section, _, name = key.rpartition(".")
    everywhere = {each.rpartition(".")[2]: each for each in reversed(known)}
    beside = {each.rpartition(".")[2]: each for each in known if each.startswith(f"{section}.")}
    beside = beside or {each.partition(".")[0]: each.partition(".")[0] for each in known}
    for names in (beside, everywhere):
        if close := get_close_matches(name, names, n=1):
            return f"did you mean {names[close[0]]!r}?"
    return f"known are {', '.join(beside)}"


def known_keys(config_class: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a config, such as ``windows.max_tokens``."""
    for name, field in config_class.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from known_keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
