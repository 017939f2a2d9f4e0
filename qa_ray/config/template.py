"""A config class -> a complete YAML config with comments, as ``qa-ray init`` prints it.

Required settings have placeholders, the others their defaults. A setting that is unset by default is commented out
(``#max_tokens: 384``, without a space after the sign, as in sshd_config), with an example value.
"""

import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qa_ray.config import CONFIGS, AnswerConfig, FinetuneConfig, JobConfig
from qa_ray.config.fields import Setting, SettingsSection, as_yaml, describe

COLUMNS = 100
LEGEND = (
    "The first settings are required: put your own paths there. All others have their defaults. A line such as "
    '"#name: value" is a setting that is unset by default, with an example: remove the # to set it. Any setting can '
    "also be given on the command line, as section.name=value, which overrides this file."
)


@dataclass(frozen=True)
class Template:
    """What ``qa-ray init`` prints under a name: a config, or a few of its settings with values of their own."""

    config: type[JobConfig]
    about: str = ""
    keys: Collection[str] = ()  # all if empty
    values: Mapping[str, Any] = field(default_factory=dict)
    option: str = ""  # of the command, worth knowing at once


TEMPLATES = {verb: Template(config) for verb, config in CONFIGS.items()} | {
    "answer": Template(AnswerConfig, option="      (--check: checks everything, prints the plan, runs nothing)"),
    "calibrate": Template(
        FinetuneConfig,
        about="Calibrates a model on questions with gold answers that it was not trained on: fits its scores, so that "
        "eight in ten answers with a score of 0.8 are right, and the no-answer threshold with the best F1. The weights "
        "stay as they are; qa_ray.json in output/model gets score_slope, score_intercept and no_answer_threshold.",
        keys=("documents", "questions", "output", "model", "training.epochs"),
        values={"output": "out/calibrated", "training.epochs": 0},
    ),
}


def render(name: str) -> str:
    """The YAML text of TEMPLATES[name]; itself a valid config."""
    template = TEMPLATES[name]
    verb, root = template.config.verb, describe(template.config)
    lines = [*_comment(template.about or root.description), "#", f"#   qa-ray {verb} {name}.yaml{template.option}"]
    if not template.keys:
        lines += ["#", *_comment(LEGEND)]
    return "\n".join([*lines, *_members(root, template), ""])


def _members(section: SettingsSection, template: Template, prefix: str = "") -> Iterator[str]:
    indent = "  " * bool(prefix)
    for member in section.members:
        key = prefix + member.name
        if template.keys and not any(chosen == key or chosen.startswith(f"{key}.") for chosen in template.keys):
            continue
        if not prefix:
            yield ""
        if isinstance(member, Setting):
            yield from _comment(f"{member.description} {_hints(member)}".strip(), indent)
            yield indent + _line(member, key, template.values)
        else:
            yield from _comment(member.description, indent)
            yield f"{indent}{member.name}:"
            yield from _members(member, template, f"{key}.")


def _hints(setting: Setting) -> str:
    """What the value may be, and what it is if unset; an example where the line itself shows none."""
    model_default = setting.model_default
    shows_value = setting.is_required or setting.default is None
    hints = [
        setting.limits,
        "" if model_default is None else f"Default: the model's own, else {as_yaml(model_default)}.",
        "" if shows_value or not setting.examples else f"Example: {', '.join(map(as_yaml, setting.examples))}",
    ]
    return " ".join(filter(None, hints))


def _line(setting: Setting, key: str, values: Mapping[str, Any]) -> str:
    if key in values or not (setting.is_required or setting.default is None):
        return f"{setting.name}: {as_yaml(values.get(key, setting.default))}"
    example = setting.examples[0] if setting.examples else setting.model_default
    return f"{'' if setting.is_required else '#'}{setting.name}: {as_yaml(example)}"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        COLUMNS,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )
