"""SQuAD JSON (versions 1.1 and 2.0, and datasets in their format, such as CMRC 2018 and CUAD).

``{"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id", "question", "answers", "is_impossible"}]}]}]}``

Each paragraph is a document with the id ``title#number``, or with the paragraph's own ``document_id`` or ``id``. A
paragraph that comes again, with the same title (or again none), own id and text, is the same document, with more
questions: some tools write an article for each question. Of other articles, equal titles are made unique
(``title (2)``) before paragraphs are numbered from 1. An article without a title is called ``article N``, counted over
all files.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.io.json_text import parse_json
from qa_ray.preparation.encoding import decode, decode_head
from qa_ray.preparation.gold import settle
from qa_ray.preparation.question_rows import question_row
from qa_ray.preparation.sources.base import RecordStream, Source, SourceRecord, unique_name
from qa_ray.preparation.sources.files import list_source, source_files, suffix_of
from qa_ray.preparation.values import Row, checked_value, identifier, text_digest

PARAGRAPH_BREAK = "\n\n"
HEAD_BYTES = 1 << 16  # of a file, to tell SQuAD JSON from rows


class _Paragraph(NamedTuple):
    own_id: str | None
    text: str
    questions: list[Row]


def read(uri: str, *, join: bool = False, encoding: str | None = None) -> RecordStream:
    """Every ``.json`` file at ``uri``; ``join``: the paragraphs of an article are one document, named by its title."""
    files = source_files(uri, [".json"])
    notes = Counter[str]()

    def records() -> Iterator[SourceRecord]:
        taken_titles, taken_ids = Counter[str](), Counter[str]()
        id_by_paragraph: dict[tuple[str | None, str | None, bytes], str] = {}
        articles = (article for file in files.read for article in _articles(files.filesystem, file, encoding))
        for number, (place, article) in enumerate(articles, 1):
            content = checked_value(article, "paragraphs", place, list)
            title, name = identifier(article, "title", place), None
            paragraphs = [_paragraph(each, title, f"{place}.paragraphs[{i}]") for i, each in enumerate(content)]
            for i, paragraph in enumerate([_joined(paragraphs, notes)] if join else paragraphs, 1):
                key = title or None, paragraph.own_id, text_digest(paragraph.text)
                if key not in id_by_paragraph:
                    name = name or unique_name(title or f"article {number}", taken_titles)
                    own_id = paragraph.own_id or (name if join else f"{name}#{i}")
                    id_by_paragraph[key] = unique_name(own_id, taken_ids)
                document = {"document_id": id_by_paragraph[key], "text": paragraph.text, "title": title}
                yield SourceRecord(document, paragraph.questions)

    title_field = pa.field("title", pa.string())
    return RecordStream(
        records(), [title_field], [title_field, pa.field("is_impossible", pa.bool_())], files=files, notes=notes
    )


def matches(uri: str, suffixes: Set[str]) -> bool:
    """Whether there are .json files and the first of them looks like SQuAD's, not like rows."""
    if ".json" not in suffixes:
        return False
    files = list_source(uri)
    file = next(file for file in files.read if suffix_of(file) == ".json")
    return _is_squad(decode_head(storage.read_bytes(files.filesystem, file)[:HEAD_BYTES]))


def _is_squad(head: str) -> bool:
    """Whether a JSON file that begins with ``head`` has ``{"data": [{"paragraphs": …`` and not rows, one per line."""
    head = head.lstrip("\ufeff \r\n\t")
    try:
        first, stop = json.JSONDecoder().raw_decode(head)
    except (ValueError, RecursionError):  # cut off, or not JSON
        return bool(re.search(r'"paragraphs"\s*:', head) or re.fullmatch(r'\{\s*"data"\s*:.{,40}', head, re.DOTALL))
    if not isinstance(first, dict) or "data" not in first or head[stop:].strip():
        return False
    data = first["data"]
    return not (isinstance(data, list) and data and isinstance(data[0], dict) and "paragraphs" not in data[0])


SOURCE = Source(
    name="squad",
    description="SQuAD JSON (1.1, 2.0), each paragraph a document; detected by a .json file with paragraphs",
    matches=matches,
    read=read,
)


def _articles(filesystem: fsspec.AbstractFileSystem, file: str, encoding: str | None) -> list[tuple[str, Any]]:
    """The articles of a file, each with its place for error messages."""
    text = decode(storage.read_bytes(filesystem, file), repr(file), encoding)
    content = parse_json(
        text, repr(file), "fix it or leave it out; for a file with an object per line, give layout='dataset'"
    )
    if not isinstance(content, dict) or "data" not in content:
        keys = f"the keys {list(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{file!r} is not in SQuAD format: no 'data', but {keys}; fix it or give layout='dataset'")
    return [(f"{file}: data[{i}]", article) for i, article in enumerate(checked_value(content, "data", file, list))]


def _paragraph(paragraph: Any, title: str | None, place: str) -> _Paragraph:
    text = checked_value(paragraph, "context", place, str)
    questions = []
    for i, qa in enumerate(checked_value(paragraph, "qas", place, list)):
        qa_place = f"{place}.qas[{i}]"
        if not isinstance(qa, dict) or identifier(qa, "id", qa_place) is None:
            checked_value(qa, "id", qa_place, str, int)  # raises, as it is missing
        record = {"question_id": qa["id"], "is_impossible": None} | {
            name: qa[name] for name in ("question", "answers", "is_impossible") if name in qa
        }
        questions.append(question_row(record, i + 1, qa_place) | {"title": title})
    own_id = next((own_id for key in ("document_id", "id") if (own_id := identifier(paragraph, key, place))), None)
    return _Paragraph(own_id, text, questions)


def _joined(paragraphs: list[_Paragraph], notes: Counter[str]) -> _Paragraph:
    """The paragraphs as one, with gold answers moved to their new offsets."""
    offset = 0
    for _, text, questions in paragraphs:
        settle(text, questions, notes)
        for answer in (answer for question in questions for answer in question["answers"] or []):
            answer["start_char"] = None if answer["start_char"] is None else answer["start_char"] + offset
        offset += len(text) + len(PARAGRAPH_BREAK)
    text = PARAGRAPH_BREAK.join(paragraph.text for paragraph in paragraphs)
    return _Paragraph(None, text, [question for paragraph in paragraphs for question in paragraph.questions])
