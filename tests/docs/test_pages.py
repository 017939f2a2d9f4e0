"""The pages of the documentation: links lead somewhere, and commands and settings exist."""

import re
from pathlib import Path

import pytest

from qa_ray.config import CONFIGS
from qa_ray.config.load import known_keys

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(REPOSITORY)
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "cluster/*.md", ".github/*.md", "qa_ray/assets/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
KEYS = {verb: set(known_keys(config)) for verb, config in CONFIGS.items()}
ALL_KEYS = set().union(*KEYS.values())
SECTIONS = {key.split(".")[0] for key in ALL_KEYS if "." in key}


def read(page: Path) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(read(Path("README.md")).splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", read(page))
    assert [link for link in links if not (REPOSITORY / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_their_settings_exist(page: Path) -> None:
    code = "\n".join(re.findall(r"^```(?:sh|bash)\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE))
    for verb, rest in re.findall(r"^\s*(?:\S+/)?qa-ray +(\w+)(.*)$", code.replace("\\\n", " "), re.MULTILINE):
        assert verb in {*CONFIGS, "init", "submit"}, verb
        keys = re.findall(r"(?<=\s)'?([a-z_.]+)=", rest.partition("#")[0].partition("&&")[0])
        known = KEYS.get(verb, ALL_KEYS)
        assert [key for key in keys if key not in known] == [], f"qa-ray {verb}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_settings_in_the_text_exist(page: Path) -> None:
    names = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.\w+)(?:[=:][^`]*)?`", read(page))
    files = {"runner.py", "windows.py", "answers.py", "storage.py", "training.md"}
    assert [name for name in names if name not in ALL_KEYS | files] == []


def test_the_security_policy_says_how_to_report_a_vulnerability_and_is_linked() -> None:
    policy = read(Path(".github/SECURITY.md"))  # where GitHub looks for it
    assert "**Report a vulnerability**" in policy
    assert "@" not in policy
    for page in ("README.md", "CONTRIBUTING.md", "cluster/SECURITY.md"):
        assert ".github/SECURITY.md" in read(Path(page)), page
