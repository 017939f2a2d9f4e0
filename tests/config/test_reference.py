from pathlib import Path

from qa_ray.config import CONFIGS
from qa_ray.config.load import known_keys
from qa_ray.config.reference import render, write_all
from qa_ray.config.template import TEMPLATES

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "config.md"


def test_the_page_is_current():
    assert PAGE.read_text() == render(), "run: make reference"


def test_all_generated_texts_are_written(tmp_path: Path):
    generated = [
        "docs/reference/config.md",
        "docs/reference/python.md",
        *(f"configs/{name}.yaml" for name in TEMPLATES),
    ]
    for name in generated:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    page = (REPOSITORY / "docs/reference/python.md").read_text()
    (tmp_path / "docs/reference/python.md").write_text(page.replace("| `max_tokens` |", "| `old_name` |"))
    write_all(tmp_path)
    for name in generated:
        assert (tmp_path / name).read_text() == (REPOSITORY / name).read_text()


def test_the_page_has_every_key():
    page = render()
    for key in (key for config in CONFIGS.values() for key in known_keys(config)):
        assert f"| `{key.rpartition('.')[2]}` |" in page


def test_links_lead_to_headings():
    lines = render().splitlines()
    headings = {line.strip("# ").lower().replace(":", "").replace(" ", "-") for line in lines if line.startswith("#")}
    links = [line.partition("](#")[2].partition(")")[0] for line in lines if "](#" in line]
    assert set(links) <= headings


def test_rows_have_four_cells():
    rows = [line for line in render().splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}
