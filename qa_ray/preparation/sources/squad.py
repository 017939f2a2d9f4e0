"""SQuAD JSON (versions 1.1 and 2.0, and datasets in their format, such as CMRC 2018 and CUAD).

``{"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"id", "question", "answers", "is_impossible"}]}]}]}``

Each paragraph is a document with the id ``title#number``, or with the paragraph's own ``document_id`` or ``id``. Equal
titles are made unique (``title (2)``) before paragraphs are numbered from 1. An article without a title is called
``article N``, counted over all files.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io import storage
from qa_ray.preparation.question_rows import Row, checked_value, question_row
from qa_ray.preparation.sources.base import RecordStream, Source, SourceRecord, files_with_suffix, unique_name

PARAGRAPH_BREAK = "\n\n"


class _Paragraph(NamedTuple):
    own_id: Any  # None: it has none
    text: str
    questions: list[Row]


def read(uri: str, *, join: bool = False) -> RecordStream:
    """Every ``.json`` file at ``uri``; ``join``: the paragraphs of an article are one document, named by its title."""
    filesystem, files = files_with_suffix(uri, [".json"])

    def records() -> Iterator[SourceRecord]:
        taken_titles, taken_ids = Counter[str](), Counter[str]()
        articles = (article for file in files for article in _articles(filesystem, file))
        for number, (place, article) in enumerate(articles, 1):
            content = checked_value(article, "paragraphs", place, list)
            title = None if article.get("title") is None else str(article["title"])
            name = unique_name(title or f"article {number}", taken_titles)
            paragraphs = [_paragraph(each, title, f"{place}.paragraphs[{i}]") for i, each in enumerate(content)]
            for i, paragraph in enumerate([_joined(name, paragraphs)] if join else paragraphs, 1):
                own_id = f"{name}#{i}" if paragraph.own_id is None else str(paragraph.own_id)
                document_id = unique_name(own_id, taken_ids)
                document = {"document_id": document_id, "text": paragraph.text, "title": title}
                yield SourceRecord(document, paragraph.questions)

    title_field = pa.field("title", pa.string())
    return RecordStream(records(), [title_field], [title_field, pa.field("is_impossible", pa.bool_())])


SOURCE = Source(
    name="squad",
    description="SQuAD JSON (1.1, 2.0), each paragraph a document; detected by a .json file",
    matches=lambda uri, suffixes: ".json" in suffixes,
    read=read,
)


def _articles(filesystem: fsspec.AbstractFileSystem, file: str) -> list[tuple[str, Any]]:
    """The articles of a file, each with its place for error messages."""
    try:
        content = json.loads(storage.read_bytes(filesystem, file))
    except ValueError as error:  # JSONDecodeError or UnicodeDecodeError: both give the position
        raise InputError(f"{file!r} is not JSON: {error}; fix it or leave it out") from error
    if not isinstance(content, dict) or "data" not in content:
        keys = f"the keys {list(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{file!r} is not in SQuAD format: no 'data', but {keys}; fix it or give layout='dataset'")
    return [(f"{file}: data[{i}]", article) for i, article in enumerate(checked_value(content, "data", file, list))]


def _paragraph(paragraph: Any, title: str | None, place: str) -> _Paragraph:
    text = checked_value(paragraph, "context", place, str)
    questions = []
    for i, qa in enumerate(checked_value(paragraph, "qas", place, list)):
        qa_place = f"{place}.qas[{i}]"
        question_id = checked_value(qa, "id", qa_place, str, int)
        is_impossible = None if qa.get("is_impossible") is None else bool(qa["is_impossible"])
        record = qa | {"question_id": question_id, "answers": [] if is_impossible else qa.get("answers")}
        question = question_row(record, i + 1, qa_place)
        questions.append(question | {"title": title, "is_impossible": is_impossible})
    return _Paragraph(paragraph.get("document_id", paragraph.get("id")), text, questions)


def _joined(name: str, paragraphs: list[_Paragraph]) -> _Paragraph:
    """The paragraphs as one, with gold answers moved to their new offsets."""
    offset = 0
    for _, text, questions in paragraphs:
        for answer in (answer for question in questions for answer in question["answers"] or []):
            answer["start_char"] = None if answer["start_char"] is None else answer["start_char"] + offset
        offset += len(text) + len(PARAGRAPH_BREAK)
    text = PARAGRAPH_BREAK.join(paragraph.text for paragraph in paragraphs)
    return _Paragraph(name, text, [question for paragraph in paragraphs for question in paragraph.questions])
