"""docs/reference/python.md: its examples are true, and its table lists every setting."""

import doctest
from inspect import getfullargspec
from pathlib import Path

from qa_ray import Reader
from qa_ray.config.reference import python_settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"


def test_the_table_lists_every_setting_with_its_default_and_description():
    assert python_settings() in PAGE.read_text(encoding="utf-8"), "run: make reference"


def test_the_arguments_of_the_reader_are_listed_with_their_defaults():
    defaults = {"model": '"default"'} | {
        name: f'"{value}"' if isinstance(value, str) else str(value)
        for name, value in (getfullargspec(Reader).kwonlydefaults or {}).items()
    }
    for name, default in defaults.items():
        assert f"| `{name}` | `{default}` | " in PAGE.read_text(encoding="utf-8")


def test_the_examples_are_true():
    failures, examples = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (failures, examples > 5) == (0, True)
