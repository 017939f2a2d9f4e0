"""People's sources -> the two tables that every job reads: documents and questions, and what had to be set aside.

A source is read one file at a time and written in small row groups. What stays in memory is that one file, the ids of the
documents, and the ids and texts of the questions, which find duplicates.

Documents are named in the sorted order of their files, so a second run gives the same ids. An id that an earlier document
has taken gets `` (2)``, `` (3)`` … behind it, and so does the title of a SQuAD article before its paragraphs are numbered
from 1; an article without a title is called ``article N``, counted over all files.
"""

import glob
import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray import storage
from qa_ray.errors import ConfigError, InputError, OutputError
from qa_ray.records import DOCUMENTS, QUESTIONS, REJECTS

TABLES = {"documents": DOCUMENTS, "questions": QUESTIONS, "rejects": REJECTS}
GROUP_ROWS = {"documents": 256, "questions": 10_000, "rejects": 10_000}
GROUP_CHARS = {"documents": 1 << 20, "questions": 8 << 20, "rejects": 8 << 20}  # a job holds whole row groups
FILE_CHARS = 128 << 20
MARKER = "_PREPARED.json"  # lists the files that are ours to replace
TEXT_SUFFIXES = (".txt", ".md", ".text")
BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
HUB_COLUMNS = {c: c for c in ("document_id", "question", "answers")} | {"text": "context", "question_id": "id"}
OPTIONS = {"squad": ("join",), "text": ("questions",), "dataset": ("split", "columns")}
PARAGRAPH_BREAK = "\n\n"

Row = dict[str, Any]
Fault = tuple[str, str]  # a reason to count by, a detail to read
Paragraph = tuple[Any, str, list[Row]]  # its own id (or None), its text, its questions


@dataclass(frozen=True)
class Prepared:
    """The layout that was found, how much was written, and where."""

    layout: str
    documents: int
    questions: int
    gold_answers: int
    unanswerable: int  # questions whose gold says that there is no answer
    misplaced_answers: int  # gold answers whose text does not stand at start_char; kept as they are
    rejects: int
    paths: dict[str, str]  # of the tables documents, questions, rejects; those without a row are not written

    def __str__(self) -> str:
        lines = [
            f"read as {self.layout}: {self.documents:,} documents, {self.questions:,} questions, {self.rejects:,} rejects",
            f"gold: {self.gold_answers:,} answers, {self.misplaced_answers:,} misplaced; {self.unanswerable:,} unanswerable",
        ]
        return "\n".join([*lines, *self.paths.values()])


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


def prepare(
    source: str,
    output: str,
    *,
    layout: Literal["auto", "squad", "text", "dataset"] = "auto",
    questions: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    join: bool = False,
) -> Prepared:
    """Writes ``output/documents``, ``output/questions`` and, if anything was set aside, ``output/rejects``.

    squad: each paragraph is a document ``{title}#{number}``, or has an id of its own; ``join``: each article is one.
    text: each file is a document, named by its path without suffix; ``questions`` is a .txt, .jsonl or .parquet.
    dataset: a hub id, file or folder for ``datasets``, its names mapped by ``columns``; equal texts are one document.
    auto: squad if there is a .json file; text if there are text files and no tables; else dataset.

    An earlier prepare's tables are replaced when the new ones are complete; nothing else in ``output`` is touched.

    Raises:
        ConfigError: an option that the layout does not have.
        InputError: the source as a whole cannot be used, or a question id occurs twice in a document.
        OutputError: ``output`` cannot be written, or holds tables that prepare did not write.

    """
    taken = _detect(source) if layout == "auto" else layout
    _check_options(source, taken, {"questions": questions, "split": split, "columns": columns, "join": join})
    earlier = _own_files(output)
    if taken == "squad":
        rows = _read_squad(source, join)
    elif taken == "text":
        rows = _read_text(source, questions)
    else:
        rows = _read_dataset(source, split, columns or {})
    staged = storage.join(output, "_preparing")
    _remove_folder(staged)  # of a run that was killed
    try:
        counts = _write(rows, staged)
        if not counts["documents"]:
            rejects = f"{counts['rejects']} rows would be rejects" if counts["rejects"] else "it is empty"
            raise InputError(f"source {source!r} has no usable document ({rejects}); give another source or layout")
        paths = {name: storage.full_uri(storage.join(output, name)) for name in TABLES if counts[name]}
        prepared = Prepared(layout=taken, **counts, paths=paths)
        _publish(output, staged, earlier, prepared)
    finally:
        _remove_folder(staged)
    return prepared


