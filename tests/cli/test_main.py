import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from qa_ray.cli.main import main
from qa_ray.cli.parser import EXIT_CODES, JOBS, build_parser
from qa_ray.cli.parser import TEMPLATES as TEMPLATE_NAMES
from qa_ray.cli.parser import VERBS as HELP
from qa_ray.cli.verbs import VERBS
from qa_ray.config import CONFIGS
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


def test_what_the_encoding_of_a_terminal_lacks_is_printed_with_escapes():
    code = "from qa_ray.cli.main import main; main(['init', 'answer']); print('七')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.endswith("\\u4e03\n")


def test_version():
    assert run("--version").stdout == f"qa-ray {VERSION}\n"


def test_the_parser_has_the_names_of_the_configs():
    assert (*CONFIGS,) == JOBS
    assert (*TEMPLATES,) == TEMPLATE_NAMES
    assert HELP.keys() == VERBS.keys()


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["answer", "--help"]])
def test_help_and_version_load_nothing_slow(words: list[str]):
    code = f"import sys; from qa_ray.cli.main import main\ntry: main({words})\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pyarrow", "pydantic", "rich", "yaml", "fsspec", "torch", "ray"} & set(done.stdout.split())


def on_a_terminal(command: list[str], cwd: Path, columns: int = 80) -> tuple[str, int]:
    """What a terminal gets from the command, and its exit code."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, cwd=cwd) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while part := os.read(controller, 65536):
                shown += part
        os.close(controller)
    return shown.decode().replace("\r\n", "\n"), process.wait()


FIRST_WORDS = """\
import sys
from qa_ray import log
from qa_ray.cli.main import main
def emit(handler, record):
    sys.stdout.write(f"{record.getMessage()}: {' '.join(sys.modules)}")
    raise SystemExit(7)
log._Stderr.emit = emit
main(["answer", "answer.yaml"])
"""


def test_the_first_words_on_a_terminal_come_before_what_is_slow_to_load(tmp_path: Path):
    shown, code = on_a_terminal([sys.executable, "-c", FIRST_WORDS], tmp_path)
    assert code == 7
    words, _, modules = shown.partition(": ")
    assert words == "reading answer.yaml"
    assert not {"numpy", "pyarrow", "pydantic", "rich", "yaml", "fsspec", "torch", "ray"} & set(modules.split())


def test_an_error_on_a_terminal_follows_the_line_of_its_phase(tmp_path: Path):
    shown, code = on_a_terminal([sys.executable, "-m", "qa_ray", "answer", "none.yaml"], tmp_path)
    first, second, *rest = shown.splitlines()
    assert (code, first, rest) == (2, "reading none.yaml", [])
    assert "error:" in second
    assert "no such file" in second


@pytest.mark.parametrize("verb", ["prepare", "evaluate", "lengthen"])
def test_submit_checks_only_what_has_checks(tmp_path: Path, verb: str, capfd: pytest.CaptureFixture):
    path = tmp_path / "config.yaml"
    path.write_text(render(verb))
    assert main(["submit", str(path), "--job", verb, "--address", "http://x:1", "--check"]) == 2
    assert f"error: --check: {verb} has none, only answer and finetune have; leave it out" in capfd.readouterr().err


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
counts = {"answers": 0, "rejects": 0, "documents": 0, "windows": 0, "windows_read": 0, "tokens": 0}
files = {f"exports/{i}": [] for i in range(2000)}
job.run_job = lambda config: ({"counts": counts, "files": files, "seconds": 0}, True)
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
    errors = re.sub(rb"^\S+ \S+ loading .*\n", b"", errors)  # a line for the phase
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
