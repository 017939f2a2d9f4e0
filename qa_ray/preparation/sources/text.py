"""Text files: each file is a document, whose id is its path in the folder without the suffix.

Files of one folder that differ in the suffix alone keep it in their ids: contract.md and contract.txt. Ids are in
Unicode's normal form NFC, as one system stores an é as one code point (NFC) and another, such as macOS, as two (NFD).
"""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.log import LOG
from qa_ray.preparation.encoding import decode
from qa_ray.preparation.sources.base import RecordStream, Source, SourceRecord
from qa_ray.preparation.sources.files import (
    NAMED_FILES,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    SourceFiles,
    source_files,
)
from qa_ray.preparation.sources.question_files import read_questions
from qa_ray.preparation.values import Row


def read(uri: str, *, questions: str | None = None, encoding: str | None = None) -> RecordStream:
    """Every text file at ``uri``, and the questions of the file ``questions`` (.txt, JSON lines, CSV or Parquet).

    Questions without a ``document_id`` are asked about every document. The file of questions may be in the same
    folder: it is not read as a document. A file that is neither UTF-8 nor ``encoding`` is rejected with its questions.
    """
    files = source_files(uri, TEXT_SUFFIXES)
    question_rows, question_fields = [], []
    if questions is not None:
        question_rows, question_fields, question_files = read_questions(questions, encoding)
        files = _with_questions(files, question_files)
    questions_by_document: dict[str | None, list[Row]] = {}
    for question in question_rows:
        document_id = question["document_id"]
        questions_by_document.setdefault(document_id and _normal(document_id), []).append(question)
    paths = [posixpath.relpath(file, files.root) for file in files.read]
    ids = _document_ids({_normal(path) for path in paths})

    def records() -> Iterator[SourceRecord]:
        path_by_name: dict[str, str] = {}
        yield SourceRecord(None, questions_by_document.pop(None, []))
        for file, path in zip(files.read, paths, strict=True):
            document: Row = {"document_id": ids[_normal(path)], "text": None, "path": path}
            if (earlier := path_by_name.setdefault(_normal(path), path)) != path:
                detail = f"{earlier!a} and {path!a} are one name in Unicode's normal form NFC; rename or drop one"
                yield SourceRecord(document, [], ("duplicate_document_id", detail))
                continue
            content, fault = storage.read_bytes(files.filesystem, file), None
            try:
                document["text"] = decode(content, repr(file), encoding)
            except InputError as error:
                fault = ("invalid_unicode", str(error))
            yield SourceRecord(document, questions_by_document.pop(document["document_id"], []), fault)
        ids_by_stem: dict[str | None, list[str]] = {}
        for name in sorted(ids):
            ids_by_stem.setdefault(posixpath.splitext(name)[0], []).append(ids[name])
        for document_id, unmatched in questions_by_document.items():
            detail = f"no text file {document_id!r} in {uri!r}; ids are paths in it without their suffix"
            if same := ids_by_stem.get(document_id):
                detail = f"the text files {document_id!r} have the suffix in their ids: give one of {', '.join(same)}"
            yield SourceRecord({"document_id": document_id}, unmatched, ("unknown_document", detail))

    return RecordStream(records(), [pa.field("path", pa.string())], question_fields, files=files)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _document_ids(names: Collection[str]) -> dict[str, str]:
    """The id of each file by its relative path: without the suffix, unless that is the id of another file."""
    ids = {name: posixpath.splitext(name)[0] for name in names}
    while shared := {id_ for id_, count in Counter(ids.values()).items() if count > 1}:
        ids |= {name: name for name in names if ids[name] in shared}
    if with_suffix := sorted(name for name in names if ids[name] == name and posixpath.splitext(name)[1]):
        shown = ", ".join(with_suffix[:NAMED_FILES]) + ", …" * (len(with_suffix) > NAMED_FILES)
        number = f"{len(with_suffix):,}"
        LOG.warning("%s text files differ from others in the suffix alone, which their ids keep: %s", number, shown)
    return ids


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
