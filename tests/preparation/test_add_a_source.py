"""The example in docs/how-to/add-a-source.md, added to the table of sources, is prepared like any other."""

import re
from pathlib import Path

import pytest
from source_files import rows

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
    with pytest.raises(ConfigError, match="layout='csv' is unknown; give one of auto, squad, text, dataset, lines"):
        prepare(letters_tsv, f"{tmp_path}/out", layout="csv")


def test_an_option_that_no_source_has_is_refused(letters_tsv: str, tmp_path: Path):
    with pytest.raises(
        ConfigError, match="sep=',': no layout has this option; known ones are columns, join, questions"
    ):
        prepare(letters_tsv, f"{tmp_path}/out", layout="squad", sep=",")
