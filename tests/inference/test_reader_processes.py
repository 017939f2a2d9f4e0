"""A Reader in other processes than the one that made it."""

import pickle
import subprocess
import sys

from window_reference import DOCUMENT, QUESTIONS, float32_reader


def test_a_pickled_reader_answers_the_same(models: dict[str, str]):
    reader = float32_reader(models["bert"], read={"most": 2}, n_best=3)
    again = pickle.loads(pickle.dumps(reader))
    assert again.settings == reader.settings
    assert again.answer(QUESTIONS, DOCUMENT) == reader.answer(QUESTIONS, DOCUMENT)


def test_a_forked_process_answers_with_the_reader_of_its_parent(models: dict[str, str]):
    """In a process of its own, because a fork of one with many threads may hang for other reasons."""
    code = f"""
import os, sys, qa_ray
reader = qa_ray.Reader({models["bert"]!r}, dtype="float32", threads=2)
document = {DOCUMENT!r}
before = reader.answer("Who built it?", document)
if not (child := os.fork()):
    os._exit(0 if abs(reader.answer("Who built it?", document)["score"] - before["score"]) < 1e-5 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0
