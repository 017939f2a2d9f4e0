"""Turns a source of any format into the two tables that every job reads, documents and questions, plus the rejects.

A source is read one file at a time and written in small row groups. What stays in memory is that one file, the ids of
the documents with hashes of their texts, and the ids and texts of the questions, to find duplicates.
"""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from qa_ray.errors import InputError, OutputError
from qa_ray.io import storage
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.storage_errors import writing
from qa_ray.preparation.question_rows import Fault, Row, invalid_unicode
from qa_ray.preparation.sources import open_source
from qa_ray.preparation.sources.base import RecordStream, SourceRecord
from qa_ray.schemas import DOCUMENTS, QUESTIONS, REJECTS

TABLES = {"documents": DOCUMENTS, "questions": QUESTIONS, "rejects": REJECTS}
# Jobs hold whole row groups in memory.
GROUP_ROWS = {"documents": 256, "questions": 10_000, "rejects": 10_000}
GROUP_CHARS = {"documents": 1 << 20, "questions": 8 << 20, "rejects": 8 << 20}
FILE_CHARS = 128 << 20
MARKER = "_PREPARED.json"  # lists the files that prepare wrote and may replace


@dataclass(frozen=True)
class PreparedTables:
    """What was written, and the layout that was detected."""

    layout: str
    documents: int
    questions: int
    gold_answers: int
    unanswerable: int  # questions whose gold says that the document does not answer them
    misplaced_answers: int  # gold answers with a start_char at which the document has another text; kept as they are
    rejects: int
    paths: dict[str, str]  # of the tables documents, questions, rejects; tables without rows are not written

    def __str__(self) -> str:
        rows = f"{self.documents:,} documents, {self.questions:,} questions, {self.rejects:,} rejects"
        gold = f"{self.gold_answers:,} answers, {self.misplaced_answers:,} of them misplaced"
        lines = [f"read as {self.layout}: {rows}", f"gold: {gold}; {self.unanswerable:,} questions unanswerable"]
        return "\n".join([*lines, *self.paths.values()])


def prepare(source: str, output: str, *, layout: str = "auto", prefix: str = "", **options: Any) -> PreparedTables:
    """Writes ``output/documents``, ``output/questions`` and, if rows were rejected, ``output/rejects``.

    ``layout`` is a name in ``qa_ray.preparation.sources.SOURCES``, or "auto" to detect it. ``options`` are those of the
    layout's ``read``; None, False and empty ones count as not given. ``prefix`` is put before the documents' ids.

    The tables of an earlier prepare are replaced once the new ones are complete; other files in ``output`` are left
    alone.

    Raises:
        ConfigError: an unknown layout, or an option that the layout does not have.
        InputError: the source as a whole cannot be used, or a question id occurs twice in a document.
        OutputError: ``output`` cannot be written, or holds tables that prepare did not write.
    """
    earlier_files = _files_of_earlier_prepare(output)
    detected_layout, stream = open_source(source, layout, options)
    staging = storage.join(output, "_preparing")
    storage.remove_folder(staging)  # left by a killed run
    try:
        counts, first_reject = _write(stream._replace(records=_prefixed(stream.records, prefix)), staging)
        if not counts["documents"]:
            raise _no_document(source, counts["rejects"], first_reject)
        paths = {name: storage.absolute_uri(storage.join(output, name)) for name in TABLES if counts[name]}
        prepared = PreparedTables(layout=detected_layout, **counts, paths=paths)
        _publish(output, staging, earlier_files, prepared)
    finally:
        storage.remove_folder(staging)
    return prepared


def _no_document(source: str, num_rejects: int, first_reject: Row | None) -> InputError:
    problem = f"source {source!r} has no usable document"
    if first_reject is None:
        return InputError(f"{problem} (it is empty); give another source or layout")
    place = ", ".join(f"{name} {first_reject[name]!r}" for name in ("document_id", "question_id") if first_reject[name])
    return InputError(
        f"{problem}, so nothing was written; unusable rows: {num_rejects:,}, the first ({place or 'no id'}) because of "
        f"{first_reject['reason']}: {first_reject['detail']}"
    )


# ---- Writing tables


def _write(stream: RecordStream, folder: str) -> tuple[Counter[str], Row | None]:
    """Writes the tables into ``folder``; returns the counts of PreparedTables, and the first reject if there is one."""
    extra_fields = {"documents": stream.document_fields, "questions": stream.question_fields}
    counts = Counter({"gold_answers": 0, "unanswerable": 0, "misplaced_answers": 0, **dict.fromkeys(TABLES, 0)})
    first_reject: Row | None = None
    writers = {
        name: ParquetFolderWriter(
            storage.join(folder, name),
            pa.schema([*schema, *extra_fields.get(name, [])]),
            max_group_rows=GROUP_ROWS[name],
            max_group_chars=GROUP_CHARS[name],
            max_file_chars=FILE_CHARS,
        )
        for name, schema in TABLES.items()
    }
    with ExitStack() as stack:
        for writer in writers.values():
            stack.enter_context(closing(writer))
        for name, row in _table_rows(stream.records, counts):
            if name == "rejects":
                first_reject = first_reject or row
            counts[name] += 1
            writers[name].add(row)
    return counts, first_reject


