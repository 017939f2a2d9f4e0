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
        (b'{"data": "\xff"}', r"is not JSON: 'utf-8' codec can't decode byte 0xff in position 10"),
        (
            '{"rows": 1, "n": 2}',
            r"is not in SQuAD format: no 'data', but the keys \['rows', 'n'\]; fix it or give layout=",
        ),
        ("[1]", r"no 'data', but a list; fix it or give layout='dataset'"),
        ('{"data": 3}', r"dev.json: 'data' is 3, not a list; fix the source"),
        ('{"data": [3]}', r"dev.json: data\[0\]: there is no 'paragraphs' \(expected a list\)"),
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
            r"qas\[0\]: answers: 'text' is 5, not text; fix the source",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "?", "answers": '
            '[{"text": "x", "answer_start": "0"}]}]}]}]}',
            r"answer_start='0' of 'x' is not a whole number; fix it or leave it out",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1, "question": "?", "answers": '
            '{"text": ["x"], "answer_start": []}}]}]}]}',
            r"1 answer texts, but 0 answer_start; give one for each text",
        ),
        ('{"data": []}', r"has no usable document \(it is empty\); give another source or layout"),
        (
            r'{"data": [{"paragraphs": [{"context": "\ud800", "qas": []}]}]}',
            r"has no usable document, so nothing was written; unusable rows: 1, the first \(document_id "
            r"'article 1#1'\) because of invalid_unicode: text: character 0 is the lone surrogate "
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


def test_the_error_for_a_folder_without_text_files_lists_its_files(tmp_path: Path):
    (tmp_path / "a.pdf").touch()
    with pytest.raises(
        InputError, match=r"no file with the suffix .txt or .md or .text, only a.pdf; give another path or layout"
    ):
        prepare(str(tmp_path), f"{tmp_path}/out", layout="text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_without_read_permission_is_an_input_error(tmp_path: Path):
    (tmp_path / "in").mkdir(mode=0)
    with pytest.raises(InputError, match=r"cannot read '.*/in': no permission \(Permission denied\)"):
        prepare(f"{tmp_path}/in", f"{tmp_path}/out")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("q.csv", b"", r"q.csv': not a .txt, .jsonl or .parquet file, nor a folder of Parquet; check the path"),
        ("q.txt", b"\xff", r"'utf-8' codec can't decode byte 0xff in position 0: .*; save the file as UTF-8"),
        ("q.jsonl", b'{"question": "a"}\n{', r"line 2: Expecting property name .*; write one JSON object per line"),
        (
            "q.jsonl",
            b'{"q": "a"}',
            r"question 1: there is no 'question' \(expected text or null\); fix the source",
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
