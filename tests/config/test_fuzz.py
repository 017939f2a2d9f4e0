"""Whatever a file and a command line hold: a valid config, or a ConfigError with its place, its key and few words.

``FUZZ_EXAMPLES=100000 pytest tests/config/test_fuzz.py`` looks for longer.
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_ray.config import CONFIGS, AnswerConfig, JobConfig, read_config
from qa_ray.config.load import known_keys
from qa_ray.config.template import render
from qa_ray.config.yaml_text import write_yaml
from qa_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
MEMORY = fsspec.filesystem("memory")
FILE = "memory://fuzz/job.yaml"
MAX_CHARS, MAX_SECONDS = 1_000, 30
TEMPLATES = [(CONFIGS[verb], render(verb)) for verb in CONFIGS]
FILES = [*TEMPLATES, *((AnswerConfig, path.read_text()) for path in (ROOT / "configs").glob("*-gpu*.yaml"))]
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

config_classes = st.sampled_from([*CONFIGS.values()])
SYNTAX = [
    *("a", "Z", "0", "7", " ", "  ", "\n", "\n  ", "\n- ", ": ", ":", ",", "- ", "? ", "{", "}", "[", "]", "&a ", "*a"),
    *("<<: ", "!!int ", "!!bool ", "!!map ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!str ", "!x ", "%"),
    *("#", " #", "'", '"', "|", ">", "---\n", "...\n", "%YAML 1.2\n", "\t", "\r\n", "\0", "\x85", "\u2028", "\ufeff"),
    *('"\\ud800"', '"\\UFFFFFFFF"', "~", "null", "true", ".inf", ".nan", "1e400", "🦊", "=", ".", "about: "),
    *("9" * 5_000, "0x" + "f" * 5_000, "x" * 5_000, "[" * 300, "{a: " * 300, "documents: d\n", "output.a: 1\n"),
    *("windows.max_tokens: 1\n", "&a [*a]", "&a {<<: *a}", "&a {a: *a}", "? &a [*a]\n"),
    "a0: &a0 [0]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 12)),
    "m0: &m0 {x: 0}\n" + "".join(f"m{i}: &m{i} {{<<: [{f'*m{i - 1},' * 9}]}}\n" for i in range(1, 12)),
]
words = st.text(st.one_of(st.characters(), st.sampled_from("aA1 \r\n🦊é,;:\"'\0\ufeff\ud800")), max_size=12)
pieces = st.one_of(st.sampled_from(SYNTAX), words)
texts = st.lists(pieces, max_size=12).map("".join)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, 2, 0.5, 1 << 63, 10**400, -1, 1e300]))
scalars = st.one_of(st.none(), st.booleans(), numbers, words, st.sampled_from(["auto", "d", "5", "x" * 5_000]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


def keys_of(config_class: type[JobConfig]) -> st.SearchStrategy[str]:
    """Mostly settings of the class."""
    known = [*known_keys(config_class)]
    return st.one_of(
        st.sampled_from(known),
        st.sampled_from([*known, "windows", "zzz", "about.x", "a" * 5_000, "about" + ".a" * 5_000]),
        words,
    )


@contextmanager
def no_hang() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise AssertionError(f"not done after {MAX_SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def read(config_class: type[JobConfig], text: str, overrides: Sequence[str] = ()) -> JobConfig | str:
    """The config, or the message of the error."""
    MEMORY.pipe_file("/fuzz/job.yaml", text.encode("utf-8", "replace"))
    try:
        with no_hang():
            config = read_config(config_class, FILE, overrides)
    except ConfigError as error:
        message = str(error)
        assert len(message) <= MAX_CHARS
        assert message.isprintable()
        assert FILE in message or (overrides and "command line: " in message)
        return message
    MEMORY.pipe_file("/fuzz/job.yaml", write_yaml(config.model_dump(mode="json", exclude_unset=True)).encode())
    assert read_config(config_class, FILE) == config  # as `qa-ray submit` sends it
    return config


def names(message: str, key: str) -> bool:
    """Whether the message has the key, or the section in which it would be."""
    first = repr(key.partition(".")[0])[1:-1]
    return first[:40] in message


@st.composite
def changed_files(draw: st.DrawFn) -> tuple[type[JobConfig], str]:
    """A file of the repository after some changes of its lines and characters."""
    config_class, text = draw(st.sampled_from(FILES))
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            lines = text.splitlines(keepends=True)
            line = draw(st.sampled_from(lines)) if lines else ""
            lines.insert(draw(st.integers(0, len(lines))), line.replace("#", "", draw(st.integers(0, 1))))
            text = "".join(lines)
        else:
            start = draw(st.integers(0, len(text)))
            text = text[:start] + draw(pieces) + text[start + draw(st.integers(0, 3)) :]
    return config_class, text


@fuzz
@given(config_class=config_classes, text=texts)
def test_any_text_is_a_config_or_an_error_with_its_place(config_class: type[JobConfig], text: str):
    read(config_class, text)


@fuzz
@given(changed_files())
def test_any_change_of_a_config_is_a_config_or_an_error_with_its_place(changed: tuple[type[JobConfig], str]):
    read(*changed)


@fuzz
@given(data=st.data())
def test_any_value_of_a_file_is_accepted_or_an_error_with_its_file_and_key(data: st.DataObject):
    config_class, text = data.draw(st.sampled_from(TEMPLATES))
    key = data.draw(keys_of(config_class))
    written = {**yaml.safe_load(text), key: data.draw(values)}
    if isinstance(message := read(config_class, yaml.safe_dump(written)), str):
        assert FILE in message
        assert names(message, key) or "; line " in message or "; character " in message


@fuzz
@given(data=st.data())
def test_any_setting_of_a_command_line_is_accepted_or_an_error_with_its_key(data: st.DataObject):
    config_class, text = data.draw(st.sampled_from(TEMPLATES))
    settings = data.draw(
        st.lists(st.tuples(keys_of(config_class), st.one_of(texts, values.map(json.dumps))), min_size=1, max_size=3)
    )
    if isinstance(message := read(config_class, text, [f"{key}={value}" for key, value in settings]), str):
        assert "command line: " in message
        assert any(names(message, key.partition("=")[0]) for key, _ in settings)
