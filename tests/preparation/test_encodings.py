"""Text that is not UTF-8 is read where that is certain; all other files are named, with the byte and the remedy."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from source_files import article, paragraph, qa, rows, squad

from qa_ray.cli.main import main
from qa_ray.errors import ConfigError, InputError
from qa_ray.preparation.job import prepare

TEXT = "Ærø, 文字 🦊"
REMEDY = "save it as UTF-8, or name the encoding of such files with encoding=…, such as cp1252, gb18030 or utf-16-le"


def texts(output: object) -> dict[str, str]:
    return {row["document_id"]: row["text"] for row in rows(output, "documents")}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf_8_and_whatever_a_byte_order_mark_says_are_read(tmp_path: Path, encoding: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(TEXT, encoding=encoding)
    (tmp_path / "q.txt").write_text(f"{TEXT}?", encoding=encoding)
    assert prepare(f"{tmp_path}/in", f"{tmp_path}/out", questions=f"{tmp_path}/q.txt").rejects == 0
    assert texts(tmp_path / "out") == {"a": TEXT}
    assert rows(tmp_path / "out", "questions")[0]["question"] == f"{TEXT}?"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Ærø".encode("cp1252"), "byte 0 is not UTF-8 (invalid continuation byte)"),
        (b"plain" + "Ærø".encode("cp1252"), "byte 5 is not UTF-8 (invalid continuation byte)"),
        ("Oslo".encode("utf-16-le"), "byte 1 is NUL, as in UTF-16 or a file that is not text"),
        ("文字".encode("iso2022_jp"), "byte 0 is an escape of ISO 2022"),
        (b"\xff\xfea", "byte 2 is not UTF-16 (truncated data)"),
    ],
)
def test_other_text_files_are_rejects_with_the_byte_and_the_remedy(tmp_path: Path, content: bytes, expected: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(content)
    (tmp_path / "in" / "b.txt").write_text("fine")
    prepare(f"{tmp_path}/in", f"{tmp_path}/out")
    assert texts(tmp_path / "out") == {"b": "fine"}
    (reject,) = rows(tmp_path / "out", "rejects")
    assert reject == {
        "document_id": "a",
        "question_id": None,
        "stage": "prepare",
        "reason": "invalid_unicode",
        "detail": f"'{tmp_path}/in/a.txt': {expected}; {REMEDY}",
    }


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16-le", "utf-8"])
def test_the_encoding_is_for_the_files_that_are_not_utf_8(tmp_path: Path, encoding: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(f"abc {TEXT}".encode(encoding))
    (tmp_path / "in" / "b.txt").write_text(TEXT, encoding="utf-8")
    prepare(f"{tmp_path}/in", f"{tmp_path}/out", encoding=encoding)
    assert texts(tmp_path / "out") == {"a": f"abc {TEXT}", "b": TEXT}


def test_tables_and_squad_json_have_encodings_too(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes("id,context,question\n1,Ærø,Who?\n".encode("cp1252"))
    with pytest.raises(
        InputError, match=re.escape(f"a.csv': byte 22 is not UTF-8 (invalid continuation byte); {REMEDY}")
    ):
        prepare(f"{tmp_path}/a.csv", f"{tmp_path}/out")
    prepare(f"{tmp_path}/a.csv", f"{tmp_path}/out", encoding="cp1252")
    assert [*texts(tmp_path / "out").values()] == ["Ærø"]
    content = json.dumps(squad(article("T", paragraph(TEXT, qa("1")))), ensure_ascii=False)
    (tmp_path / "dev.json").write_text(content, encoding="utf-16")
    prepare(f"{tmp_path}/dev.json", f"{tmp_path}/out of json")
    assert texts(tmp_path / "out of json") == {"T#1": TEXT}


@pytest.mark.parametrize("encoding", ["no-such", "hex"])
def test_an_unknown_encoding_is_refused(tmp_path: Path, encoding: str):
    with pytest.raises(ConfigError, match=rf"encoding='{encoding}': .*; give one such as cp1252, gb18030 or utf-16-le"):
        prepare(str(tmp_path), f"{tmp_path}/out", encoding=encoding)


def test_the_encoding_is_a_setting(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("Ærø".encode("cp1252"))
    (tmp_path / "prepare.yaml").write_text(f"source: {tmp_path}/a.txt\noutput: {tmp_path}/out\n")
    assert main(["prepare", f"{tmp_path}/prepare.yaml", "encoding=cp1252"]) == 0
    assert texts(tmp_path / "out") == {"a": "Ærø"}


@pytest.mark.parametrize(
    "options", [{"encoding": "x" * 5_000}, {"layout": "x" * 5_000}, {"columns": {"x" * 5_000: "y"}}]
)
def test_long_options_are_shortened_in_messages(tmp_path: Path, options: dict[str, Any]):
    (tmp_path / "a.csv").write_text("id,context\n1,Ada was here.\n")
    with pytest.raises(ConfigError) as error:
        prepare(f"{tmp_path}/a.csv", f"{tmp_path}/out", **options)
    assert len(str(error.value)) < 500
