"""YAML -> values, with text as it was written wherever a setting wants text.

YAML 1.1, which PyYAML reads, takes ``no`` for false, ``2024-11-25`` for a date and ``012`` for 10. Here the rules are
those of YAML 1.2: only null, true, false and numbers are no text. And where a setting wants text, these are text as
well: an output may be called 2024, a column true.
"""

import re
import types
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

NULL = re.compile(r"~|null|Null|NULL|")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)


class _Plain(str):
    """A value without quotes that YAML reads as a number, true or false: its text, with that reading."""

    reading: Any


class _Loader(yaml.SafeLoader):
    """The rules of YAML 1.2, and the merge key of 1.1; a key that occurs twice is an error."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is set twice, keep one", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _construct_plain(loader: _Loader, node: yaml.ScalarNode) -> _Plain:
    plain = _Plain(loader.construct_scalar(node))
    plain.reading = _reading(plain)
    return plain


def _reading(text: str) -> bool | int | float:
    lower = text.lower()
    if lower in ("true", "false"):
        return lower == "true"
    if lower.startswith(("0x", "0o")):
        return int(lower, 0)
    return (
        int(text) if re.fullmatch("[-+]?[0-9]+", text) else float(lower.replace(".inf", "inf").replace(".nan", "nan"))
    )


for _tag, _pattern, _first in (
    ("null", NULL, ["~", "n", "N", ""]),
    ("bool", BOOLEAN, list("tTfF")),
    ("float", NUMBER, list("-+.0123456789")),
    ("merge", re.compile("<<"), ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern.pattern})$"), _first)
for _tag in ("bool", "int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_plain)


def read_yaml(text: str, wanted: Any) -> Any:
    """The value of a YAML document for a setting, or a config, of the type ``wanted``.

    Raises:
        yaml.YAMLError: not YAML, or a key occurs twice.
    """
    return _as_wanted(yaml.load(text, _Loader), wanted)


def read_word(text: str, wanted: Any) -> Any:
    """The value of a word of the command line: YAML; where text is wanted, the word itself unless it is in quotes.

    A word has no comments: ``reports #2`` is a name.

    Raises:
        yaml.YAMLError: not YAML, or a comment behind a value in quotes or brackets.
    """
    text = text.strip()
    if takes_text(wanted) and not _is_marked(text, wanted):
        return text
    node = yaml.compose(text, _Loader)
    if node is not None and node.end_mark.index < len(text):
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            return text
        raise yaml.YAMLError(f"{text[node.end_mark.index :].strip()!r} is behind the value")
    return read_yaml(text, wanted)


def _is_marked(text: str, wanted: Any) -> bool:
    """Whether a word for a setting that takes text is null, in quotes, or a list where one is taken."""
    return bool(NULL.fullmatch(text)) or text[0] in "'\"" or (text[0] in "[{" and not _is_text(wanted))


def takes_text(wanted: Any) -> bool:
    """Whether a single word for a setting of this type is text: a string, one of several names, a list of strings."""
    if get_origin(wanted) in (Annotated, list):
        return takes_text(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        return all(takes_text(option) for option in get_args(wanted) if option is not type(None))
    return _is_text(wanted)


def _is_text(wanted: Any) -> bool:
    """Whether it is a string or one of several names, and nothing else but null."""
    if get_origin(wanted) is Annotated:
        return _is_text(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        return all(_is_text(option) for option in get_args(wanted) if option is not type(None))
    return wanted is str or (get_origin(wanted) is Literal and all(isinstance(name, str) for name in get_args(wanted)))


def _as_wanted(value: Any, wanted: Any) -> Any:
    if isinstance(value, _Plain):
        return str(value) if takes_text(wanted) else value.reading
    if isinstance(value, dict):
        return {
            str(key) if isinstance(key, _Plain) else key: _as_wanted(inner, _type_of_member(wanted, str(key)))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_as_wanted(item, _type_of_items(wanted)) for item in value]
    return value


def type_of_setting(config_class: type[BaseModel], key: str) -> Any:
    """The type of the setting ``key``, such as ``windows.max_tokens``; None if there is no such setting."""
    wanted: Any = config_class
    for name in key.split("."):
        wanted = _type_of_member(wanted, name)
    return wanted


def _type_of_member(wanted: Any, name: str) -> Any:
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        if name in wanted.model_fields:
            return wanted.model_fields[name].annotation
        return type_of_setting(wanted, name) if "." in name else None
    return get_args(wanted)[1] if get_origin(wanted) is dict else None


def _type_of_items(wanted: Any) -> Any:
    if get_origin(wanted) in (Annotated, Union, types.UnionType):
        return next((found for option in get_args(wanted) if (found := _type_of_items(option)) is not None), None)
    return get_args(wanted)[0] if get_origin(wanted) in (list, tuple) else None
