"""The watchdog of a process without progress; each process here is one of its own."""

import subprocess
import sys
import threading

import pytest

from qa_ray.answering.watchdog import Watchdog
from qa_ray.model.tokenizer import Tokenizer

# Python code that never ends, or only once the test has given up.
HANGS = {
    "a system call": "time.sleep(1_000)",
    "Python code": "while True: pass",
    "native code that holds Python's lock": "ctypes.PyDLL(None).sleep(1_000)",
}


def run(timeout_s: float, work: str, report: str = "print('reported', flush=True)") -> subprocess.CompletedProcess[str]:
    """The end of a process that does ``work``, which ``watchdog`` watches, and then prints "finished"."""
    code = f"""
import ctypes, os, signal, subprocess, sys, time
from qa_ray.answering.watchdog import Watchdog

watchdog = Watchdog({timeout_s})

def report():
    {report}

with watchdog.watching(report):
    {work}
print("finished")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("hang", HANGS)
def test_a_process_without_progress_ends_and_says_where_it_was(hang: str):
    process = run(1, HANGS[hang])
    assert process.returncode == 1
    assert "finished" not in process.stdout
    assert 'File "<string>", line 11 in <module>' in process.stderr


def test_the_end_is_reported_if_python_runs_at_all():
    for hang, work in HANGS.items():
        assert ("reported" in run(1, work).stdout) == ("lock" not in hang)


def test_a_report_that_fails_does_not_keep_the_process_alive():
    assert run(0.5, HANGS["a system call"], report="raise OSError('unreachable')").returncode == 1


@pytest.mark.parametrize("work", ["time.sleep(0.05)", "ctypes.PyDLL(None).usleep(50_000)"])
def test_slow_work_that_shows_progress_is_left_alone(work: str):
    process = run(2, f"for _ in range(60): {work}; watchdog.progress()")
    assert process.returncode == 0, process.stderr
    assert process.stdout == "finished\n"


def test_a_process_that_was_suspended_for_longer_than_the_time_out_reports_nothing():
    wake = "'kill -STOP $0; sleep 1.5; kill -CONT $0'"
    process = run(1, f"subprocess.Popen(['sh', '-c', {wake}, str(os.getpid())]); time.sleep(2)")
    assert "reported" not in process.stdout


def test_without_a_limit_and_after_the_block_nothing_watches():
    process = run(0.5, "pass\ntime.sleep(1)")
    assert (process.returncode, process.stdout) == (0, "finished\n")
    with Watchdog(None).watching():
        pass
    assert run("None", "time.sleep(0.5)").returncode == 0  # pyright: ignore[reportArgumentType]


def test_other_threads_run_while_a_long_document_is_tokenized(models: dict[str, str]):
    """Or the end of a process that is stuck in the tokenizer could not be reported."""
    tokenizer, text = Tokenizer(models["bert"]), "Ada Vane built the lighthouse in 1871. " * 50_000
    ended, num_wakes = threading.Event(), 0

    def wake() -> None:
        nonlocal num_wakes
        while not ended.wait(0.01):
            num_wakes += 1

    thread = threading.Thread(target=wake)
    thread.start()
    tokenizer(text)
    ended.set()
    thread.join()
    assert num_wakes > 10