def _prefixed(records: Iterator[SourceRecord], prefix: str) -> Iterator[SourceRecord]:
    for record in records:
        if record.document and prefix:
            document_id = prefix + record.document["document_id"]
            record = record._replace(document=record.document | {"document_id": document_id})
        yield record


def _table_rows(records: Iterator[SourceRecord], counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """(table, row) for every row of the three tables. Counts gold.

    Rows that Parquet cannot store are rejects, and so is a document whose id is already that of another text, with its
    questions: they would be asked of the wrong text. Equal documents are one, with the questions of all.
    """
    text_digests: dict[str | None, bytes] = {}  # of the documents written so far, by id
    question_texts: dict[tuple[str | None, str], str] = {}
    for document, questions, fault in records:
        document_id = document["document_id"] if document else None
        fault = fault or invalid_unicode(document or {})
        if document and not fault:
            digest = _text_digest(document["text"])
            if document_id not in text_digests:
                text_digests[document_id] = digest
                yield "documents", document
            elif text_digests[document_id] != digest:
                detail = f"document_id {document_id!r} is already that of another text; give each text its own id"
                fault = ("duplicate_document_id", detail)
        if fault:
            for question in questions or [{}]:
                yield "rejects", _reject(document_id, question.get("question_id"), fault)
            continue
        for question in questions:
            if fault := invalid_unicode(question):
                yield "rejects", _reject(document_id, question["question_id"], fault)
                continue
            _check_unique(question_texts, document_id, question)
            _count_gold(counts, question["answers"], document)
            yield "questions", question | {"document_id": document_id}


def _text_digest(text: str | None) -> bytes:
    return b"" if text is None else hashlib.blake2b(text.encode(), digest_size=16).digest()


def _count_gold(counts: Counter[str], gold: list[Row] | None, document: Row | None) -> None:
    counts["unanswerable"] += gold == []
    for answer in gold or []:
        counts["gold_answers"] += 1
        start_char = answer["start_char"]
        if document and start_char is not None:
            text = document["text"] or ""
            counts["misplaced_answers"] += start_char < 0 or not text.startswith(answer["text"], start_char)


def _reject(document_id: str | None, question_id: str | None, fault: Fault) -> Row:
    row = dict(zip(REJECTS.names, (document_id, question_id, "prepare", *fault), strict=True))
    return {name: value and value.encode(errors="backslashreplace").decode() for name, value in row.items()}


def _check_unique(question_texts: dict[tuple[str | None, str], str], document_id: str | None, question: Row) -> None:
    """Adds the question to ``question_texts``, by document (None: every document) and question id.

    Raises:
        InputError: its id is taken, in this document or among the questions asked of every document.
    """
    question_id = question["question_id"]
    for scope in (document_id, None):
        if (scope, question_id) in question_texts:
            where = f"in document {document_id!r}" if document_id is not None else "among those asked of every document"
            both = f"{question_texts[scope, question_id]!r:.80} and {question['question']!r:.80}"
            raise InputError(
                f"question_id {question_id!r} occurs twice {where}: {both}; give each its own id or drop one"
            )
    question_texts[document_id, question_id] = question["question"]


# ---- Publishing


def _files_of_earlier_prepare(output: str) -> list[str]:
    """The files of the tables that an earlier prepare wrote, relative to ``output``.

    Raises:
        OutputError: a table has a file that prepare did not write.
    """
    filesystem, root = storage.open_filesystem(output)
    try:
        listed = set(json.loads(storage.read_text(storage.join(output, MARKER)) or "{}")["files"])
    except (ValueError, KeyError, TypeError):
        listed = set()
    files = [posixpath.relpath(file, root) for name in TABLES for file in filesystem.find(posixpath.join(root, name))]
    if foreign := [file for file in files if file not in listed]:
        raise OutputError(
            f"output {output!r} holds {foreign[0]!r}, which prepare did not write ({MARKER} does not list it); "
            "move it away or give another output"
        )
    return files


def _publish(output: str, staging: str, earlier_files: list[str], prepared: PreparedTables) -> None:
    """Moves the staged files to their place.

    The marker first lists old and new files: if this is killed at any point, the next prepare still recognizes all of
    them as its own.
    """
    filesystem, root = storage.open_filesystem(output)
    _, staging_root = storage.open_filesystem(staging)
    files = [posixpath.relpath(file, staging_root) for file in filesystem.find(staging_root)]
    marker = storage.join(output, MARKER)
    storage.write_text(marker, json.dumps({"files": sorted({*earlier_files, *files})}))
    with writing(output):
        for file in sorted({*earlier_files} - {*files}):
            filesystem.rm_file(posixpath.join(root, file))
        for file in files:
            filesystem.mv(posixpath.join(staging_root, file), posixpath.join(root, file))
    storage.write_text(marker, json.dumps({"files": files, **asdict(prepared)}, indent=2))
