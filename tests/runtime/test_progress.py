"""The line of progress: documents and windows, and no figure that is wrong."""

import io
import sys
import threading
from collections import Counter

import pytest

from qa_ray.runtime.progress import describe, show_progress
from qa_ray.runtime.run_stats import Counts


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (Counts(), "0/3 documents, 0 of about 15 windows, 0.0 windows/s, 0 rejects, ? left"),
        (
            Counts(documents=1, windows=5),
            "1/3 documents, 5 of about 15 windows, 1.0 windows/s, 0 rejects, 0:00:10 left",
        ),
        (
            Counts(documents=2, windows=20, rejects=Counter(empty_text=1)),
            "2/3 documents, 20 windows, 4.0 windows/s, 1 ",
        ),
        (Counts(documents=3, windows=9), "3/3 documents, 9 windows, 1.8 windows/s, 0 rejects, "),
    ],
)
def test_windows_stand_beside_documents_and_the_estimate_goes_where_it_is_wrong(counts: Counts, line: str):
    assert describe(counts, num_documents=3, num_windows=15, seconds=5).startswith(line)


def test_thousands_have_commas_and_one_has_no_plural():
    counts = Counts(documents=1_000, windows=12_345)
    assert describe(counts, 2_000, 30_000, 10).startswith("1,000/2,000 documents, 12,345 of about 30,000 windows")
    assert describe(Counts(windows=1, documents=1), 1, 1, 1).startswith("1/1 document, 1 window, ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_bar_says_that_the_model_is_being_loaded_until_it_reads(monkeypatch: pytest.MonkeyPatch, columns: int):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    counts, polled = Counts(), threading.Semaphore(0)

    def poll() -> Counts:
        polled.release()
        return counts

    def wait_for_two_rounds() -> None:
        for _ in range(2):
            assert polled.acquire(timeout=600)

    with show_progress(poll, 3, 15):
        wait_for_two_rounds()
        assert "loading the model" in terminal.getvalue()
        counts.documents, counts.windows = 1, 5
        wait_for_two_rounds()
    shown = terminal.getvalue()
    assert "answering: 1/3 documents, 0:00:0" in shown
    assert ("━" in shown) == (columns > 100)
    if columns >= 80:
        assert " left, 5 of about 15 windows" in shown
