"""examples/: the commands of each job run, and give the answers that its README shows."""

import shlex
from pathlib import Path

import pyarrow.parquet
import pytest
from doc_pages import agree, commands_and_outputs

from qa_ray.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["contracts", "papers", "filings"])
def test_an_example_gives_the_answers_that_its_readme_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_session: None
) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    readme = EXAMPLES / name / "README.md"

    for commands, shown in commands_and_outputs(readme):
        capsys.readouterr()
        for command in commands.replace("\\\n", "").split("&&"):
            program, verb, *words = shlex.split(command)
            assert program == "qa-ray"
            assert main([verb, *words, *(["runner.dtype=float32"] if verb == "answer" else [])]) == 0
        printed = capsys.readouterr().out
        assert not shown or agree(shown, printed), printed

    table = answer_table(tmp_path / "build" / "examples" / name / "output")
    shown = "".join(line for line in readme.read_text(encoding="utf-8").splitlines(True) if line.startswith("|"))
    assert agree(shown, table), table


def answer_table(output: Path) -> str:
    """The answers and their scores as Markdown: a column for each document, or a row if each has its own questions."""
    rows = pyarrow.parquet.read_table(output / "answers").to_pylist()
    cells = {(row["question"], row["document_id"]): cell(row) for row in sorted(rows, key=by_id)}
    documents = list(dict.fromkeys(document for _, document in cells))
    questions = list(dict.fromkeys(question for question, _ in cells))
    if len(cells) == len(documents) * len(questions):
        lines = [["question", *documents], ["---"] * (1 + len(documents))]
        lines += [[question, *(cells[question, document] for document in documents)] for question in questions]
    else:
        lines = [["document", "question", "answer"], ["---"] * 3]
        lines += [[document, question, text] for (question, document), text in cells.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def by_id(row: dict[str, str]) -> tuple[str, str]:
    return row["document_id"], row["question_id"]


def cell(row: dict[str, str]) -> str:
    return "none" if row["answer"] is None else f"{' '.join(row['answer'].split())} ({row['score']:.2f})"
