"""Files of questions beside text files: one question per line, or a table with a question per row."""

from typing import NamedTuple

import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.preparation.encoding import decode, split_lines
from qa_ray.preparation.question_rows import invalid_unicode, question_row
from qa_ray.preparation.sources.files import TABLE_SUFFIXES, SourceFiles, list_source, source_files, suffix_of
from qa_ray.preparation.sources.tables import check_storable, inferred_field, table_rows
from qa_ray.preparation.values import Row
from qa_ray.schemas import QUESTIONS


class QuestionFiles(NamedTuple):
    """The questions of all files, the fields of their extra columns, and the files."""

    rows: list[Row]
    fields: list[pa.Field]
    files: SourceFiles


def read_questions(uri: str, encoding: str | None = None) -> QuestionFiles:
    """The questions of a .txt file (one per line), or of a table, a folder or a glob of tables (one per row).

    Raises:
        InputError: the file cannot be read, a question is malformed, or a column mixes types.
    """
    filesystem, path = storage.open_filesystem(uri)
    files = list_source(uri)
    if suffix_of(path) == ".txt":
        text = decode(storage.read_bytes(filesystem, path), f"questions {uri!r}", encoding)
        lines = [line.strip() for line in split_lines(text)]
        records = [(f"questions {uri!r}, line {i}", {"question": line}) for i, line in enumerate(lines, 1) if line]
    elif any(suffix_of(file) in TABLE_SUFFIXES for file in files.read):
        files = source_files(uri, TABLE_SUFFIXES)
        records = [(f"questions {place}", record) for place, record in table_rows(files, encoding)]
    else:
        raise InputError(
            f"questions {uri!r}: not a .txt file (one question per line), a table ({', '.join(TABLE_SUFFIXES)}) or a "
            "folder of tables; check the path"
        )
    rows = [record | question_row(record, number, place) for number, (place, record) in enumerate(records, 1)]
    return QuestionFiles(rows, _extra_fields(rows, f"questions {uri!r}"), files)


def _extra_fields(rows: list[Row], place: str) -> list[pa.Field]:
    complete = [row for row in rows if not invalid_unicode(row)]  # the others are rejected
    names = dict.fromkeys(name for row in complete for name in row if name not in QUESTIONS.names)
    fields = [inferred_field(name, complete, place) for name in names]
    check_storable(fields, place)
    return fields
