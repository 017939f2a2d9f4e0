"""Text files are documents, and files of questions are asked about them; names, encodings and line ends vary."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import ids, rows, write_lines

from qa_ray.preparation.job import prepare


def test_text_files_become_documents_whose_ids_are_their_paths(tmp_path: Path):
    for name, content in {
        "in/a.txt": b"\xef\xbb\xbfone\r\ntwo\n",
        "in/a.md": "三 🦊".encode(),
        "in/deep/er/b.v2.TEXT": b"",
        "in/_notes/c.txt": b"hidden",
        "in/.d.txt": b"hidden",
        "in/e.pdf": b"no text",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    result = prepare(f"{tmp_path}/in", f"{tmp_path}/out")
    assert (result.layout, result.questions) == ("text", 0)
    assert list(result.paths) == ["documents"]
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "documents")] == [
        ("a.md", "三 🦊", "a.md"),
        ("a.txt", "one\r\ntwo\n", "a.txt"),
        ("deep/er/b.v2", "", "deep/er/b.v2.TEXT"),
    ]
    assert "3 files not read: 2 hidden (.d.txt, _notes/c.txt), 1 .pdf" in str(result)
    marker = json.loads((tmp_path / "out" / "_PREPARED.json").read_text())
    assert (marker["files_read"], marker["files_not_read"]) == (
        3,
        {"hidden": {"files": 2, "first": [".d.txt", "_notes/c.txt"]}, ".pdf": {"files": 1, "first": ["e.pdf"]}},
    )
    prepare(f"{tmp_path}/in/deep/*/*", f"{tmp_path}/out of a glob", layout="text")
    assert ids(tmp_path / "out of a glob") == ["er/b.v2"]
    prepare(f"{tmp_path}/in/a.txt", f"{tmp_path}/out of a file")
    assert ids(tmp_path / "out of a file") == ["a"]


def test_questions_from_a_text_file_are_asked_of_every_document(letters: Path, tmp_path: Path):
    (letters / "questions.txt").write_bytes("\ufeffWho?\r\n\r\n  Where? \n".encode())
    prepare(str(letters), f"{tmp_path}/out", questions=f"{letters}/questions.txt")
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "questions")] == [
        ("q1", "Who?", None, None),
        ("q2", "Where?", None, None),
    ]
    assert ids(tmp_path / "out") == ["a"]


def test_files_that_differ_in_the_suffix_alone_keep_it_in_their_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("contract.md", "contract.txt", "contract.txt.md", "other.txt", "deep/contract.TXT"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    questions = [{"question": "Who?", "document_id": id_} for id_ in ("contract", "contract.md", "other")]
    source = write_lines(tmp_path / "q.jsonl", questions)
    prepare(f"{tmp_path}/in", f"{tmp_path}/out", questions=source)
    expected = ["contract.md", "contract.txt", "contract.txt.md", "deep/contract", "other"]
    assert sorted(ids(tmp_path / "out")) == expected
    assert [row["document_id"] for row in rows(tmp_path / "out", "questions")] == ["contract.md", "other"]
    (reject,) = rows(tmp_path / "out", "rejects")
    assert (reject["question_id"], reject["reason"]) == ("q1", "unknown_document")
    assert reject["detail"] == (
        "the text files 'contract' have the suffix in their ids: give one of contract.md, contract.txt"
    )
    assert caplog.messages == [
        "3 text files differ from others in the suffix alone, which their ids keep: "
        "contract.md, contract.txt, contract.txt.md"
    ]


CAFE = {"NFC": "caf\xe9", "NFD": "cafe\u0301"}


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_gives_the_same_id_however_unicode_stores_it(tmp_path: Path, form: str, other: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{CAFE[form]}.txt").write_text("Ada was here.")
    questions = write_lines(tmp_path / "q.jsonl", [{"question": "Who?", "document_id": CAFE[other]}])
    result = prepare(f"{tmp_path}/in", f"{tmp_path}/out", questions=questions)
    assert ids(tmp_path / "out") == [CAFE["NFC"]]
    assert (result.questions, result.rejects) == (1, 0)


def test_two_files_with_one_name_in_another_normal_form_are_named(tmp_path: Path):
    for form, name in CAFE.items():
        (tmp_path / f"{name}.txt").write_text(form)
    questions = write_lines(tmp_path / "q.jsonl", [{"question": "Who?", "document_id": CAFE["NFC"]}])
    result = prepare(f"{tmp_path}/*.txt", f"{tmp_path}/out", questions=questions)
    assert (result.documents, result.questions) == (1, 1)
    (reject,) = rows(tmp_path / "out", "rejects")
    assert (reject["document_id"], reject["reason"]) == (CAFE["NFC"], "duplicate_document_id")
    expected = r"'cafe\u0301.txt' and 'caf\xe9.txt' are one name in Unicode's normal form NFC; rename or drop one"
    assert reject["detail"] == expected


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_line_is_a_question_whatever_system_wrote_it(letters: Path, tmp_path: Path, line_end: str, encoding: str):
    lines = ["Who?", "", " \t", "Where\u2028exactly?", ""]
    (tmp_path / "q.txt").write_bytes(line_end.join(lines).encode(encoding))
    prepare(str(letters), f"{tmp_path}/out", questions=f"{tmp_path}/q.txt")
    questions = [(row["question_id"], row["question"]) for row in rows(tmp_path / "out", "questions")]
    assert questions == [("q1", "Who?"), ("q2", "Where\u2028exactly?")]


def test_a_file_that_is_not_utf_8_is_rejected_with_the_questions_about_it(letters: Path, tmp_path: Path):
    questions = tmp_path / "q.jsonl"
    lines: list[dict[str, Any]] = [
        {
            "question": "Who?",
            "document_id": "a",
            "answers": [{"text": "Ada", "start_char": 0}],
            "kind": "person",
            "n": 1,
        },
        {"question": "Who?", "document_id": "b", "kind": None},
        {"question": "Who?", "document_id": "a.txt", "n": 2.5},
        {"question": None, "question_id": 5},
        {"question": "\ud800", "kind": "bad"},
    ]
    questions.write_text("\n".join(map(json.dumps, lines)))
    result = prepare(str(letters), f"{tmp_path}/out", questions=str(questions))
    assert (result.documents, result.questions, result.gold_answers, result.misplaced_answers) == (1, 2, 1, 0)
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "questions")] == [
        ("5", None, None, None, None, None),
        ("q1", "Who?", "a", [{"text": "Ada", "start_char": 0}], "person", 1.0),
    ]
    rejects = {
        row["question_id"]: (row["document_id"], row["reason"], row["detail"])
        for row in rows(tmp_path / "out", "rejects")
    }
    assert rejects == {
        "q2": (
            "b",
            "invalid_unicode",
            f"'{letters}/b.txt': byte 2 is not UTF-8 (invalid start byte); save it as UTF-8, or name the encoding of "
            "such files with encoding=…, such as cp1252, gb18030 or utf-16-le",
        ),
        "q3": (
            "a.txt",
            "unknown_document",
            f"no text file 'a.txt' in '{letters}'; ids are paths in it without their suffix",
        ),
        "q5": (None, "invalid_unicode", "question: character 0 is the lone surrogate U+D800; fix the source"),
    }


def test_questions_are_read_from_parquet_with_their_other_columns(letters: Path, tmp_path: Path):
    gold = {"text": ["Ada", "here"], "answer_start": [0, 9]}
    table = pa.table(
        {"question_id": [1, 2], "question": ["Who?", "Where?"], "answers": [gold, None], "clause": ["x", "y"]}
    )
    pq.write_table(table, tmp_path / "q.parquet")
    result = prepare(str(letters), f"{tmp_path}/out", questions=f"{tmp_path}/q.parquet")
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "questions")] == [
        ("1", "Who?", None, [{"text": "Ada", "start_char": 0}, {"text": "here", "start_char": 9}], "x"),
        ("2", "Where?", None, None, "y"),
    ]
    assert (result.gold_answers, result.misplaced_answers) == (2, 0)
