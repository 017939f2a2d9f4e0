"""docs/tutorial.md: its commands run in order in an empty folder and print what the page shows.

`PYTHONPATH=tests/support python tests/docs/test_tutorial.py` puts what they print now into the page.
"""

import tempfile
from pathlib import Path

from doc_pages import agree, commands_and_outputs, run_commands

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
FOLDER = "/home/alex/tutorial"  # the folder that the page shows, as long as the real one's name


def new_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tutor-", dir="/tmp")


def steps() -> list[tuple[str, str]]:
    """The commands after the installation, with the outputs that the page shows."""
    (install, _), *others = commands_and_outputs(PAGE)
    assert install.endswith("pip install /path/to/qa-ray\n")
    return others


def test_the_commands_of_the_tutorial_print_what_the_page_shows() -> None:
    with new_folder() as folder:
        for commands, shown in steps():
            printed = run_commands(commands, folder).replace(folder, FOLDER)
            assert not shown or agree(shown, printed), f"{commands}\nthe page shows:\n{shown}\nprinted:\n{printed}"


def test_outputs_agree_up_to_times_and_rounding() -> None:
    assert agree("score 0.93, in 40 s", "score  0.95,\nin 7 s")
    assert agree("│ actors │ 1 on cpu │ 0.9", "│ actors │ 2 on cuda │ 0.9")
    assert not agree("score 0.93", "score 0.70")
    assert not agree("Ida Brandt  score 0.93", "Ida  score 0.93")
    assert not agree("│ actors │ 1 on cpu │ 0.9", "│ actors │ 2 on cuda │ 0.1")


def write_page() -> None:
    """Replaces each output on the page by what its commands print."""
    page = PAGE.read_text(encoding="utf-8")
    with new_folder() as folder:
        for commands, shown in steps():
            printed = run_commands(commands, folder).replace(folder, FOLDER)
            block = f"```sh\n{commands}```\n\n```text\n"
            page = page.replace(f"{block}{shown}```\n", f"{block}{printed}```\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write_page()
