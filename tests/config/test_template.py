import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from qa_ray.config import CONFIGS, AnswerConfig, FinetuneConfig, check_config
from qa_ray.config.load import known_keys
from qa_ray.config.template import COLUMNS, TEMPLATES, render

CONFIG_FILES = Path(__file__).parents[2] / "configs"
UNSET = re.compile(r"^( *)#(\w+: )", re.MULTILINE)


def keys_of(values: dict, prefix: str = "") -> set[str]:
    sections = {name: value for name, value in values.items() if isinstance(value, dict) and value}
    return {prefix + name for name in values.keys() - sections.keys()}.union(
        *(keys_of(value, f"{prefix}{name}.") for name, value in sections.items())
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_file_in_configs_is_what_init_prints(name: str):
    assert (CONFIG_FILES / f"{name}.yaml").read_text() == render(name), "run: make reference"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_a_valid_config(name: str):
    check_config(TEMPLATES[name].config, yaml.safe_load(render(name)), name)


@pytest.mark.parametrize("verb", CONFIGS)
def test_a_template_has_the_defaults(verb: str):
    values = yaml.safe_load(render(verb))
    required = {name: values[name] for name, field in CONFIGS[verb].model_fields.items() if field.is_required()}
    assert check_config(CONFIGS[verb], values, verb) == check_config(CONFIGS[verb], required, verb)


@pytest.mark.parametrize("verb", CONFIGS)
def test_a_template_has_every_key_and_its_examples_are_valid(verb: str):
    values = yaml.safe_load(UNSET.sub(r"\1\2", render(verb)))
    check_config(CONFIGS[verb], values, verb)
    if "read" in values.get("windows", {}):  # its value is a map
        values["windows"]["read"] = "all"
    assert keys_of(values) == set(known_keys(CONFIGS[verb]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_comments_are_wrapped(name: str):
    assert max(map(len, render(name).splitlines())) <= COLUMNS


def test_every_setting_has_a_description():
    for config in CONFIGS.values():
        text = render(config.verb).splitlines()
        for before, line in pairwise(text):
            if re.match(r" *#?\w+:", line):
                assert before.lstrip().startswith("# "), line


def test_calibrate_leaves_the_weights_as_they_are():
    config = check_config(FinetuneConfig, yaml.safe_load(render("calibrate")), "calibrate")
    assert config.training.epochs == 0


def test_a_printed_config_with_two_lines_edited_is_what_was_meant(tmp_path: Path):
    command = [sys.executable, "-m", "qa_ray", "init", "answer"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    edited = text.replace("documents: data/documents", "documents: mine").replace(
        "  #max_tokens: 384", "  max_tokens: 64"
    )
    config = check_config(AnswerConfig, yaml.safe_load(edited), "answer.yaml")
    assert (config.documents, config.windows.model_dump()["max_tokens"], config.answers) == (
        "mine", 64, AnswerConfig.model_fields["answers"].default,
    )  # fmt: skip
