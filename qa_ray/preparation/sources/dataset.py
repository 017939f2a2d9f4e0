"""Datasets of the Hugging Face hub, read by the library ``datasets``, and table files.

A row is a question with its document's text. Rows with equal text (and equal ``document_id``, if there is one) share
one document, whose id is ``document_id``, or else the first 16 hexadecimal digits of the text's SHA-256.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from functools import partial

import pyarrow as pa

from qa_ray.errors import ConfigError, InputError
from qa_ray.preparation.question_rows import question_row
from qa_ray.preparation.sources.base import RecordStream, Source, SourceRecord, unique_name
from qa_ray.preparation.sources.files import (
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    SourceFiles,
    list_source,
    open_path,
    source_files,
    suffix_of,
)
from qa_ray.preparation.sources.tables import BATCH_ROWS, arrow_rows, table_fields, table_rows
from qa_ray.preparation.values import Row, identifier, text_or_none
from qa_ray.schemas import QUESTIONS
from qa_ray.wording import shown

HUB_COLUMNS = {name: name for name in ("document_id", "question", "answers")} | {"text": "context", "question_id": "id"}
SPLITS: dict[str, str] = dict.fromkeys(("train", "training"), "train")
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
METADATA_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # of save_to_disk


def read(
    uri: str, *, split: str | None = None, columns: Mapping[str, str] | None = None, encoding: str | None = None
) -> RecordStream:
    """The rows of a hub id, a file, a folder or a glob; ``columns`` maps our column names to those of the dataset.

    By default the columns are those of SQuAD on the hub. ``split`` is required if the dataset has several.
    """
    columns = columns or {}
    if unknown := [name for name in columns if name not in HUB_COLUMNS]:
        raise ConfigError(f"columns: {shown(unknown[0])} is unknown; the names to map are {', '.join(HUB_COLUMNS)}")
    names = HUB_COLUMNS | dict(columns)
    own_columns = {*names.values(), *QUESTIONS.names, "is_impossible"}
    listed = list_source(uri)
    if listed.read or listed.not_read or listed.filesystem.exists(open_path(uri)):
        files = _files_of_split(uri, split, source_files(uri, TABLE_SUFFIXES))
        check = partial(_check_columns, names=names, columns=columns, files=files)
        fields, rows = table_fields(files, encoding, own_columns, check), table_rows(files, encoding)
    else:
        files, (fields, rows) = None, _load(uri, split)
    _check_columns(uri, [field.name for field in fields], names, columns, files)
    title_fields = [field for field in fields if field.name == "title"]
    extra_fields = [field for field in fields if field.name not in own_columns]
    if any(field.name == "is_impossible" for field in fields):
        extra_fields.append(pa.field("is_impossible", pa.bool_()))

    def records() -> Iterator[SourceRecord]:
        taken_ids, id_by_document = Counter[str](), {}
        for number, (place, row) in enumerate(rows, 1):
            record = {name: row.get(column) for name, column in names.items()}
            record |= {name: row[name] for name in ("is_impossible",) if name in row}
            text = text_or_none({names["text"]: record["text"]}, names["text"], place)
            own_id = identifier(row, names["document_id"], place)
            digest = hashlib.sha256((text or "").encode(errors="surrogatepass")).hexdigest()[:16]
            if (own_id, digest) not in id_by_document:
                id_by_document[own_id, digest] = unique_name(digest if own_id is None else own_id, taken_ids)
            document = {"document_id": id_by_document[own_id, digest], "text": text}
            document |= {field.name: row.get(field.name) for field in title_fields}
            question = {field.name: row.get(field.name) for field in extra_fields}
            yield SourceRecord(document, [question | question_row(record, number, place)])

    return RecordStream(records(), title_fields, extra_fields, files=files)


def matches(uri: str, suffixes: Set[str]) -> bool:
    """Table files, and what could be a hub id."""
    is_file_name = suffix_of(uri) in (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", uri) and not is_file_name
    return bool(suffixes & {*TABLE_SUFFIXES} or (is_hub_id and not suffixes))


SOURCE = Source(
    name="dataset",
    description="a dataset of the Hugging Face hub, or local JSON lines, JSON, CSV, TSV, Parquet or Arrow, a question "
    "per row; detected if no other format is",
    matches=matches,
    read=read,
)


def _check_columns(
    place: str, existing: list[str], names: Mapping[str, str], columns: Mapping[str, str], files: SourceFiles | None
) -> None:
    is_beside_text = files is not None and any(suffix_of(file) in TEXT_SUFFIXES for file in files.not_read)
    other = ", or give layout='text' for the text files beside it" if is_beside_text else ""
    other += ", or give layout='squad'" if "paragraphs" in existing else ""
    for name in ("text", "question", *columns):
        if names[name] not in existing:
            raise InputError(
                f"source {place!r}: no column {names[name]!r} for {name!r}, only {', '.join(existing) or 'none'}; "
                f"name the right one with columns={{{name!r}: …}}{other}"
            )


def _files_of_split(uri: str, split: str | None, files: SourceFiles) -> SourceFiles:
    """The files whose path has a word for the split; all of them if none has such a word.

    Raises:
        InputError: there are several splits and none is given, or there is no such split.
    """
    tables = [file for file in files.read if posixpath.basename(file) not in METADATA_FILES]
    files = files.only(tables or files.read)
    by_split: dict[str | None, list[str]] = {}
    for file in files.read:
        by_split.setdefault(_split_of(posixpath.relpath(file, files.root)), []).append(file)
    names = ", ".join(name for name in by_split if name)
    if split is None and len(by_split.keys() - {None}) > 1:
        others = f" and {len(by_split[None]):,} files of none" if None in by_split else ""
        raise InputError(f"source {uri!r} has the splits {names}{others}; name one of them with split=…")
    if split is None or (by_split.keys() == {None} and split == "train"):  # as `datasets` calls what has no splits
        return files
    if SPLITS.get(split) in by_split:  # dev for validation
        split = SPLITS[split]
    if split not in by_split:
        remedy = f"only {names}; check it" if names else "as no file name has a word for a split; leave split out"
        raise InputError(f"source {uri!r} has no split {split!r}, {remedy}")
    of_others = {file for name, paths in by_split.items() if name not in (split, None) for file in paths}
    chosen = files.only(by_split[split])
    return chosen._replace(not_read=[file for file in chosen.not_read if file not in of_others])


def _split_of(path: str) -> str | None:
    """The split that a path names, as in ``data/train-00000-of-00001.parquet`` or ``dev.jsonl``."""
    words = re.findall("[a-z]+", path.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _load(uri: str, split: str | None) -> tuple[list[pa.Field], Iterator[tuple[str, Row]]]:
    """One split of a dataset of the hub: the columns, and the rows with their places.

    ``datasets`` 4 and later run no code that comes with a dataset, and open no pickles.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        loaded = datasets.load_dataset(uri, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise InputError(
            f"source {uri!r} cannot be read as a dataset: {error}{cause}; check the path, the hub id and the split"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) > 1:
            names = ", ".join(map(str, loaded))
            raise InputError(f"source {uri!r} has the splits {names}; name one of them with split=…")
        loaded = next(iter(loaded.values()))
    batches = iter(loaded.with_format("arrow").iter(batch_size=BATCH_ROWS))
    return list(loaded.features.arrow_schema.remove_metadata()), arrow_rows(batches, f"source {uri!r}")
