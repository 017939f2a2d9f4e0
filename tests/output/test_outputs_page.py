"""docs/reference/outputs.md names every column of the tables; tests/answering/test_job.py checks the JSON files."""

from pathlib import Path

import pytest

from qa_ray.schemas import ANSWERS, REJECTS, SPAN

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "outputs.md"


@pytest.mark.parametrize("name", dict.fromkeys([*ANSWERS.names, *REJECTS.names, *(field.name for field in SPAN)]))
def test_the_page_has_every_column(name: str):
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
