import subprocess
import sys
from pathlib import Path

import pytest
from running import raises_error

from qa_ray.config import AnswerConfig, FinetuneConfig, PrepareConfig, read_config
from qa_ray.errors import ConfigError, InputError

COMPLETE = "documents: d\nquestions: q\noutput: o\n"
LAUGHS = "a0: &a0 [0]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))
MERGED_LAUGHS = "a0: &a0 {x: 0}\n" + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}\n" for i in range(1, 30))


@pytest.fixture
def write_config(tmp_path: Path):
    def write(text: str | bytes) -> str:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_settings_override_the_file(write_config):
    path = write_config(COMPLETE + "windows:\n  max_tokens: 384\n  overlap_tokens: 64\n")
    config = read_config(AnswerConfig, path, ["windows.max_tokens=512", "output=x=y", "runner.actors=[1, 4]"])
    windows = config.windows.model_dump()
    assert (windows["max_tokens"], windows["overlap_tokens"]) == (512, 64)
    assert (config.output, config.runner.actors, config.model) == ("x=y", (1, 4), "default")


def test_a_section_whose_lines_are_all_commented_out_is_all_defaults(write_config):
    path = write_config(COMPLETE + "windows:\n#  max_tokens: 384\n")
    assert read_config(AnswerConfig, path).windows.long_questions == "reject"
    assert read_config(AnswerConfig, path, ["windows.max_tokens=5"]).windows.model_dump()["max_tokens"] == 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("windows.maxtokens=5", "unknown setting 'windows.maxtokens'; did you mean 'windows.max_tokens'?"),
        ("max_tokens=5", "unknown setting 'max_tokens'; did you mean 'windows.max_tokens'?"),
        ("window.max_tokens=5", "unknown setting 'window'; did you mean 'windows'?"),
        ("dokuments=5", "unknown setting 'dokuments'; did you mean 'documents'?"),
        ("zzz=1", "unknown setting 'zzz'; known are documents, questions, output, model, columns, windows, answers,"),
        ("columns.zzz=1", "unknown setting 'columns.zzz'; known are document_id, text, question_id, question,"),
        ("windows.max_tokens=many", "windows.max_tokens: Input should be a valid integer"),
        ("windows.max_tokens=0", "windows.max_tokens: Input should be greater than 0, not 0"),
        ("windows.max_tokens=4.5", "not 4.5"),
        ("windows.overlap_tokens=-1", "greater than or equal to 0, not -1"),
        ("windows.long_questions=skip", "windows.long_questions: Input should be 'reject' or 'truncate', not 'skip'"),
        ("answers.ranking=best", "answers.ranking: Input should be 'logit' or 'logit_minus_null', not 'best'"),
        ("answers.score_slope=.inf", "answers.score_slope: Input should be a finite number, not inf"),
        ("answers.no_answer_threshold=.nan", "answers.no_answer_threshold: Input should be a finite number, not nan"),
        ("limits.max_rejected_fraction=5%", "limits.max_rejected_fraction: Input should be a valid number"),
        ("limits.max_rejected_fraction=5", "less than or equal to 1, not 5"),
        (
            "runner.actors=0",
            "runner.actors: Input should be auto, a number above 0, or [min, max] such as [1, 4], not 0",
        ),
        ("runner.actors=[3, 1]", "[min, max] such as [1, 4], not [3, 1]"),
        ("runner.actors=all", "[min, max] such as [1, 4], not 'all'"),
        ("runner.gpus_per_actor=1.5", "share of one GPU such as 0.5, or a whole number, not 1.5"),
        ("runner.resources_per_actor={CPU: 2}", "Input should be custom resources; CPU is none: see cpus_per_actor"),
        ("runner.dtype=int4", "'float32', 'bfloat16', 'float16' or 'int8', not 'int4'"),
        ("columns.keep=title", "columns.keep: Input should be a valid list, not 'title'"),
        ("documents=", "documents: Input should be a valid string, not null"),
        ("output=~", "output: Input should be a valid string, not null; for that word write output=\"'null'\""),
        ("windows.max_tokens=512 #384", "windows.max_tokens: Input should be a valid integer"),
        (
            "columns.keep=[title] #2",
            "'columns.keep=[title] #2': the value is not YAML ('#2' is behind the value); quote",
        ),
        ("output='a' #2", "('#2' is behind the value); quote it: output=\"'''a'' #2'\""),
        ("runner.actors=[1, 4] #2", "the value is not YAML ('#2' is behind the value)"),
        ("output=''", "output: String should have at least 1 character, not ''"),
        ("documents.path=x", "documents.path: 'documents' is a value ('d'), not a section with settings of its own"),
        ("documents", "'documents': not a setting; write key=value, for example windows.max_tokens=4096"),
        ("about" + ".a" * 5_000 + "=5", "… is an unknown setting, in more than 50 sections; write section.name=value"),
        ("=5", "'=5': not a setting; write key=value, for example windows.max_tokens=4096"),
        (
            "output=M\udcfcnchen",
            "'output=M\\udcfcnchen' has bytes that are not UTF-8; use names and a terminal in UTF-8",
        ),
        ("columns.keep=[a", "'columns.keep=[a': the value is not YAML (expected ',' or ']', but got "),
    ],
)
def test_a_wrong_setting_is_an_error_with_its_remedy(write_config, setting: str, message: str):
    with raises_error(ConfigError, message):
        read_config(AnswerConfig, write_config(COMPLETE), [setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains nothing, not 'key: value' lines; `qa-ray init answer` prints a complete one"),
        ("- documents\n", "contains list, not 'key: value' lines"),
        ("documents: d: q", "not YAML (mapping values are not allowed here"),
        (b"documents: \xff", "cannot be read ('utf-8' codec can't decode byte 0xff"),
        (b"documents: \x00", "not YAML (unacceptable character #x0000"),
        ("questions: d\n", "the setting 'documents' is missing; add it to the file or as documents=…; the setting"),
        (COMPLETE + "1: 2\n", "unknown setting '1'; "),
        (COMPLETE + "questions: r\n", "('questions' is set twice, keep one; line 4, column 1)"),
        ("documents: @daily\n", "needs quotes, such as documents: '@daily'"),
        ("documents: *daily\n", "(found undefined alias 'daily'; line 1"),
        (COMPLETE + "documents.path: x\n", "documents.path: 'documents' is a value ('d'), not a section"),
        ("about" + ".a" * 400 + ": 5", "… is an unknown setting, in more than 50 sections; write section.name=value"),
        (COMPLETE + "windows.max_tokens: 5\nwindows: {max_tokens: 6}\n", "'windows.max_tokens' is set twice, keep one"),
        (
            COMPLETE + f"windows: {{max_tokens: {'9' * 5_000}}}\n",
            "… is an integer of more than 64 bits; line 4, column 23)",
        ),
        (COMPLETE + f"windows: {{max_tokens: 0x{'f' * 5_000}}}\n", "… is an integer of more than 64 bits; line 4"),
        (COMPLETE + "windows: &a [*a]\n", "('*a' is within the value that it stands for; line 4, column 14)"),
        (COMPLETE + "windows: &a {<<: *a}\n", "('*a' is within the value that it stands for; line 4, column 18)"),
        (LAUGHS, "(more than 100,000 values, with those that '*' repeats; line 6, column"),
        (MERGED_LAUGHS, "(more than 100,000 values, with those that '*' repeats; line 6, column"),
        ("[" * 5_000, "(more than 50 values are within each other; line 1, column 51)"),
        ('documents: "\\UFFFFFFFF"', "(no character or version of YAML has this number; line 1, column "),
        (f"%YAML {'9' * 5_000}.1\n---\n", "(no character or version of YAML has this number; line 1, column "),
        ('documents: "\\ud83e"', "('\\ud83e' has half of a UTF-16 pair; line 1, column 12)"),
        ("documents: !!int many", "('many' is not int; line 1, column 12)"),
        ("documents: !!map many", "(expected a mapping node, but found scalar; line 1, column 12)"),
        (
            "documents: !!timestamp today",
            "(could not determine a constructor for the tag 'tag:yaml.org,2002:timestamp'",
        ),
        (
            COMPLETE + "windows.max_token: 5\n",
            "unknown setting 'windows.max_token'; did you mean 'windows.max_tokens'?",
        ),
    ],
)
def test_a_wrong_file_is_an_error_with_its_remedy(write_config, text: str | bytes, message: str):
    path = write_config(text)
    with raises_error(ConfigError, path, message):
        read_config(AnswerConfig, path)


