"""Text files: each file is a document, whose id is its path in the folder without the suffix."""

import posixpath
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.preparation.encoding import decode
from qa_ray.preparation.sources.base import RecordStream, Source, SourceRecord, unique_name
from qa_ray.preparation.sources.files import TABLE_SUFFIXES, TEXT_SUFFIXES, SourceFiles, source_files
from qa_ray.preparation.sources.question_files import read_questions
from qa_ray.preparation.values import Row


def read(uri: str, *, questions: str | None = None, encoding: str | None = None) -> RecordStream:
    """Every text file at ``uri``, and the questions of the file ``questions`` (.txt, JSON lines, CSV or Parquet).

    Questions without a ``document_id`` are asked of every document. The file of questions may be in the same folder: it
    is not read as a document. A file that is neither UTF-8 nor ``encoding`` is rejected with its questions.
    """
    files = source_files(uri, TEXT_SUFFIXES)
    question_rows, question_fields = [], []
    if questions is not None:
        question_rows, question_fields, question_files = read_questions(questions, encoding)
        files = _with_questions(files, question_files)
    questions_by_document: dict[str | None, list[Row]] = {}
    for question in question_rows:
        questions_by_document.setdefault(question["document_id"], []).append(question)

    def records() -> Iterator[SourceRecord]:
        taken_ids = Counter[str]()
        yield SourceRecord(None, questions_by_document.pop(None, []))
        for file in files.read:
            relative_path = posixpath.relpath(file, files.root)
            document_id = unique_name(posixpath.splitext(relative_path)[0], taken_ids)
            content = storage.read_bytes(files.filesystem, file)
            text = fault = None
            try:
                text = decode(content, repr(file), encoding)
            except InputError as error:
                fault = ("invalid_unicode", str(error))
            document = {"document_id": document_id, "text": text, "path": relative_path}
            yield SourceRecord(document, questions_by_document.pop(document_id, []), fault)
        for document_id, unmatched in questions_by_document.items():
            detail = f"no text file {document_id!r} in {uri!r}; ids are paths in it without their suffix"
            yield SourceRecord({"document_id": document_id}, unmatched, ("unknown_document", detail))

    return RecordStream(records(), [pa.field("path", pa.string())], question_fields, files=files)


def _with_questions(files: SourceFiles, questions: SourceFiles) -> SourceFiles:
    """The files of documents, without those of the questions; those passed over are of both."""
    read = [file for file in files.read if file not in questions.read]
    not_read = {*files.not_read, *questions.not_read} - {*questions.read}
    return SourceFiles(files.filesystem, files.root, read, sorted(not_read))


SOURCE = Source(
    name="text",
    description="text files (.txt, .md, .text), each a document; detected if there are no tables beside them",
    matches=lambda uri, suffixes: not suffixes.isdisjoint(TEXT_SUFFIXES) and suffixes.isdisjoint(TABLE_SUFFIXES),
    read=read,
)
