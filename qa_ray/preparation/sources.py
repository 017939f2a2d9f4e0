"""People's sources -> the documents and questions found in them, one document at a time.

A source is read one file at a time, and files in their sorted order, so that a second run gives the same ids. An id
that an earlier document has taken gets `` (2)``, `` (3)`` … behind it, and so does the title of a SQuAD article before
its paragraphs are numbered from 1; an article without a title is called ``article N``, counted over all files.
"""

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from qa_ray.errors import ConfigError, InputError
from qa_ray.io import storage
from qa_ray.preparation.question_rows import Fault, Row, question_row, read_questions, value_of
from qa_ray.schemas import QUESTIONS

TEXT_SUFFIXES = (".txt", ".md", ".text")
BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
HUB_COLUMNS = {c: c for c in ("document_id", "question", "answers")} | {"text": "context", "question_id": "id"}
OPTIONS = {"squad": ("join",), "text": ("questions",), "dataset": ("split", "columns")}
PARAGRAPH_BREAK = "\n\n"

Paragraph = tuple[Any, str, list[Row]]  # its own id (or None), its text, its questions


class Found(NamedTuple):
    """A document and questions about it; without one they are asked of every document. A fault sets all of it aside."""

    document: Row | None
    questions: list[Row]
    fault: Fault | None = None


class Source(NamedTuple):
    """The extra columns of both tables, and the rows as they are read."""

    document_fields: list[pa.Field]
    question_fields: list[pa.Field]
    found: Iterator[Found]


def open_source(
    uri: str, layout: str, *, questions: str | None, split: str | None, columns: Mapping[str, str] | None, join: bool
) -> tuple[str, Source]:
    """The layout (found by what is there for ``auto``) and the rows, which are read as they are taken.

    Raises:
        ConfigError: an option that the layout does not have.
        InputError: the source as a whole cannot be used.

    """
    taken = _detect(uri) if layout == "auto" else layout
    _check_options(uri, taken, {"questions": questions, "split": split, "columns": columns, "join": join})
    if taken == "squad":
        return taken, _read_squad(uri, join)
    if taken == "text":
        return taken, _read_text(uri, questions)
    return taken, _read_dataset(uri, split, columns or {})


def _detect(source: str) -> str:
    names = storage.list_files(source, "source")
    suffixes = {_suffix(name) for name in names}
    if ".json" in suffixes:
        return "squad"
    if suffixes & {*TEXT_SUFFIXES} and not suffixes & {*BUILDERS}:
        return "text"
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", source) and _suffix(source) not in {*TEXT_SUFFIXES, *BUILDERS}
    if names or is_hub_id:
        return "dataset"
    raise _missing(source)


def _check_options(source: str, layout: str, options: Mapping[str, Any]) -> None:
    if layout not in OPTIONS:
        raise ConfigError(f"layout={layout!r} is unknown; give one of auto, {', '.join(OPTIONS)}")
    for name, value in options.items():
        if value and name not in OPTIONS[layout]:
            home = next(home for home, names in OPTIONS.items() if name in names)
            raise ConfigError(
                f"{name}={value!r} is for layout {home!r}, and {source!r} is read as {layout!r}; "
                f"leave it out or give layout={home!r}"
            )


# ---- SQuAD's JSON


def _read_squad(source: str, join: bool) -> Source:
    filesystem, files = _files(source, [".json"])

    def found() -> Iterator[Found]:
        titles, ids = Counter[str](), Counter[str]()
        articles = (each for file in files for each in _articles(filesystem, file))
        for number, (place, article) in enumerate(articles, 1):
            paragraphs = value_of(article, "paragraphs", place, list)
            title = None if article.get("title") is None else str(article["title"])
            name = _unique(title or f"article {number}", titles)
            parts = [_paragraph(part, title, f"{place}.paragraphs[{i}]") for i, part in enumerate(paragraphs)]
            for i, (own_id, text, questions) in enumerate([_joined(name, parts)] if join else parts, 1):
                document_id = _unique(f"{name}#{i}" if own_id is None else str(own_id), ids)
                yield Found({"document_id": document_id, "text": text, "title": title}, questions)

    title = pa.field("title", pa.string())
    return Source([title], [title, pa.field("is_impossible", pa.bool_())], found())


def _articles(filesystem: fsspec.AbstractFileSystem, file: str) -> list[tuple[str, Any]]:
    """The articles of a file, each with its place for messages."""
    try:
        content = json.loads(storage.read_bytes(filesystem, file))
    except ValueError as error:  # JSONDecodeError or UnicodeDecodeError: both say where
        raise InputError(f"{file!r} is not JSON: {error}; mend it or leave it out") from error
    if not isinstance(content, dict) or "data" not in content:
        keys = f"the keys {list(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{file!r} is not in SQuAD layout: no 'data', but {keys}; mend it or give layout='dataset'")
    return [(f"{file}: data[{i}]", article) for i, article in enumerate(value_of(content, "data", file, list))]


def _paragraph(paragraph: Any, title: str | None, place: str) -> Paragraph:
    text = value_of(paragraph, "context", place, str)
    questions = []
    for i, qa in enumerate(value_of(paragraph, "qas", place, list)):
        here = f"{place}.qas[{i}]"
        question_id = value_of(qa, "id", here, str, int)
        impossible = None if qa.get("is_impossible") is None else bool(qa["is_impossible"])
        record = qa | {"question_id": question_id, "answers": [] if impossible else qa.get("answers")}
        questions.append(question_row(record, i + 1, here) | {"title": title, "is_impossible": impossible})
    return paragraph.get("document_id", paragraph.get("id")), text, questions