def _detect(source: str) -> str:
    names = _list(source)
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
            paragraphs = _get(article, "paragraphs", place, list)
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
        content = json.loads(_read(filesystem, file))
    except ValueError as error:  # JSONDecodeError or UnicodeDecodeError: both say where
        raise InputError(f"{file!r} is not JSON: {error}; mend it or leave it out") from error
    if not isinstance(content, dict) or "data" not in content:
        keys = f"the keys {list(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{file!r} is not in SQuAD layout: no 'data', but {keys}; mend it or give layout='dataset'")
    return [(f"{file}: data[{i}]", article) for i, article in enumerate(_get(content, "data", file, list))]


def _paragraph(paragraph: Any, title: str | None, place: str) -> Paragraph:
    text = _get(paragraph, "context", place, str)
    questions = []
    for i, qa in enumerate(_get(paragraph, "qas", place, list)):
        here = f"{place}.qas[{i}]"
        question_id = _get(qa, "id", here, str, int)
        impossible = None if qa.get("is_impossible") is None else bool(qa["is_impossible"])
        record = qa | {"question_id": question_id, "answers": [] if impossible else qa.get("answers")}
        questions.append(_question(record, i + 1, here) | {"title": title, "is_impossible": impossible})
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
    asked, question_fields = _read_questions(questions) if questions else ([], [])
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
                text = _read(filesystem, file).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                detail = f"{file!r}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
                fault = ("invalid_unicode", detail)
            row = {"document_id": document_id, "text": text, "path": relative}
            yield Found(row, bound.pop(document_id, []), fault)
        for document_id, rows in bound.items():
            detail = f"no text file {document_id!r} in {source!r}; ids are paths in it without their suffix"
            yield Found({"document_id": document_id}, rows, ("unknown_document", detail))

    return Source([pa.field("path", pa.string())], question_fields, found())


def _read_questions(uri: str) -> tuple[list[Row], list[pa.Field]]:
    """The questions, and the fields of their extra columns."""
    filesystem, path = storage.open_filesystem(uri)
    suffix = _suffix(path)
    if suffix in (".txt", ".jsonl", ".json"):
        records = _line_records(_read(filesystem, path), uri, is_json=suffix != ".txt")
    elif suffix in (".parquet", ".pq") or filesystem.isdir(path):
        files = storage.parquet_files(uri, "questions")
        records = [r for file in files for r in storage.open_parquet(filesystem, file, "questions").read().to_pylist()]
    else:
        raise InputError(
            f"questions {uri!r}: no .txt, .jsonl or .parquet file and no folder of Parquet; check the path"
        )
    rows = []
    for number, record in enumerate(records, 1):
        question = _question(record, number, f"questions {uri!r}, question {number}")
        rows.append(record | question)
    return rows, _extra_fields([row for row in rows if not _bad_unicode(row)], uri)


def _line_records(content: bytes, uri: str, is_json: bool) -> list[Any]:
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"questions {uri!r}: {error}; save the file as UTF-8") from error
    records = []
    for number, line in enumerate(map(str.strip, lines), 1):
        try:
            if line:
                records.append(json.loads(line) if is_json else {"question": line})
        except ValueError as error:
            raise InputError(f"questions {uri!r}, line {number}: {error}; write one JSON object a line") from error
    return records


def _extra_fields(rows: list[Row], uri: str) -> list[pa.Field]:
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row if name not in QUESTIONS.names):
        try:
            fields.append(pa.field(name, pa.array([row.get(name) for row in rows]).type))
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"questions {uri!r}: column {name!r} has no one type ({error}); use one or drop it"
            ) from error
    return fields


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
            text = _get(ours, "text", place, str, type(None))
            given, digest = ours["document_id"], hashlib.sha256((text or "").encode()).hexdigest()[:16]
            if (given, digest) not in ids:
                ids[given, digest] = _unique(digest if given is None else str(given), taken)
            document = {"document_id": ids[given, digest], "text": text} | {f.name: row[f.name] for f in titles}
            question = {f.name: row[f.name] for f in extra} | _question(ours, number, place)
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
    elif _list(source):
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


def _question(record: Row, number: int, place: str) -> Row:
    """The record's question as records.QUESTIONS has it."""
    text = _get(record, "question", place, str, type(None))
    question_id, document_id = record.get("question_id"), record.get("document_id")
    return {
        "question_id": f"q{number}" if question_id is None else str(question_id),
        "question": text,
        "document_id": None if document_id is None else str(document_id),
        "answers": _gold(record.get("answers"), place),
    }