def test_missing_files_folders_and_unknown_protocols_are_errors(tmp_path: Path):
    with raises_error(ConfigError, "none.yaml': no such file; `qa-ray init answer > answer.yaml` writes one"):
        read_config(AnswerConfig, str(tmp_path / "none.yaml"))
    with raises_error(ConfigError, "cannot be read (", "Is a directory", "); give a YAML file"):
        read_config(AnswerConfig, str(tmp_path))
    with raises_error(InputError, "Protocol not known: s4; use a local path or a URI such as s3://bucket/folder"):
        read_config(AnswerConfig, "s4://bucket/config.yaml")


@pytest.mark.parametrize("workers", ["[3, 1]", "many", "[1, 2, 3]"])
def test_a_pair_of_workers_begins_with_the_smaller_number(write_config, workers: str):
    expected = "command line: runner.workers: Input should be a number above 0, or [min, max] such as [1, 8], not "
    with raises_error(ConfigError, expected):
        read_config(FinetuneConfig, write_config(COMPLETE), [f"runner.workers={workers}"])


def test_what_is_recorded_about_a_model_is_json(write_config):
    with raises_error(ConfigError, "about: JSON has no .inf and no .nan; write text, not {'f1': nan}"):
        read_config(FinetuneConfig, write_config(COMPLETE + "about: {f1: .nan}\n"))


