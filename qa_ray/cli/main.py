"""The entry point of ``qa-ray``, and of jobs/*.py: ``VERB CONFIG.yaml [key=value …]``.

Errors of the user and of the job end in one line on stderr and an exit code (``parser.EXIT_CODES``). What is slow to
load is loaded once the first line is on the terminal.
"""

import argparse
import io
import signal
import sys
from collections.abc import Sequence

from qa_ray.cli.parser import FAILED, INTERRUPTED, REFUSED, parse
from qa_ray.errors import JobError, UserError
from qa_ray.log import LOG, shown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # in a locale of few characters, an answer is printed with escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with shown():
            return _run(arguments)
    except UserError as error:
        return _end_with("error", str(error), REFUSED)
    except JobError as error:
        return _end_with("failed", str(error), FAILED)
    except Exception as error:
        if type(error).__module__.startswith("ray."):
            from qa_ray.runtime.failures import explain as in_our_words

            return _end_with("failed", str(in_our_words(error)), FAILED)
        from qa_ray.io.storage_errors import came_from_storage, explain

        if not came_from_storage(error):
            raise
        return _end_with("failed", f"storage: {explain(error)}; run the same command again to resume", FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; finished work is kept: run the same command again to resume\n")
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb != "init" and sys.stderr.isatty():  # in a log file, what comes first is what is checked first
        LOG.info("reading %s", arguments.output if arguments.verb == "verify" else arguments.config)
    from qa_ray.cli.verbs import VERBS, Output

    return VERBS[arguments.verb](arguments, Output())


def _end_with(label: str, message: str, exit_code: int) -> int:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]{label}:[/] {escape(message)}")
    return exit_code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