def _gold(answers: Any, place: str) -> list[Row] | None:
    """Gold from ``[{text, start_char or answer_start}]``, the hub's ``{text: […], answer_start: […]}``, or None."""
    if isinstance(answers, dict):
        texts, starts = (_get(answers, name, f"{place}: answers", list) for name in ("text", "answer_start"))
        if len(starts) != len(texts):
            raise InputError(f"{place}: {len(texts)} answer texts, {len(starts)} answer_start; give one for each")
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if answers is None:
        return None
    gold = []
    for answer in _get({"answers": answers}, "answers", place, list):
        text = _get(answer, "text", f"{place}: answers", str)
        start = answer.get("start_char", answer.get("answer_start"))
        if not isinstance(start, int | None):
            raise InputError(f"{place}: answer_start={start!r} of {text!r} is no whole number; mend or leave it out")
        gold.append({"text": text, "start_char": start})
    return gold


def _get(record: Any, key: str, place: str, *kinds: type) -> Any:
    """``record[key]``, which must be there and of one of these kinds."""
    if isinstance(record, dict) and isinstance(record.get(key, _get), kinds):
        return record[key]
    names = {str: "text", int: "a whole number", list: "a list", type(None): "null"}
    is_there = isinstance(record, dict) and key in record
    fault = f"{key!r} is {record[key]!r:.60}" if is_there else f"there is no {key!r}"
    raise InputError(f"{place}: {fault}, where {' or '.join(names[kind] for kind in kinds)} should be; mend the source")


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


def _list(source: str) -> list[str]:
    """The files at ``source`` (a file, a folder with all below, a glob), sorted; none whose name begins with _ or ."""
    filesystem, path = storage.open_filesystem(source)
    if glob.has_magic(path) and not filesystem.exists(path):
        return sorted(str(file) for file in filesystem.glob(path))
    try:
        if filesystem.isdir(path):
            filesystem.ls(path)  # find() passes over a forbidden folder in silence; this raises
        found = sorted(str(file) for file in filesystem.find(path))
    except PermissionError as error:
        raise InputError(f"no permission to read {source!r}; check its owner or the credentials") from error
    return [file for file in found if not re.search(r"/[_.]", file[len(path) :])]


def _files(source: str, suffixes: Collection[str]) -> tuple[fsspec.AbstractFileSystem, list[str]]:
    filesystem, path = storage.open_filesystem(source)
    if not (found := _list(source)) and not filesystem.exists(path):
        raise _missing(source)
    if files := [file for file in found if _suffix(file) in suffixes]:
        return filesystem, files
    seen = ", ".join(posixpath.basename(file) for file in found[:5]) or "nothing"
    raise InputError(
        f"source {source!r}: no file with the suffix {' or '.join(suffixes)}, only {seen}; give another path or layout"
    )


def _read(filesystem: fsspec.AbstractFileSystem, file: str) -> bytes:
    try:
        return filesystem.read_bytes(file)
    except OSError as error:
        raise InputError(f"{file!r} cannot be read: {error}; check the path, its owner or the credentials") from error


# ---- rows -> tables


def _write(source: Source, folder: str) -> Counter[str]:
    """Writes the tables into ``folder``; the counts of Prepared."""
    extra = {"documents": source.document_fields, "questions": source.question_fields}
    schemas = {name: pa.schema([*schema, *extra.get(name, [])]) for name, schema in TABLES.items()}
    tables = {name: _Table(name, storage.join(folder, name), schema) for name, schema in schemas.items()}
    counts = Counter({"gold_answers": 0, "unanswerable": 0, "misplaced_answers": 0, **dict.fromkeys(TABLES, 0)})
    with ExitStack() as stack:
        for table in tables.values():
            stack.callback(table.close)
        for name, row in _checked(source.found, counts):
            counts[name] += 1
            tables[name].add(row)
    return counts


