"""Datasets of the Hugging Face hub, and local tables, read by the library ``datasets``.

A row is a question with its document's text. Rows with equal text (and equal ``document_id``, if there is one) share
one document, whose id is ``document_id``, or else the first 16 hexadecimal digits of the text's SHA-256.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from typing import Any

from qa_ray.errors import ConfigError, InputError
from qa_ray.io import storage
from qa_ray.preparation.question_rows import checked_value, question_row
from qa_ray.preparation.sources.base import (
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    RecordStream,
    Source,
    SourceRecord,
    files_with_suffix,
    suffix_of,
    unique_name,
)
from qa_ray.schemas import QUESTIONS

BUILDERS = {suffix: "json" if suffix == ".jsonl" else suffix[1:] for suffix in TABLE_SUFFIXES}  # names in `datasets`
HUB_COLUMNS = {name: name for name in ("document_id", "question", "answers")} | {"text": "context", "question_id": "id"}
BATCH_ROWS = 100  # rows may hold long texts


def read(uri: str, *, split: str | None = None, columns: Mapping[str, str] | None = None) -> RecordStream:
    """The rows of a hub id, a file, a folder or a glob; ``columns`` maps our column names to those of the dataset.

    By default the columns are those of SQuAD on the hub. ``split`` is required if the dataset has several.
    """
    columns = columns or {}
    if unknown := [name for name in columns if name not in HUB_COLUMNS]:
        raise ConfigError(f"columns: {unknown[0]!r} is unknown; the names to map are {', '.join(HUB_COLUMNS)}")
    names = HUB_COLUMNS | dict(columns)
    dataset = _load(uri, split)
    schema = dataset.features.arrow_schema.remove_metadata()
    for name in ("text", "question", *columns):
        if names[name] not in schema.names:
            raise InputError(
                f"source {uri!r}: no column {names[name]!r} for {name!r}, only {', '.join(schema.names)}; "
                f"name the right one with columns={{{name!r}: …}}"
            )
    title_fields = [schema.field("title")] if "title" in schema.names else []
    extra_fields = [field for field in schema if field.name not in {*names.values(), *QUESTIONS.names}]

    def records() -> Iterator[SourceRecord]:
        taken_ids, id_by_document = Counter[str](), {}
        batches = dataset.with_format("arrow").iter(batch_size=BATCH_ROWS)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            place = f"source {uri!r}, row {number}"
            record = {name: row.get(column) for name, column in names.items()}
            text = checked_value(record, "text", place, str, type(None))
            own_id, digest = record["document_id"], hashlib.sha256((text or "").encode()).hexdigest()[:16]
            if (own_id, digest) not in id_by_document:
                name = digest if own_id is None else str(own_id)
                id_by_document[own_id, digest] = unique_name(name, taken_ids)
            document = {"document_id": id_by_document[own_id, digest], "text": text}
            document |= {field.name: row[field.name] for field in title_fields}
            question = {field.name: row[field.name] for field in extra_fields} | question_row(record, number, place)
            yield SourceRecord(document, [question])

    return RecordStream(records(), title_fields, extra_fields)


def matches(uri: str, suffixes: Set[str]) -> bool:
    """Any existing file or folder, and what could be a hub id."""
    is_file_name = suffix_of(uri) in (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", uri) and not is_file_name
    return bool(suffixes or is_hub_id)


SOURCE = Source(
    name="dataset",
    description="a dataset of the Hugging Face hub, or local JSON lines, CSV, Parquet or Arrow, a question per row; "
    "detected if no other format is",
    matches=matches,
    read=read,
)


def _load(uri: str, split: str | None) -> Any:
    """One split of a dataset. ``datasets`` 4 and later run no code that comes with a dataset, and open no pickles."""
    import datasets
    from datasets.exceptions import DatasetsError

    arguments: dict[str, Any] = {"path": uri}
    filesystem, path = storage.open_filesystem(uri)
    if storage.is_local(uri) and filesystem.isdir(path):
        arguments = {"path": path}
    elif storage.list_files(uri, "source"):
        _, files = files_with_suffix(uri, BUILDERS)
        uris = [filesystem.unstrip_protocol(file) for file in files]
        arguments = {"path": BUILDERS[suffix_of(files[0])], "data_files": uris}
    try:
        loaded = datasets.load_dataset(split=split, **arguments)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(
            f"source {uri!r} cannot be read as a dataset: {error}; check the path, the hub id and the split"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if len(loaded) > 1:
        names = ", ".join(map(str, loaded))
        raise InputError(f"source {uri!r} has the splits {names}; name one of them with split=…")
    return next(iter(loaded.values()))
