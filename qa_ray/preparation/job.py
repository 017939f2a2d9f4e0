"""Turns a source of any format into the two tables that every job reads, documents and questions, plus the rejects.

A source is read one file at a time and written in small row groups. What stays in memory is that one file, the ids of
the documents with hashes of their texts, and the ids and texts of the questions, to find duplicates.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from qa_ray.errors import InputError, JobError
from qa_ray.io import storage
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.preparation.encoding import check_encoding
from qa_ray.preparation.gold import settle
from qa_ray.preparation.publish import Inputs, files_of_earlier_prepare, publish, publish_rejects
from qa_ray.preparation.question_rows import Fault, invalid_unicode
from qa_ray.preparation.sources import open_source
from qa_ray.preparation.sources.base import RecordStream, SourceRecord
from qa_ray.preparation.sources.files import describe
from qa_ray.preparation.values import Row, text_digest
from qa_ray.schemas import DOCUMENTS, QUESTIONS, REJECTS
from qa_ray.wording import counted

TABLES = {"documents": DOCUMENTS, "questions": QUESTIONS, "rejects": REJECTS}
# Jobs hold whole row groups in memory.
GROUP_ROWS = {"documents": 256, "questions": 10_000, "rejects": 10_000}
GROUP_CHARS = {"documents": 1 << 20, "questions": 8 << 20, "rejects": 8 << 20}
FILE_CHARS = 128 << 20


@dataclass(frozen=True)
class PreparedTables:
    """What was written, what was not read, and the layout that was detected."""

    layout: str
    documents: int
    questions: int
    gold_answers: int
    unanswerable: int  # questions whose gold says that the document does not answer them
    misplaced_answers: int  # gold answers with a start_char at which the document has another text; kept as they are
    gold_changes: dict[str, int]  # what was changed about how many gold answers, as in preparation/gold.py
    rejects: int
    rejects_by_reason: dict[str, int]
    files_read: int | None  # None: the source does not say
    files_not_read: dict[str, dict[str, Any]]  # by kind: how many files, and the first of them
    paths: dict[str, str]  # of the tables documents, questions, rejects; tables without rows are not written

    def __str__(self) -> str:
        rows = [counted(getattr(self, f"{noun}s"), noun) for noun in ("document", "question", "reject")]
        files = f" ({counted(self.files_read, 'file')})" if self.files_read is not None else ""
        gold = f"{counted(self.gold_answers, 'answer')}, {self.misplaced_answers:,} of them misplaced"
        lines = [
            f"read as {self.layout}{files}: {', '.join(rows)}",
            f"gold: {gold}; {counted(self.unanswerable, 'question')} unanswerable",
        ]
        lines += [f"gold: {counted(count, 'answer')} {change}" for change, count in self.gold_changes.items()]
        if self.files_not_read:
            total, kinds = describe(self.files_not_read).split(":", 1)
            lines.append(f"{total} not read:{kinds}")
        if self.rejects:
            lines.append(f"rejects: {_reasons(self.rejects_by_reason)}; see {self.paths['rejects']}")
        return "\n".join([*lines, *(path for name, path in self.paths.items() if name != "rejects")])


def _reasons(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in by_reason.items())


def prepare(
    source: str,
    output: str,
    *,
    layout: str = "auto",
    prefix: str = "",
    max_rejected_fraction: float = 1.0,
    **options: Any,
) -> PreparedTables:
    """Writes ``output/documents``, ``output/questions`` and, if rows were rejected, ``output/rejects``.

    ``layout`` is a name in ``qa_ray.preparation.sources.SOURCES``, or "auto" to detect it. ``options`` are those of the
    layout's ``read``; None, False and empty ones count as not given. ``prefix`` is put before the documents' ids.

    The tables of an earlier prepare of the same source are replaced once the new ones are complete; other files in
    ``output`` are left alone.

    Raises:
        ConfigError: an unknown layout, or an option that the layout does not have.
        InputError: the source as a whole cannot be used, or a question id occurs twice in a document.
        OutputError: ``output`` cannot be written, or holds tables of another source or that prepare did not write.
        JobError: more rows than ``max_rejected_fraction`` were rejected; only the rejects were written.
    """
    check_encoding(options.get("encoding"))
    inputs = _inputs(source, options)
    earlier_files = files_of_earlier_prepare(output, inputs)
    detected_layout, stream = open_source(source, layout, options)
    staging = storage.join(output, "_preparing")
    storage.remove_folder(staging)  # left by a killed run
    try:
        written = _write(stream, prefix, staging)
        if problem := _too_many_rejects(source, output, written, max_rejected_fraction):
            publish_rejects(output, staging, earlier_files, inputs)
            raise problem
        prepared = _summary(detected_layout, output, stream, written)
        publish(output, staging, earlier_files, inputs, asdict(prepared))
    finally:
        storage.remove_folder(staging)
    return prepared


def _inputs(source: str, options: dict[str, Any]) -> Inputs:
    """What the tables are made of; another one must not take their place. Paths are absolute."""
    paths = {"source": source, "questions": options.get("questions") or None}
    inputs: Inputs = {}
    for name, path in paths.items():
        is_hub_id = path is not None and not storage.open_filesystem(path)[0].exists(storage.open_filesystem(path)[1])
        inputs[name] = path if path is None or is_hub_id else storage.absolute_uri(path)
    return inputs | {"split": options.get("split") or None}


@dataclass
class Written:
    """What was written to the tables."""

    counts: Counter[str]  # of PreparedTables
    rejects_by_reason: Counter[str]
    gold_changes: Counter[str]
    first_reject: Row | None = None


def _summary(layout: str, output: str, stream: RecordStream, written: Written) -> PreparedTables:
    return PreparedTables(
        layout=layout,
        **written.counts,
        gold_changes={change: count for change, count in written.gold_changes.items() if count},
        rejects_by_reason=dict(written.rejects_by_reason.most_common()),
        files_read=len(stream.files.read) if stream.files else None,
        files_not_read=stream.files.kinds_not_read() if stream.files else {},
        paths={name: storage.absolute_uri(storage.join(output, name)) for name in TABLES if written.counts[name]},
    )


def _too_many_rejects(
    source: str, output: str, written: Written, max_rejected_fraction: float
) -> InputError | JobError | None:
    """The error if there is no document, or if too many rows were rejected."""
    counts = written.counts
    num_rejects, rejects = counts["rejects"], storage.join(output, "rejects")
    if not counts["documents"]:
        problem = f"source {source!r} has no usable document"
        if (reject := written.first_reject) is None:
            return InputError(f"{problem} (it is empty); give another source or layout")
        place = ", ".join(f"{name} {reject[name]!r}" for name in ("document_id", "question_id") if reject[name])
        return InputError(
            f"{problem}, so only the rejects were written ({rejects!r}): {num_rejects:,}, the first "
            f"({place or 'no id'}) because of {reject['reason']}: {reject['detail']}"
        )
    num_rows = counts["documents"] + counts["questions"] + num_rejects
    of_one_document = max(1, num_rows // max(2, counts["documents"])) if max_rejected_fraction else 0
    if num_rejects <= max(max_rejected_fraction * num_rows, min(of_one_document, num_rows - 1)):
        return None
    return JobError(
        f"{num_rejects} of {num_rows} documents and questions ({num_rejects / num_rows:.1%}) were rejected "
        f"({_reasons(dict(written.rejects_by_reason.most_common(5)))}), more than "
        f"limits.max_rejected_fraction={max_rejected_fraction}; see {rejects!r}; fix the source or raise the limit, "
        "and run the same command again"
    )


# ---- Writing tables


def _write(stream: RecordStream, prefix: str, folder: str) -> Written:
    """Writes the tables into ``folder``."""
    extra_fields = {"documents": stream.document_fields, "questions": stream.question_fields}
    counts = Counter({"gold_answers": 0, "unanswerable": 0, "misplaced_answers": 0, **dict.fromkeys(TABLES, 0)})
    written = Written(counts, Counter(), stream.notes)
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
    try:
        with ExitStack() as stack:
            for writer in writers.values():
                stack.enter_context(closing(writer))
            for name, row in _table_rows(_settled(_prefixed(stream.records, prefix), written), counts):
                if name == "rejects":
                    written.first_reject = written.first_reject or row
                    written.rejects_by_reason[row["reason"]] += 1
                counts[name] += 1
                writers[name].add(row)
    except (pa.ArrowException, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"a row of the source cannot be stored as Parquet ({reason}); give its column one type or drop it"
        ) from error
    return written


def _prefixed(records: Iterator[SourceRecord], prefix: str) -> Iterator[SourceRecord]:
    for record in records:
        if record.document and prefix:
            document_id = prefix + record.document["document_id"]
            record = record._replace(document=record.document | {"document_id": document_id})
        yield record


def _settled(records: Iterator[SourceRecord], written: Written) -> Iterator[SourceRecord]:
    """The records with their gold settled; successive records of one document are settled together."""
    for document, group in itertools.groupby(records, key=lambda record: record.document):
        same_document = list(group)
        text = document.get("text") if document else None
        if not (document and invalid_unicode(document)):
            settle(text, [row for record in same_document for row in record.questions], written.gold_changes)
        yield from same_document


def _table_rows(records: Iterator[SourceRecord], counts: Counter[str]) -> Iterator[tuple[str, Row]]:
    """(table, row) for every row of the three tables. Counts gold.

    Rows that Parquet cannot store are rejects, and so is a document whose id is already that of another text, with its
    questions: they would be asked about the wrong text. Equal documents are one, with the questions of all.
    """
    text_digests: dict[str | None, bytes] = {}  # of the documents written so far, by id
    question_texts: dict[tuple[str | None, str], str] = {}
    for document, questions, fault in records:
        document_id = document["document_id"] if document else None
        fault = fault or invalid_unicode(document or {})
        if document and not fault:
            digest = text_digest(document["text"])
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
        InputError: its id is taken, in this document or among the questions asked about every document.
    """
    question_id = question["question_id"]
    for scope in (document_id, None):
        if (scope, question_id) in question_texts:
            where = (
                f"in document {document_id!r}" if document_id is not None else "among those asked about every document"
            )
            both = f"{question_texts[scope, question_id]!r:.80} and {question['question']!r:.80}"
            raise InputError(
                f"question_id {question_id!r} occurs twice {where}: {both}; give each its own id or drop one"
            )
    question_texts[document_id, question_id] = question["question"]
