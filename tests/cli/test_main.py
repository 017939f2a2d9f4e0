import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qa_ray.cli.main import VERBS, main
from qa_ray.cli.parser import EXIT_CODES, build_parser
from qa_ray.config.template import TEMPLATES, render
from qa_ray.version import VERSION

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "docs" / "reference" / "cli.md"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "qa_ray", *words], capture_output=True, text=True, check=False)


def verb_parsers() -> dict[str, argparse.ArgumentParser]:
    (verbs,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(verbs.choices)


def help_of(verb: str) -> str:
    return verb_parsers()[verb].format_help() if verb else build_parser().format_help()


def test_an_error_is_one_line_and_exits_with_2(tmp_path: Path, capfd: pytest.CaptureFixture):
    path = tmp_path / "config.yaml"
    path.write_text("documents: d\nquestions: q\noutput: o\n")
    assert main(["answer", str(path), "windows.maxtokens=[5]"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: ")
    assert "did you mean 'windows.max_tokens'?" in message
    assert message.count("\n") == 1


def test_no_arguments_print_the_help_and_exit_with_2():
    done = run()
    assert done.returncode == 2
    assert "first steps:" in done.stderr


def test_version():
    assert run("--version").stdout == f"qa-ray {VERSION}\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_init_prints_the_template(name: str, capsys: pytest.CaptureFixture):
    assert main(["init", name]) == 0
    assert capsys.readouterr().out == render(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init"], "the following arguments are required: NAME\n"),
        (["answer"], "the following arguments are required: CONFIG.yaml\n"),
        (["init", "nothing"], "invalid choice: 'nothing' (choose from"),
        (["init", "answer", "documents=d"], "unrecognized arguments: documents=d; see qa-ray init --help"),
        (["answer", "a.yaml", "--chek"], "unrecognized arguments: --chek; see qa-ray answer --help"),
        (["anser", "a.yaml"], "invalid choice: 'anser'"),
        (["submit", "a.yaml"], "the following arguments are required: --address"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_may_come_before_and_after_options():
    from qa_ray.cli.parser import parse

    arguments = parse(["answer", "a.yaml", "x=1", "--check", "y=2"])
    assert (arguments.config, arguments.settings, arguments.check) == ("a.yaml", ["x=1", "y=2"], True)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_help_page_fits_80_columns_and_has_what_one_needs(verb: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = help_of(verb)
    assert max(map(len, page.splitlines())) <= 80
    pages = re.findall(r"[\w/-]+\.md", page.partition("read more: ")[2])
    assert pages
    assert all((REPOSITORY / page).is_file() for page in pages)
    assert f"qa-ray {verb}" in page.partition("examples:" if verb else "first steps:")[2]
    assert verb == "init" or EXIT_CODES in page


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_the_examples_of_a_help_page_parse(verb: str):
    for line in help_of(verb).splitlines():
        if found := re.match(r"  qa-ray ([^>]*?)(  | >|$)", line):
            build_parser().parse_known_args(found[1].replace("'", "").split())


def test_the_reference_names_every_verb_option_and_exit_code():
    text = REFERENCE.read_text()
    for verb, parser in verb_parsers().items():
        assert f"`qa-ray {verb} " in text
        for option in (option for action in parser._actions for option in action.option_strings):
            assert re.search(rf"`{option}[` ]", text), option
    assert "`--version`" in text
    for code in re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE):
        assert f"| {code} |" in text


FAKE_JOB = """\
import sys
from qa_ray.answering import job
from qa_ray.cli.main import main
counts = {"answers": 0, "rejects": 0, "documents": 0, "windows": 0, "tokens": 0}
files = {f"exports/{i}": [] for i in range(2000)}
job.answer_documents = lambda config: {"counts": counts, "files": files, "seconds": 0}
sys.exit(main(["answer", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("command", [["-c", FAKE_JOB, "config.yaml"], ["-m", "qa_ray", "init", "answer"]])
def test_a_command_ends_quietly_if_the_reader_of_its_output_has_gone(tmp_path: Path, command: list[str]):
    (tmp_path / "config.yaml").write_text("{documents: d, questions: q, output: o}")
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does once it has its lines
        errors = process.communicate()[1]
    assert (process.returncode, errors) == (141, b"")


def raising(error: Exception) -> Callable[..., int]:
    def verb(*arguments: object) -> int:
        raise error

    return verb


def test_an_error_of_a_file_system_is_one_line_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setitem(VERBS, "init", raising(OSError(28, "No space left on device")))
    assert main(["init", "answer"]) == 1
    message = "failed: storage: No space left on device; run the same command again to resume\n"
    assert capfd.readouterr().err == message


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(32, "Broken pipe"), ConnectionRefusedError(111, "refused"), ChildProcessError(10, "no child")],
)
def test_an_error_of_a_pipe_a_connection_or_a_process_is_not_called_a_storage_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(VERBS, "init", raising(error))
    with pytest.raises(type(error)):
        main(["init", "answer"])
