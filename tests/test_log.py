"""The lines that a person sees, and those of run.log."""

import logging
import sys
from pathlib import Path

import pytest

from qa_ray.errors import InputError
from qa_ray.log import DETAILS, LOG, PROGRESS, logged_to, shown


class Terminal:
    """A standard error stream that is a terminal, or is none."""

    def __init__(self, *, is_terminal: bool):
        self.text, self._is_terminal = "", is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def log_all() -> None:
    LOG.info("planning")
    PROGRESS.info("1/3 documents")
    LOG.warning("batches of 8 tokens did not fit")
    DETAILS.error("Ray raised: \x1b[36mray::Map\x1b[39m")


def test_a_terminal_shows_phases_and_warnings_and_leaves_the_progress_to_the_bar(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown():
        log_all()
    assert terminal.text == "planning\nwarning: batches of 8 tokens did not fit\n"


def test_elsewhere_lines_have_their_time_and_the_progress_is_among_them(monkeypatch: pytest.MonkeyPatch):
    file = Terminal(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", file)
    with shown():
        log_all()
    lines = file.text.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["planning", "1/3 documents", "batches of 8 tokens did not fit"]


def test_the_log_file_alone_has_the_words_of_others(tmp_path: Path, capfd: pytest.CaptureFixture):
    with logged_to(str(tmp_path / "run.log")):
        log_all()
    text = (tmp_path / "run.log").read_text()
    assert all(line in text for line in ("planning", "1/3 documents", "did not fit", "Ray raised: "))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("error", "has_traceback"), [(InputError("no text"), False), (TypeError("ours"), True)])
def test_an_error_that_is_not_raised_on_purpose_is_in_the_log_file_with_its_traceback(
    tmp_path: Path, error: Exception, has_traceback: bool
):
    with pytest.raises(type(error)), logged_to(str(tmp_path / "run.log")):
        raise error
    assert ("Traceback (most recent call last)" in (tmp_path / "run.log").read_text()) == has_traceback


def test_without_a_standard_error_stream_nothing_is_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", None)
    with shown():
        log_all()


def test_handlers_are_gone_when_the_block_ends():
    before = list(LOG.handlers)
    with shown():
        assert len(LOG.handlers) == len(before) + 1
    assert LOG.handlers == before
    assert logging.getLogger("qa_ray.details").handlers == []
