"""A config class -> its sections and settings as plain text, for templates and the reference page.

The source is pydantic's JSON schema, which has every type, bound, default, description and example of the class.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from qa_ray.config.sections import JobConfig


@dataclass(frozen=True)
class Setting:
    """A key with a value."""

    name: str
    type: str  # in words, Markdown: "`auto` or integer > 0"
    limits: str  # of its values, if they are a choice or a range: "One of: auto, cpu, cuda."
    description: str
    default: Any
    model_default: Any  # where the default is the model's own value: that of a model which has none
    is_required: bool
    examples: tuple[Any, ...]


@dataclass(frozen=True)
class SettingsSection:
    """A key with settings below; the root of a config has no name."""

    name: str
    class_name: str  # two sections of one class have the same settings
    description: str
    members: tuple["Setting | SettingsSection", ...]

    @property
    def settings(self) -> Iterator[Setting]:
        """The settings right in this section."""
        return (member for member in self.members if isinstance(member, Setting))

    @property
    def sections(self) -> Iterator["SettingsSection"]:
        """The sections right in this section."""
        return (member for member in self.members if isinstance(member, SettingsSection))


def describe(config_class: type[JobConfig]) -> SettingsSection:
    """The config's sections and settings, in the order of their declaration."""
    schema = config_class.model_json_schema()
    return _section("", schema, schema["$defs"])


def as_yaml(value: Any) -> str:
    """The value on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def _section(name: str, schema: dict[str, Any], classes: dict[str, Any], description: str = "") -> SettingsSection:
    members = []
    for key, value in schema["properties"].items():
        if "$ref" in value:
            inner = classes[value["$ref"].rpartition("/")[2]]
            members.append(_section(key, inner, classes, value.get("description", "")))
        else:
            members.append(_setting(key, value, is_required=key in schema.get("required", ())))
    return SettingsSection(name, schema["title"], description or schema["description"], tuple(members))


def _setting(name: str, schema: dict[str, Any], *, is_required: bool) -> Setting:
    return Setting(
        name=name,
        type=_type(schema),
        limits=_limits(schema),
        description=schema["description"],
        default=schema.get("default"),
        model_default=schema.get("model_default"),
        is_required=is_required,
        examples=tuple(schema.get("examples", ())),
    )


def _type(schema: dict[str, Any]) -> str:
    """The type in words; whether null is allowed is left to the default and the description."""
    if "anyOf" in schema:
        return _either(_type(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema:
        return _either(f"`{name}`" for name in schema["enum"])
    match schema.get("type"):
        case _ if "const" in schema:
            return f"`{schema['const']}`"
        case _ if "$ref" in schema:
            return "map"
        case "integer" | "number" as number:
            return f"{number} {_range(schema)}".strip()
        case "array" if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
        case "array":
            return f"list: {_type(schema['items'])}"
        case "object":
            values = schema.get("additionalProperties")
            return f"map to {_type(values)}" if isinstance(values, dict) else "map"
        case "boolean":
            return "`true` or `false`"
        case other:
            return schema.get("format", str(other))


def _either(options: Iterable[str]) -> str:
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def _range(schema: dict[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:g} to {schema['maximum']:g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " and ".join(f"{sign} {schema[bound]:g}" for bound, sign in signs.items() if bound in schema)


def _limits(schema: dict[str, Any]) -> str:
    for option in schema.get("anyOf", [schema]):
        option = option.get("items", option)
        if "enum" in option:
            return f"One of: {', '.join(option['enum'])}."
        if (interval := _range(option)).startswith("from"):
            return f"{interval.capitalize()}."
    return ""