@pytest.mark.parametrize(
    "setting", ["windows.max_tokens=0", "windows=5", "zzz=1", "documents.a=1", "documents", "export=[a"]
)
def test_an_error_of_the_command_line_names_it_and_not_the_file(write_config, setting: str):
    path = write_config(COMPLETE)
    with pytest.raises(ConfigError) as error:
        read_config(AnswerConfig, path, [setting])
    assert str(error.value).startswith("command line: ")
    assert path not in str(error.value)
    with raises_error(ConfigError, f"{path}: the setting 'output' is missing", "; command line: windows.max_tokens: "):
        read_config(AnswerConfig, write_config("documents: d\n"), ["windows.max_tokens=0"])


@pytest.mark.parametrize("long", ["x" * 5_000, "9" * 5_000, f"[{'[1], ' * 1_000}]", "'" * 4_999, "{a: " * 1_000])
def test_long_values_and_keys_are_shortened_in_messages(write_config, long: str):
    for setting in (
        f"windows.max_tokens={long}",
        f"windows={long}",
        f"{long}=1",
        f"windows.{long}=1",
        long,
    ):
        with pytest.raises(ConfigError) as error:
            read_config(AnswerConfig, write_config(COMPLETE), [setting] * 3)
        assert 40 < len(str(error.value)) < 1_000


def test_every_verb_checks_its_own_settings(write_config):
    with raises_error(ConfigError, "unknown setting 'sources'; did you mean 'source'?"):
        read_config(PrepareConfig, write_config("sources: x\noutput: y\n"))


def test_importing_the_configs_loads_nothing_heavy():
    heavy = {"torch", "transformers", "ray", "datasets", "rich"}
    code = f"import sys, qa_ray.config.template; print(*{heavy} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
