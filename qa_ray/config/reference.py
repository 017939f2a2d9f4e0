"""The config classes -> the reference page ``docs/reference/config.md``.

A table for each section, with a row for each setting; sections that several jobs share are at the end.

In the root of the repository, ``python -m qa_ray.config.reference`` writes that page and all else that is generated:
the templates in ``configs``, and the table of settings in ``docs/reference/python.md``.
"""

import re
from collections import Counter
from pathlib import Path

from qa_ray.config import CONFIGS, template
from qa_ray.config.fields import Setting, SettingsSection, as_yaml, describe
from qa_ray.inference.settings import InferenceSettings

INTRODUCTION = """\
# Configuration

<!-- Generated from the classes in qa_ray/config by `make reference`. Edit the descriptions there. -->

Every job reads one YAML file: `qa-ray VERB FILE.yaml`. `qa-ray init VERB > FILE.yaml` writes a complete one with
comments. The file may also be at a URI such as `s3://bucket/answer.yaml`.

Any setting can be given on the command line instead, as `key=value` with a dot between section and key. It overrides
the file; quote what the shell would change:

```sh
qa-ray answer answer.yaml documents=data/documents windows.max_tokens=512 'runner.actors=[1, 4]'
```

Values are YAML by the rules of its version 1.2. Where a setting wants text, it is the text as written: `no`, `on`,
`2024-11-25`, `012` and `1e3` are names. So are `reports #2`, `@daily` and `a: b` on the command line; a file needs them
in quotes, because ` #` begins a comment there. `null` needs them in both: `"columns.text='null'"`. Aliases (`*name`)
and merged keys (`<<`) work, in a file of up to 100,000 values; tags such as `!!set` do not, nor integers above 64 bits.

An unknown key, a missing one and a wrong value are errors: the command exits with 2 before anything is run. What
*unset* means for a setting is in its description; `null` is the same as leaving it out. Paths are local, or URIs that
[fsspec](https://filesystem-spec.readthedocs.io) supports; credentials are not allowed in them.
"""
HEADER = "| key | type | default | description |\n|---|---|---|---|"


def render() -> str:
    """The page as Markdown."""
    roots = {verb: describe(config) for verb, config in CONFIGS.items()}
    uses = Counter(section.class_name for root in roots.values() for section in root.sections)
    parts, shared = [INTRODUCTION], {}
    for verb, root in roots.items():
        titles = {}
        for section in root.sections:
            if uses[section.class_name] > 1:
                titles[section.name] = f"Shared: {section.name}"
                shared.setdefault(section.class_name, _table(titles[section.name], section))
            else:
                titles[section.name] = f"{verb}: {section.name}"
        parts.append(_table(f"qa-ray {verb}", root, titles))
        parts += [_table(titles[section.name], section) for section in root.sections if uses[section.class_name] == 1]
    return "\n".join([*parts, *shared.values()])


def _table(title: str, section: SettingsSection, titles: dict[str, str] | None = None) -> str:
    """A heading, a description and the settings; ``titles`` are those of the tables of its sections."""
    heading = "##" if titles else "###"
    rows = [
        _setting_row(member) if isinstance(member, Setting) else _section_row(member, (titles or {})[member.name])
        for member in section.members
    ]
    return "\n".join([f"{heading} {title}", "", section.description, "", HEADER, *rows, ""])


def _section_row(section: SettingsSection, title: str) -> str:
    anchor = title.lower().replace(":", "").replace(" ", "-")
    return f"| [`{section.name}`](#{anchor}) | section | | {_one_line(section.description)} |"


def _setting_row(setting: Setting) -> str:
    if setting.is_required:
        default = "**required**"
    elif setting.model_default is not None:
        default = f"the model's own, else `{as_yaml(setting.model_default)}`"
    else:
        default = "*unset*" if setting.default is None else f"`{as_yaml(setting.default)}`"
    examples = ", ".join(f"`{as_yaml(example)}`" for example in setting.examples)
    description = _one_line(setting.description) + (f" Example: {examples}" if examples else "")
    return f"| `{setting.name}` | {setting.type} | {default} | {description} |"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def python_settings() -> str:
    """The table of settings in ``docs/reference/python.md``."""
    rows = [
        f"| `{name}` | `{field.default!r}` | {field.description} |"
        for name, field in InferenceSettings.model_fields.items()
    ]
    return "\n".join(["| setting | default | description |", "|---|---|---|", *rows, ""])


def write_all(repository: Path) -> None:
    """Writes everything that is generated from the config classes."""
    texts = {f"configs/{name}.yaml": template.render(name) for name in template.TEMPLATES}
    texts["docs/reference/config.md"] = render()
    page = (repository / "docs/reference/python.md").read_text(encoding="utf-8")
    table = re.compile(r"^\| setting \| default \|.*\n(\|.*\n)*", re.MULTILINE)
    texts["docs/reference/python.md"] = table.sub(lambda _: python_settings(), page)
    for name, text in texts.items():
        (repository / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_all(Path())
