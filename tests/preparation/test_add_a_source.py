"""The example in docs/how-to/add-a-source.md, added to the table of sources, is prepared like any other."""

import re
from pathlib import Path

import pytest
from source_files import rows

from qa_ray.cli.main import main
from qa_ray.errors import ConfigError
from qa_ray.preparation import sources
from qa_ray.preparation.job import prepare
from qa_ray.preparation.sources import SOURCES
from qa_ray.preparation.sources.base import Source

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-source.md"


@pytest.fixture
def example() -> Source:
    """The source that the page's code block defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Source] = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace["SOURCE"]


@pytest.fixture
def letters_tsv(tmp_path: Path) -> str:
    (tmp_path / "letters.tsv").write_text("a\tAda was here. 🦊\tWho was here?\nb\tBob was there.\n", encoding="utf-8")
    return f"{tmp_path}/letters.tsv"


def test_a_source_added_to_the_table_is_prepared(
    example: Source, letters_tsv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SOURCES, "lines", example)
    result = prepare(letters_tsv, f"{tmp_path}/out", layout="lines")
    assert (result.layout, result.documents, result.questions, result.rejects) == ("lines", 2, 1, 0)
    assert rows(tmp_path / "out", "documents") == [
        {"document_id": "a", "text": "Ada was here. 🦊"},
        {"document_id": "b", "text": "Bob was there."},
    ]
    assert rows(tmp_path / "out", "questions") == [
        {"question_id": "q1", "question": "Who was here?", "document_id": "a", "answers": None}
    ]


def test_a_source_above_the_datasets_is_detected(
    example: Source, letters_tsv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "SOURCES", {"lines": example, **SOURCES})
    assert prepare(letters_tsv, f"{tmp_path}/out").layout == "lines"


def test_an_unknown_layout_error_lists_the_added_source(
    example: Source, letters_tsv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SOURCES, "lines", example)
    assert "lines" in SOURCES
    with pytest.raises(ConfigError, match=f"layout='no-such' is unknown; give one of auto, {', '.join(SOURCES)}"):
        prepare(letters_tsv, f"{tmp_path}/out", layout="no-such")


def test_an_option_that_no_source_has_is_refused(letters_tsv: str, tmp_path: Path):
    known = ", ".join(sorted({option for source in SOURCES.values() for option in source.options}))
    with pytest.raises(ConfigError, match=f"no_such=1: no layout has this option; known ones are {known}"):
        prepare(letters_tsv, f"{tmp_path}/out", layout="squad", no_such=1)


def test_an_id_with_another_text_is_rejected_with_its_questions_and_equal_documents_are_one(
    example: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(SOURCES, "lines", example)
    lines = [
        "a\tAda was here.\tWho?",
        "a\tBob was there.\tWhere?",
        "a\tAda was here.\tWhere?",
        "a\tBob was there.",
        "b\tBob was there.",
    ]
    (tmp_path / "twice.tsv").write_text("\n".join(lines))
    (tmp_path / "prepare.yaml").write_text(f"source: {tmp_path}/twice.tsv\noutput: {tmp_path}/out\nlayout: lines\n")
    assert main(["prepare", f"{tmp_path}/prepare.yaml", "prefix=x/"]) == 3
    printed = capsys.readouterr().out
    assert "2 documents, 2 questions, 2 rejects" in printed
    assert f"rejects: duplicate_document_id 2; see {tmp_path}/out/rejects" in printed
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "documents")] == [
        ("x/a", "Ada was here."),
        ("x/b", "Bob was there."),
    ]
    assert [(row["document_id"], row["question_id"]) for row in rows(tmp_path / "out", "questions")] == [
        ("x/a", "q1"),
        ("x/a", "q3"),
    ]
    detail = "document_id 'x/a' is already that of another text; give each text its own id"
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "rejects")] == [
        ("x/a", question_id, "prepare", "duplicate_document_id", detail) for question_id in ("q2", None)
    ]