def _joined(name: str, parts: list[Paragraph]) -> Paragraph:
    """The paragraphs as one, the gold moved along with its text."""
    offset = 0
    for _, text, questions in parts:
        for answer in (answer for question in questions for answer in question["answers"] or []):
            answer["start_char"] = None if answer["start_char"] is None else answer["start_char"] + offset
        offset += len(text) + len(PARAGRAPH_BREAK)
    return name, PARAGRAPH_BREAK.join(text for _, text, _ in parts), [q for *_, questions in parts for q in questions]


# ---- text files


def _read_text(source: str, questions: str | None) -> Source:
    filesystem, files = _files(source, TEXT_SUFFIXES)
    _, path = storage.open_filesystem(source)
    folder = path if filesystem.isdir(path) else posixpath.dirname(re.split(r"[*?\[]", path)[0])
    questions_path = storage.open_filesystem(questions)[1] if questions else None
    asked, question_fields = read_questions(questions) if questions else ([], [])
    bound: dict[str | None, list[Row]] = {}
    for question in asked:
        bound.setdefault(question["document_id"], []).append(question)

    def found() -> Iterator[Found]:
        ids = Counter[str]()
        yield Found(None, bound.pop(None, []))
        for file in files:
            if file == questions_path:
                continue
            relative = posixpath.relpath(file, folder)
            document_id, text, fault = _unique(posixpath.splitext(relative)[0], ids), None, None
            try:
                text = storage.read_bytes(filesystem, file).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                detail = f"{file!r}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
                fault = ("invalid_unicode", detail)
            row = {"document_id": document_id, "text": text, "path": relative}
            yield Found(row, bound.pop(document_id, []), fault)
        for document_id, rows in bound.items():
            detail = f"no text file {document_id!r} in {source!r}; ids are paths in it without their suffix"
            yield Found({"document_id": document_id}, rows, ("unknown_document", detail))

    return Source([pa.field("path", pa.string())], question_fields, found())


# ---- datasets


def _read_dataset(source: str, split: str | None, columns: Mapping[str, str]) -> Source:
    if unknown := [name for name in columns if name not in HUB_COLUMNS]:
        raise ConfigError(f"columns: {unknown[0]!r} is none of our names; map some of {', '.join(HUB_COLUMNS)}")
    names = HUB_COLUMNS | dict(columns)
    loaded = _load(source, split)
    schema = loaded.features.arrow_schema.remove_metadata()
    for ours in ("text", "question", *columns):
        if names[ours] not in schema.names:
            raise InputError(
                f"source {source!r}: no column {names[ours]!r} for {ours!r}, only {', '.join(schema.names)}; "
                f"name the right one with columns={{{ours!r}: …}}"
            )
    titles = [schema.field("title")] if "title" in schema.names else []
    extra = [field for field in schema if field.name not in {*names.values(), *QUESTIONS.names}]

    def found() -> Iterator[Found]:
        taken, ids = Counter[str](), {}
        tables = loaded.with_format("arrow").iter(batch_size=100)  # rows with long contexts
        for number, row in enumerate((row for table in tables for row in table.to_pylist()), 1):
            place = f"source {source!r}, row {number}"
            ours = {name: row.get(column) for name, column in names.items()}
            text = value_of(ours, "text", place, str, type(None))
            given, digest = ours["document_id"], hashlib.sha256((text or "").encode()).hexdigest()[:16]
            if (given, digest) not in ids:
                ids[given, digest] = _unique(digest if given is None else str(given), taken)
            document = {"document_id": ids[given, digest], "text": text} | {f.name: row[f.name] for f in titles}
            question = {f.name: row[f.name] for f in extra} | question_row(ours, number, place)
            yield Found(document, [question])

    return Source(titles, extra, found())


def _load(source: str, split: str | None) -> Any:
    """The one split of a data set, by ``datasets``; which runs no code and opens no pickle that comes with it."""
    import datasets
    from datasets.exceptions import DatasetsError

    where: dict[str, Any] = {"path": source}
    filesystem, path = storage.open_filesystem(source)
    if storage.is_local(source) and filesystem.isdir(path):
        where = {"path": path}
    elif storage.list_files(source, "source"):
        _, files = _files(source, BUILDERS)
        where = {"path": BUILDERS[_suffix(files[0])], "data_files": [filesystem.unstrip_protocol(f) for f in files]}
    try:
        loaded = datasets.load_dataset(split=split, **where)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(
            f"source {source!r} cannot be read as a data set: {error}; check the path, the hub id and the split"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if len(loaded) > 1:
        raise InputError(
            f"source {source!r} has the splits {', '.join(map(str, loaded))}; name one of them with split=…"
        )
    return next(iter(loaded.values()))


# ---- what the readers share


def _unique(name: str, taken: Counter) -> str:
    """``name``, or ``name (2)``, ``name (3)``, … if it is taken; and takes it."""
    free = name
    while taken[free]:
        taken[name] += 1
        free = f"{name} ({taken[name]})"
    taken[free] = 1
    return free


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _missing(uri: str) -> InputError:
    return InputError(f"no such file or folder: {uri!r}; check the path (a data set's hub id is 'owner/name')")


def _files(source: str, suffixes: Collection[str]) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    filesystem, path = storage.open_filesystem(source)
    if not (found := storage.list_files(source, "source")) and not filesystem.exists(path):
        raise _missing(source)
    if files := [file for file in found if _suffix(file) in suffixes]:
        return filesystem, files
    seen = ", ".join(posixpath.basename(file) for file in found[:5]) or "nothing"
    raise InputError(
        f"source {source!r}: no file with the suffix {' or '.join(suffixes)}, only {seen}; give another path or layout"
    )
