"""Text files: each file is a document, whose id is its path in the folder without the suffix."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from qa_ray.io import storage
from qa_ray.preparation.question_rows import Row, read_questions
from qa_ray.preparation.sources.base import (
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    RecordStream,
    Source,
    SourceRecord,
    files_with_suffix,
    unique_name,
)


def read(uri: str, *, questions: str | None = None) -> RecordStream:
    """Every text file at ``uri``, as UTF-8, and the questions of the file ``questions`` (.txt, .jsonl or .parquet).

    Questions without a ``document_id`` are asked of every document. The file of questions may be in the same folder: it
    is not read as a document. A file that is not UTF-8 is rejected with its questions.
    """
    filesystem, files = files_with_suffix(uri, TEXT_SUFFIXES)
    _, path = storage.open_filesystem(uri)
    folder = path if filesystem.isdir(path) else posixpath.dirname(re.split(r"[*?\[]", path)[0])
    questions_path = storage.open_filesystem(questions)[1] if questions else None
    question_rows, question_fields = read_questions(questions) if questions else ([], [])
    questions_by_document: dict[str | None, list[Row]] = {}
    for question in question_rows:
        questions_by_document.setdefault(question["document_id"], []).append(question)

    def records() -> Iterator[SourceRecord]:
        taken_ids = Counter[str]()
        yield SourceRecord(None, questions_by_document.pop(None, []))
        for file in files:
            if file == questions_path:
                continue
            relative_path = posixpath.relpath(file, folder)
            document_id = unique_name(posixpath.splitext(relative_path)[0], taken_ids)
            text = fault = None
            try:
                text = storage.read_bytes(filesystem, file).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                detail = f"{file!r}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
                fault = ("invalid_unicode", detail)
            document = {"document_id": document_id, "text": text, "path": relative_path}
            yield SourceRecord(document, questions_by_document.pop(document_id, []), fault)
        for document_id, unmatched in questions_by_document.items():
            detail = f"no text file {document_id!r} in {uri!r}; ids are paths in it without their suffix"
            yield SourceRecord({"document_id": document_id}, unmatched, ("unknown_document", detail))

    return RecordStream(records(), [pa.field("path", pa.string())], question_fields)


SOURCE = Source(
    name="text",
    description="text files (.txt, .md, .text) in UTF-8, each a document; detected if there are no tables beside them",
    matches=lambda uri, suffixes: not suffixes.isdisjoint(TEXT_SUFFIXES) and suffixes.isdisjoint(TABLE_SUFFIXES),
    read=read,
)
