"""Values as they are meant: text where a setting wants text, numbers where it wants numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from qa_ray.config import AnswerConfig, EvaluateConfig, FinetuneConfig, PrepareConfig, read_config
from qa_ray.config.yaml_text import NULL, read_word, read_yaml, write_yaml

COMPLETE = "documents: d\nquestions: q\noutput: o\n"
# What YAML 1.1 or 1.2 takes for a date, a truth value, a number, null, a comment or syntax.
WORDS = [
    *("2024-11-25", "2024-11-25 10:00:00", "no", "No", "on", "off", "y", "N", "yes", "true", "False"),
    *("2024", "012", "0x10", "0o17", "1e3", "1_000", "12:30:45", ".5", "-1", ".inf", ".NaN", "1.10"),
    *(
        "reports #2",
        "no #1",
        "#1",
        "@daily",
        "*",
        "*.parquet",
        "&a",
        "!x",
        "%x",
        "`x`",
        "| x",
        "> x",
        "- x",
        "? x",
        "<<",
    ),
    *("a: b", "a:b", "key=value", "x, y", "[ab]*.parquet", "{a,b}.parquet", "C:\\data", "it's", 'say "a"', "nullable"),
]


def answer_config(tmp_path: Path, text: str, *settings: str) -> AnswerConfig:
    path = tmp_path / "answer.yaml"
    path.write_text(text)
    return read_config(AnswerConfig, str(path), settings)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_command_line_is_text_where_text_is_wanted(tmp_path: Path, word: str):
    config = answer_config(tmp_path, COMPLETE, f"output={word}", f"columns.text={word}", f"columns.questions={word}")
    assert (config.output, config.columns.text, config.columns.questions) == (word, word, word)


@pytest.mark.parametrize("word", [word for word in WORDS if word[0] not in "[{"])
def test_a_word_is_text_for_a_list_of_texts(tmp_path: Path, word: str):
    assert answer_config(tmp_path, COMPLETE, f"previous={word}").previous == [word]


def test_items_of_a_list_and_keys_and_values_of_a_map_are_text_where_text_is_wanted(tmp_path: Path):
    config = answer_config(tmp_path, COMPLETE, "columns.keep=[no, 2024-11-25, 012, 'a #2']")
    assert config.columns.keep == ["no", "2024-11-25", "012", "a #2"]
    path = tmp_path / "prepare.yaml"
    path.write_text("source: s\noutput: 2024\ncolumns: {text: no, 1: 2}\n")
    prepare = read_config(PrepareConfig, str(path), ["prefix=012"])
    assert (prepare.output, prepare.columns, prepare.prefix) == ("2024", {"text": "no", "1": "2"}, "012")
    path.write_text("{answers: 2024-11-25, questions: q, by: [no, 7]}")
    assert read_config(EvaluateConfig, str(path)).by == ["no", "7"]


# In a file, what YAML itself needs in quotes still needs them.
@pytest.mark.parametrize(
    "word", ["2024-11-25", "no", "on", "y", "true", "2024", "012", "0x10", "1e3", "1_000", "12:30", "-1"]
)
def test_a_value_of_a_file_is_text_where_text_is_wanted(tmp_path: Path, word: str):
    config = answer_config(tmp_path, f"documents: {word}\nquestions: q\noutput: o\ncolumns:\n  keep: [{word}]\n")
    assert (config.documents, config.columns.keep) == (word, [word])


def test_quotes_of_yaml_are_taken_off(tmp_path: Path):
    config = answer_config(tmp_path, COMPLETE, "output='2024-11-25'", 'documents="a\\tb"', "columns.text='null'")
    assert (config.output, config.documents, config.columns.text) == ("2024-11-25", "a\tb", "null")


def test_null_stays_null_where_it_has_a_meaning(tmp_path: Path):
    for null in ("null", "~", ""):
        assert NULL.fullmatch(null)
        assert answer_config(tmp_path, COMPLETE, f"columns.questions={null}").columns.questions is None
        assert answer_config(tmp_path, f"{COMPLETE}columns:\n  questions: {null}\n").columns.questions is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.learning_rate=1e-5", 1e-5),
        ("training.learning_rate=2.5E-4", 2.5e-4),
        ("training.seed=012", 12),
        ("training.seed=0x10", 16),
        ("training.step_tokens=16_384", 16_384),
        ("training.gradient_checkpointing=yes", True),
        ("training.gradient_checkpointing=off", False),
        ("training.dropout=null", None),
        ("training.dropout=0.1", 0.1),
        ("training.window_tokens=[384, 512]", [384, 512]),
        ("runner.workers=[1, 4]", (1, 4)),
        ("runner.workers=4", 4),
    ],
)
def test_numbers_truth_values_and_lists_are_read_where_they_are_wanted(tmp_path: Path, setting: str, expected: Any):
    path = tmp_path / "finetune.yaml"
    path.write_text(COMPLETE)
    key, _, text = setting.partition("=")
    section, name = key.split(".")
    assert getattr(getattr(read_config(FinetuneConfig, str(path), [setting]), section), name) == expected
    path.write_text(f"{COMPLETE}{section}:\n  {name}: {text}\n")
    assert getattr(getattr(read_config(FinetuneConfig, str(path)), section), name) == expected


def test_what_no_setting_wants_is_read_as_yaml_reads_it():
    assert read_yaml("{a: 2024-11-25, b: no, c: 7, d: 1e3, e: [true, ~], 7: 8}", None) == {
        "a": "2024-11-25", "b": "no", "c": 7, "d": 1000.0, "e": [True, None], "7": 8,
    }  # fmt: skip
    assert read_word("7", None) == 7


def test_keys_with_a_dot_in_a_file_are_settings_of_sections(tmp_path: Path):
    config = answer_config(tmp_path, COMPLETE + "windows.max_tokens: 512\ncolumns.text: no\ncolumns:\n  question: q\n")
    assert config.windows.model_dump()["max_tokens"] == 512
    assert (config.columns.text, config.columns.question) == ("no", "q")


def test_halves_of_a_utf_16_pair_are_one_character_as_in_json(tmp_path: Path):
    assert answer_config(tmp_path, json.dumps({"documents": "🦊", "output": "o"})).documents == "🦊"


def test_keys_are_text():
    assert read_yaml("{null: a, ~: b, true: c, 1.0: d, ? : e}", None) == {
        "null": "a", "~": "b", "true": "c", "1.0": "d", "": "e",
    }  # fmt: skip


def test_values_are_read_as_they_were_written():
    values = {word: [word, {word: word}] for word in (*WORDS, "null", "~", "", "a\nb", "🦊", "\x85")} | {
        "a": [7, 1e-5, None]
    }
    assert read_yaml(write_yaml(values), None) == values


def test_a_mapping_that_was_merged_is_no_key_set_twice():
    text = "base: &base {x: 1}\nin: {more: &more {<<: *base, x: 2}}\nout: {<<: *more}"
    assert read_yaml(text, None) == {"base": {"x": 1}, "in": {"more": {"x": 2}}, "out": {"x": 2}}


def test_merged_keys_of_a_file_are_kept(tmp_path: Path):
    text = COMPLETE + "about: &w {max_tokens: 512}\nwindows: {<<: *w, overlap_tokens: 8}\n"
    path = tmp_path / "finetune.yaml"
    path.write_text(text)
    assert read_config(FinetuneConfig, str(path)).windows.model_dump()["max_tokens"] == 512
