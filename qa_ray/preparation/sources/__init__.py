"""The table of source formats that ``qa-ray prepare`` reads.

A new format is one module with a ``Source``, and one line in ``SOURCES``: see docs/how-to/add-a-source.md. Modules
import heavy libraries inside their reader, because configs are validated against this table.
"""

from collections.abc import Mapping
from typing import Any

from qa_ray.errors import ConfigError
from qa_ray.preparation.sources import dataset, squad, text
from qa_ray.preparation.sources.base import RecordStream, Source
from qa_ray.preparation.sources.files import (
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    list_source,
    missing_source,
    nothing_to_read,
    open_path,
    suffix_of,
)
from qa_ray.wording import shown

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        squad.SOURCE,
        text.SOURCE,
        dataset.SOURCE,  # last, because it matches whatever the others do not
    )
}
"""Source formats by name. Layout "auto" takes the first that matches."""


def open_source(uri: str, layout: str, options: Mapping[str, Any]) -> tuple[str, RecordStream]:
    """The format's name (detected for layout "auto") and its records, which are read lazily.

    Raises:
        ConfigError: an unknown layout, or an option that the format does not have.
        InputError: the source as a whole cannot be used.
    """
    name = _detect(uri) if layout == "auto" else layout
    if name not in SOURCES:
        raise ConfigError(f"layout={shown(name)} is unknown; give one of auto, {', '.join(SOURCES)}")
    given = {option: value for option, value in options.items() if value}
    _check_options(uri, name, given)
    return name, SOURCES[name].read(uri, **given)


def _detect(uri: str) -> str:
    files = list_source(uri)
    suffixes = {suffix_of(file) for file in files.read}
    exists = bool(suffixes) or files.filesystem.exists(open_path(uri))
    for name, source in SOURCES.items():
        if (suffixes or not exists) and source.matches(uri, suffixes):
            return name
    if exists:
        raise nothing_to_read(uri, files.only([]), (*TEXT_SUFFIXES, *TABLE_SUFFIXES))
    raise missing_source(uri)


def _check_options(uri: str, layout: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        layouts = [name for name, source in SOURCES.items() if option in source.options]
        if not layouts:
            known = sorted({option for source in SOURCES.values() for option in source.options})
            raise ConfigError(f"{option}={shown(value)}: no layout has this option; known ones are {', '.join(known)}")
        if layout not in layouts:
            raise ConfigError(
                f"{option}={shown(value)} is for layout {layouts[0]!r}, but {uri!r} is read as {layout!r}; "
                f"leave it out or give layout={layouts[0]!r}"
            )
