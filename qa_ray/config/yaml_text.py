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

from qa_ray.wording import shown

NULL = re.compile(r"~|null|Null|NULL|")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)
MERGE = "tag:yaml.org,2002:merge"
MAX_INTEGER, MAX_INTEGER_CHARS = 1 << 63, 100
MAX_VALUES, MAX_DEPTH = 100_000, 50
"""No job needs more; PyYAML itself takes memory without end for aliases of aliases, and some 250 levels."""


class _Plain(str):
    """A value without quotes that YAML reads as a number, true or false: its text, with that reading."""

    mark: yaml.Mark

    @property
    def reading(self) -> bool | int | float:
        """Raises a YAMLError for an integer of more than 64 bits: no setting takes it, nor does JSON for certain."""
        lower = self.lower()
        if lower in ("true", "false"):
            return lower == "true"
        if not re.fullmatch("[-+]?[0-9]+|0[ox].+", lower):
            return float(lower.replace(".inf", "inf").replace(".nan", "nan"))
        number = int(lower, 0 if lower[:2] in ("0o", "0x") else 10) if len(lower) <= MAX_INTEGER_CHARS else MAX_INTEGER
        if abs(number) >= MAX_INTEGER:
            raise _error(f"{shown(str(self))} is an integer of more than 64 bits", self.mark)
        return number


class _Loader(yaml.SafeLoader):
    """The rules of YAML 1.2, and the merge key of 1.1. All keys are text; one that occurs twice is an error.

    Values are those of JSON: other tags are errors, and so are halves of UTF-16 pairs that have no other half, and a
    value within itself. A file has up to MAX_VALUES values, each counted as often as it is used, up to MAX_DEPTH deep.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    yaml_constructors: ClassVar[dict[Any, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(f"tag:yaml.org,2002:{name}" for name in ("str", "null", "seq", "map")), None)
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._num_values = 0
        self._sizes: dict[yaml.Node, int] = {}  # in values, of what is complete

    def get_single_node(self) -> yaml.Node | None:
        try:
            return super().get_single_node()
        except (ValueError, OverflowError) as error:  # PyYAML lets pass what chr and int refuse: "\UFFFFFFFF"
            raise _error("no character or version of YAML has this number", self.get_mark()) from error

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if self._depth == MAX_DEPTH:
            raise _error(f"more than {MAX_DEPTH} values are within each other", event.start_mark)
        self._depth += 1
        num_before = self._num_values
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _error(f"'*{event.anchor}' is within the value that it stands for", event.start_mark)
            self._num_values += self._sizes[node]
        elif node is not None:
            self._num_values += 1
            self._sizes[node] = self._num_values - num_before
        if self._num_values > MAX_VALUES:
            raise _error(f"more than {MAX_VALUES:,} values, with those that '*' repeats", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for number, (key, value) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _error(f"{shown(key.value)} is set twice, keep one", key.start_mark)
                seen.add(key.value)
                tag = key.tag if key.tag == MERGE else self.DEFAULT_SCALAR_TAG
                node.value[number] = yaml.ScalarNode(tag, key.value, key.start_mark, key.end_mark, key.style), value
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        if not isinstance(text, str) or not re.search("[\ud800-\udfff]", text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")  # "\ud83e\udd8a", as JSON has it
        except UnicodeDecodeError as error:
            raise _error(f"{shown(text)} has half of a UTF-16 pair", node.start_mark) from error


def _error(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _construct_plain(loader: _Loader, node: yaml.ScalarNode) -> _Plain:
    plain = _Plain(loader.construct_scalar(node))
    plain.mark = node.start_mark
    if not BOOLEAN.fullmatch(plain) and not NUMBER.fullmatch(plain):  # with a tag such as !!int
        raise _error(f"{shown(str(plain))} is not {node.tag.rpartition(':')[2]}", node.start_mark)
    return plain


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
        yaml.YAMLError: not YAML, or not as _Loader takes it.
    """
    return _as_wanted(yaml.load(text, _Loader), wanted)


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that ``read_yaml`` reads as these values: ``1e3`` is in quotes if it is text, which 1.1 does not need."""
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    def represent_str(self, data: str) -> yaml.ScalarNode:
        is_text = data.isprintable() and not any(pattern.fullmatch(data) for pattern in (NULL, BOOLEAN, NUMBER))
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if is_text else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


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
        return {key: _as_wanted(inner, _type_of_member(wanted, key)) for key, inner in value.items()}
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