def _checked(found: Iterator[Found], counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """(table, row) of all that was found; what Parquet cannot hold goes to the rejects. Counts the gold."""
    written: set[str] = set()
    asked: dict[tuple[str | None, str], str] = {}
    for document, questions, fault in found:
        document_id = document["document_id"] if document else None
        if fault := fault or _bad_unicode(document or {}):
            for question in questions or [{}]:
                yield "rejects", _reject(document_id, question.get("question_id"), fault)
            continue
        if document and document_id not in written:
            written.add(document["document_id"])
            yield "documents", document
        for question in questions:
            if fault := _bad_unicode(question):
                yield "rejects", _reject(document_id, question["question_id"], fault)
                continue
            _check_new(asked, document_id, question)
            _count_gold(counts, question["answers"], document)
            yield "questions", question | {"document_id": document_id}


def _count_gold(counts: Counter[str], gold: list[Row] | None, document: Row | None) -> None:
    counts["unanswerable"] += gold == []
    for answer in gold or []:
        counts["gold_answers"] += 1
        if document:
            text, start = document["text"] or "", answer["start_char"]
            counts["misplaced_answers"] += start is None or start < 0 or not text.startswith(answer["text"], start)


def _bad_unicode(row: Row) -> Fault | None:
    for column, value in row.items():
        for text in _texts(value):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                detail = f"{column}: character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
                return "invalid_unicode", f"{detail}; mend the source"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _reject(document_id: str | None, question_id: str | None, fault: Fault) -> Row:
    row = dict(zip(REJECTS.names, (document_id, question_id, "prepare", *fault), strict=True))
    return {name: value and value.encode(errors="backslashreplace").decode() for name, value in row.items()}


def _check_new(asked: dict[tuple[str | None, str], str], document_id: str | None, question: Row) -> None:
    for of in (document_id, None):
        if (key := (of, question["question_id"])) in asked:
            where = f"in document {document_id!r}" if document_id is not None else "among those asked of every document"
            both = f"{asked[key]!r:.80} and {question['question']!r:.80}"
            raise InputError(f"question_id {key[1]!r} occurs twice {where}: {both}; give each its own id or drop one")
    asked[document_id, question["question_id"]] = question["question"]


class _Table:
    """A folder of Parquet parts, written by row groups; there is none before the first row."""

    def __init__(self, name: str, folder: str, schema: pa.Schema):
        self.folder, self.schema = folder, schema
        self.group_rows, self.group_chars = GROUP_ROWS[name], GROUP_CHARS[name]
        self.num_files = self.chars = self.file_chars = 0
        self.rows: list[Row] = []
        self.writer: pq.ParquetWriter | None = None
        self.file: Any = None

    def add(self, row: Row) -> None:
        chars = sum(len(value) for value in row.values() if isinstance(value, str))
        if self.rows and (len(self.rows) == self.group_rows or self.chars + chars > self.group_chars):
            self._write_group()
        self.rows.append(row)
        self.chars += chars

    def close(self) -> None:
        if self.rows:
            self._write_group()
        self._close_file()

    def _write_group(self) -> None:
        with storage.writing(self.folder):
            self.writer = self.writer or self._open()
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.file_chars += self.chars
        self.rows, self.chars = [], 0
        if self.file_chars >= FILE_CHARS:
            self._close_file()

    def _open(self) -> pq.ParquetWriter:
        filesystem, folder = storage.open_filesystem(self.folder)
        filesystem.makedirs(folder, exist_ok=True)
        self.file = filesystem.open(posixpath.join(folder, f"part-{self.num_files:05d}.parquet"), "wb")
        self.num_files, self.file_chars = self.num_files + 1, 0
        return pq.ParquetWriter(self.file, self.schema, compression="zstd")

    def _close_file(self) -> None:
        if self.writer:
            with storage.writing(self.folder):
                self.writer.close()
                self.file.close()
            self.writer = None


# ---- the place of the tables


def _own_files(output: str) -> list[str]:
    """The earlier prepare's files, relative to ``output``; any other file where the tables go is an OutputError."""
    filesystem, root = storage.open_filesystem(output)
    try:
        own = set(json.loads(storage.read_text(storage.join(output, MARKER)) or "{}")["files"])
    except (ValueError, KeyError, TypeError):
        own = set()
    files = [posixpath.relpath(file, root) for name in TABLES for file in filesystem.find(posixpath.join(root, name))]
    if foreign := [file for file in files if file not in own]:
        raise OutputError(
            f"output {output!r} holds {foreign[0]!r}, which prepare did not write ({MARKER} does not list it); "
            "move it away or give another output"
        )
    return files


def _publish(output: str, staged: str, earlier: list[str], prepared: Prepared) -> None:
    """Moves the staged files to their place; killed anywhere, a second prepare still knows all files as its own."""
    filesystem, root = storage.open_filesystem(output)
    _, staged_root = storage.open_filesystem(staged)
    files = [posixpath.relpath(file, staged_root) for file in filesystem.find(staged_root)]
    marker = storage.join(output, MARKER)
    storage.write_text(marker, json.dumps({"files": sorted({*earlier, *files})}))
    with storage.writing(output):
        for file in sorted({*earlier} - {*files}):
            filesystem.rm_file(posixpath.join(root, file))
        for file in files:
            target = posixpath.join(root, file)
            filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
            filesystem.mv(posixpath.join(staged_root, file), target)
    storage.write_text(marker, json.dumps({"files": files, **asdict(prepared)}, indent=2))


def _remove_folder(uri: str) -> None:
    filesystem, path = storage.open_filesystem(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
