"""Broken sources: each error gives the value, the place and the remedy."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from qa_ray.errors import ConfigError, InputError
from qa_ray.preparation.job import prepare
from qa_ray.preparation.sources import SOURCES


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"data": [', r"is not JSON: Expecting value: line 1 column 11 \(char 10\); fix it or leave it out"),
        (b'{"data": "\xff"}', r"dev.json': byte 10 is not UTF-8 \(invalid start byte\); save it as UTF-8, or name"),
        ('{"rows": 1, "n": 2}', r"no column 'context' for 'text', only rows, n; name the right one with columns="),
        ("[1]", r"dev.json': \[0\]: 1 is not an object with columns; write one JSON object per line"),
        ("[" * 100_000, r"dev.json' is not JSON: maximum recursion depth exceeded"),
        (f'{{"data": [{{"paragraphs": {"9" * 5000}', r"dev.json' is not JSON: Exceeds the limit \(4300 digits\)"),
        ('{"data": 3}', r"dev.json: 'data' is 3, not a list; fix the source"),
        ('{"data": [3]}', r"dev.json: data\[0\]: 3 is not an object with 'paragraphs' \(a list\); fix the source"),
        (
            '{"data": [{"paragraphs": [{"qas": []}]}]}',
            r"data\[0\].paragraphs\[0\]: there is no 'context' \(expected text\)",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "Who?"}]}]}]}',
            r"data\[0\].paragraphs\[0\].qas\[0\]: there is no 'id' \(expected text or a whole number\)",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "?", "answers": '
            '[{"text": 5}]}]}]}]}',
            r"qas\[0\]: answers\[0\]: 'text' is 5, not text; fix the source",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "?", "answers": '
            '[{"text": "x", "answer_start": "zero"}]}]}]}]}',
            r"qas\[0\]: answers\[0\]: answer_start is 'zero', not a whole number; give the number of characters before",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "?", "answers": '
            '{"text": ["x"], "answer_start": []}}]}]}]}',
            r"qas\[0\]: answers: 1 texts, but 0 values of answer_start; give one for each text",
        ),
        ('{"data": []}', r"has no usable document \(it is empty\); give another source or layout"),
        (
            r'{"data": [{"paragraphs": [{"context": "\ud800", "qas": []}]}]}',
            r"has no usable document, so only the rejects were written \('.*/out/rejects'\): 1, the first "
            r"\(document_id 'article 1#1'\) because of invalid_unicode: text: character 0 is the lone surrogate "
            r"U\+D800; fix the source$",
        ),
    ],
)
def test_the_error_for_a_broken_squad_file_gives_the_place_and_the_remedy(
    tmp_path: Path, content: str | bytes, expected: str
):
    (tmp_path / "dev.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=expected):
        prepare(f"{tmp_path}/dev.json", f"{tmp_path}/out")
    assert not (tmp_path / "out" / "documents").exists()
    assert not (tmp_path / "out" / "_preparing").exists()


@pytest.mark.parametrize("layout", ["auto", "squad", "text"])
def test_the_error_for_a_missing_source_gives_its_path(tmp_path: Path, layout: Any):
    expected = f"no such file or folder: '{tmp_path}/gone'; check the path (a dataset's hub id is 'owner/name')"
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare(f"{tmp_path}/gone", f"{tmp_path}/out", layout=layout)


@pytest.mark.parametrize("layout", ["auto", "text"])
def test_the_error_for_a_folder_that_cannot_be_read_names_the_kinds_and_what_would_work(tmp_path: Path, layout: str):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(InputError, match=r"in' is an empty folder; put .txt, .md, .text.* files into it"):
        prepare(str(folder), f"{tmp_path}/out", layout=layout)
    for name in ("a.pdf", "b.PDF", "c.docx", "README", "_d.txt"):
        (folder / name).touch()
    kinds = r"only 5 files: 2 .pdf, 1 .docx, 1 hidden \(_d.txt\), 1 without suffix \(README\)"
    with pytest.raises(
        InputError, match=rf"in' has no file that can be read, {kinds}; give .txt, .*pdftotext makes .txt"
    ):
        prepare(str(folder), f"{tmp_path}/out", layout=layout)
    with pytest.raises(InputError, match=r"a.pdf' has no file that can be read, only 1 file: 1 .pdf; give .txt, "):
        prepare(f"{folder}/a.pdf", f"{tmp_path}/out", layout=layout)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_without_read_permission_is_an_input_error(tmp_path: Path):
    (tmp_path / "in").mkdir(mode=0)
    with pytest.raises(InputError, match=r"cannot read '.*/in': no permission \(Permission denied\)"):
        prepare(f"{tmp_path}/in", f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "q.pdf",
            b"",
            r"q.pdf': not a .txt file \(one question per line\), a table \(.jsonl, .*\) or a folder of tables",
        ),
        (
            "q.txt",
            b"\xff",
            r"q.txt': byte 0 is not UTF-8 \(invalid start byte\); save it as UTF-8, or name the encoding",
        ),
        ("q.jsonl", b'{"question": "a"}\n{', r"line 2 is not JSON: Expecting .*; write one JSON object per line"),
        (
            "q.jsonl",
            b'{"q": "a"}',
            r"line 1: there is no 'question' \(expected text or null\); fix the source",
        ),
        (
            "q.jsonl",
            b'{"question": "a", "n": 1}\n{"question": "b", "n": "x"}',
            r"column 'n' mixes types \(.*\); use one type or drop",
        ),
        ("q.parquet", b"no", r"cannot be read as Parquet"),
    ],
)
def test_the_error_for_a_broken_file_of_questions_gives_the_place(
    letters: Path, tmp_path: Path, name: str, content: bytes, expected: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        prepare(str(letters), f"{tmp_path}/out", questions=f"{tmp_path}/{name}")


def test_the_error_for_a_missing_file_of_questions_gives_its_path(letters: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"gone.txt' cannot be read: No such file or directory; check the path"):
        prepare(str(letters), f"{tmp_path}/out", questions=f"{tmp_path}/gone.txt")


def test_options_of_another_layout_and_unknown_layouts_are_refused(letters: Path, tmp_path: Path):
    read = f"'{letters}' is read as 'text'; leave it out or give layout='dataset'"
    expected = f"split='train' is for layout 'dataset', but {read}"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        prepare(str(letters), f"{tmp_path}/out", split="train")
    with pytest.raises(ConfigError, match=f"layout='no-such' is unknown; give one of auto, {', '.join(SOURCES)}"):
        prepare(str(letters), f"{tmp_path}/out", layout="no-such")
