"""People's sources -> the two tables that every job reads: documents and questions, and what had to be set aside.

A source is read one file at a time and written in small row groups. What stays in memory is that one file, the ids of
the documents, and the ids and texts of the questions, which find duplicates.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa

from qa_ray.errors import InputError, OutputError
from qa_ray.io import storage
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.preparation.question_rows import Fault, Row, invalid_unicode
from qa_ray.preparation.sources import Found, Source, open_source
from qa_ray.schemas import DOCUMENTS, QUESTIONS, REJECTS

TABLES = {"documents": DOCUMENTS, "questions": QUESTIONS, "rejects": REJECTS}
GROUP_ROWS = {"documents": 256, "questions": 10_000, "rejects": 10_000}
GROUP_CHARS = {"documents": 1 << 20, "questions": 8 << 20, "rejects": 8 << 20}  # a job holds whole row groups
FILE_CHARS = 128 << 20
MARKER = "_PREPARED.json"  # lists the files that are ours to replace


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
        rows = f"{self.documents:,} documents, {self.questions:,} questions, {self.rejects:,} rejects"
        gold = f"{self.gold_answers:,} answers, {self.misplaced_answers:,} of them misplaced"
        lines = [f"read as {self.layout}: {rows}", f"gold: {gold}; {self.unanswerable:,} questions unanswerable"]
        return "\n".join([*lines, *self.paths.values()])


def prepare(
    source: str,
    output: str,
    *,
    layout: Literal["auto", "squad", "text", "dataset"] = "auto",
    questions: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    join: bool = False,
    prefix: str = "",
) -> Prepared:
    """Writes ``output/documents``, ``output/questions`` and, if anything was set aside, ``output/rejects``.

    squad: each paragraph is a document ``{title}#{number}``, or has an id of its own; ``join``: each article is one.
    text: each file is a document, named by its path without suffix; ``questions`` is a .txt, .jsonl or .parquet.
    dataset: a hub id, file or folder for ``datasets``, its names mapped by ``columns``; equal texts are one document.
    auto: squad if there is a .json file; text if there are text files and no tables; else dataset.

    ``prefix`` is put before the documents' ids.

    An earlier prepare's tables are replaced when the new ones are complete; nothing else in ``output`` is touched.

    Raises:
        ConfigError: an option that the layout does not have.
        InputError: the source as a whole cannot be used, or a question id occurs twice in a document.
        OutputError: ``output`` cannot be written, or holds tables that prepare did not write.

    """
    earlier = _own_files(output)
    taken, rows = open_source(source, layout, questions=questions, split=split, columns=columns, join=join)
    staged = storage.join(output, "_preparing")
    storage.remove_folder(staged)  # of a run that was killed
    try:
        counts = _write(rows._replace(found=_prefixed(rows.found, prefix)), staged)
        if not counts["documents"]:
            rejects = f"{counts['rejects']} rows would be rejects" if counts["rejects"] else "it is empty"
            raise InputError(f"source {source!r} has no usable document ({rejects}); give another source or layout")
        paths = {name: storage.absolute_uri(storage.join(output, name)) for name in TABLES if counts[name]}
        prepared = Prepared(layout=taken, **counts, paths=paths)
        _publish(output, staged, earlier, prepared)
    finally:
        storage.remove_folder(staged)
    return prepared


# ---- rows -> tables


def _write(source: Source, folder: str) -> Counter[str]:
    """Writes the tables into ``folder``; the counts of Prepared."""
    extra = {"documents": source.document_fields, "questions": source.question_fields}
    counts = Counter({"gold_answers": 0, "unanswerable": 0, "misplaced_answers": 0, **dict.fromkeys(TABLES, 0)})
    tables = {
        name: ParquetFolderWriter(
            storage.join(folder, name),
            pa.schema([*schema, *extra.get(name, [])]),
            max_group_rows=GROUP_ROWS[name],
            max_group_chars=GROUP_CHARS[name],
            max_file_chars=FILE_CHARS,
        )
        for name, schema in TABLES.items()
    }
    with ExitStack() as stack:
        for table in tables.values():
            stack.enter_context(closing(table))
        for name, row in _checked(source.found, counts):
            counts[name] += 1
            tables[name].add(row)
    return counts


def _prefixed(found: Iterator[Found], prefix: str) -> Iterator[Found]:
    for row in found:
        if row.document and prefix:
            row = row._replace(document=row.document | {"document_id": prefix + row.document["document_id"]})
        yield row


def _checked(found: Iterator[Found], counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """(table, row) of all that was found; what Parquet cannot hold goes to the rejects. Counts the gold."""
    written: set[str] = set()
    asked: dict[tuple[str | None, str], str] = {}
    for document, questions, fault in found:
        document_id = document["document_id"] if document else None
        if fault := fault or invalid_unicode(document or {}):
            for question in questions or [{}]:
                yield "rejects", _reject(document_id, question.get("question_id"), fault)
            continue
        if document and document_id not in written:
            written.add(document["document_id"])
            yield "documents", document
        for question in questions:
            if fault := invalid_unicode(question):
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
            storage.make_folder(posixpath.dirname(storage.join(output, file)))
            filesystem.mv(posixpath.join(staged_root, file), target)
    storage.write_text(marker, json.dumps({"files": files, **asdict(prepared)}, indent=2))
