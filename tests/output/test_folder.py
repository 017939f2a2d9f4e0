"""An output folder is new, to be resumed, finished, or refused with the reason."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from running import DOCUMENT, assert_nothing_lost, changed, fill, raises_error, small_disk, write_job

from qa_ray.answering.job import answer_documents
from qa_ray.answering.plan import make_plan
from qa_ray.errors import OutputError
from qa_ray.output.acquire import acquire_output
from qa_ray.output.folder import check_writable, inspect_output


def test_an_output_of_another_run_is_refused_and_the_differences_are_named(tmp_path: Path, models):
    config = write_job(tmp_path, models["bert"])
    for resumed in (False, True):
        with acquire_output(config.output, make_plan(config).identity) as output:
            assert output.resumed == resumed
    other = make_plan(changed(config, windows={"max_tokens": 128}, columns={"keep": []})).identity
    for open_output in (inspect_output, acquire_output):
        with raises_error(
            OutputError,
            "holds another run, which differs in columns.keep (None there, [] now); "
            "windows.max_tokens (64 there, 128 now); give a new folder with output=… or remove this one",
        ):
            open_output(config.output, other)
    other = make_plan(write_job(tmp_path, models["bert"], [DOCUMENT | {"text": "Another text"}])).identity
    with raises_error(OutputError, "which differs in documents ('", "… there, '", "… now); give a new folder"):
        acquire_output(config.output, other)


def test_the_same_tables_at_another_path_with_other_actors_are_the_same_run(tmp_path: Path, models):
    config = write_job(tmp_path / "here", models["bert"])
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = changed(
        config,
        documents=str(tmp_path / "there" / "documents"),
        runner={"device": "cpu", "dtype": "float32", "actors": 2},
    )
    assert make_plan(moved).identity == make_plan(config).identity


def test_an_output_with_unknown_files_is_refused_and_left_unchanged(tmp_path: Path):
    (tmp_path / "thesis.doc").touch()
    with raises_error(OutputError, "holds 'thesis.doc', which no run wrote; give an empty or new folder with output=…"):
        acquire_output(str(tmp_path), {})
    with raises_error(OutputError, "thesis.doc' is a file; give a folder with output=…"):
        acquire_output(str(tmp_path / "thesis.doc"), {})
    assert os.listdir(tmp_path) == ["thesis.doc"]
    (tmp_path / "thesis.doc").unlink()
    for name in ("_SUCCESS", "exports"):
        (tmp_path / name).touch()
        with raises_error(
            OutputError, "holds results of an unknown run; give a new folder with output=… or remove them"
        ):
            acquire_output(str(tmp_path), {"model": "m"})
    (tmp_path / "manifest.json").touch()
    with raises_error(OutputError, "manifest.json' is empty, as a kill during the commit can leave it"):
        acquire_output(str(tmp_path), {"model": "m"})
    (tmp_path / "manifest.json").write_text("{}")
    with raises_error(OutputError, "manifest.json' is not a manifest of qa-ray; restore it, or remove the output"):
        acquire_output(str(tmp_path), {"model": "m"})
    with raises_error(OutputError, "has a question mark in its name; give another folder with output=…"):
        acquire_output(str(tmp_path / "what?"), {})


def test_the_output_of_a_live_run_is_refused_until_the_run_ends(tmp_path: Path):
    uri = str(tmp_path / "out")
    message = (
        f"is being written by a live run (process {os.getpid()} on {socket.gethostname()}); wait for it, or give "
        "another folder with output=…"
    )
    with acquire_output(uri, {"model": "m"}), raises_error(OutputError, message):
        acquire_output(uri, {"model": "m"})
    with acquire_output(uri, {"model": "m"}) as output:
        assert output.resumed


def test_an_incomplete_identity_file_is_ignored(tmp_path: Path):
    acquire_output(str(tmp_path), {"model": "m"}).release()
    (tmp_path / "_run" / "identity.json").write_text('{"mod')
    with acquire_output(str(tmp_path), {"model": "other"}) as output:
        assert not output.resumed


def test_a_full_disk_at_the_start_is_reported(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        for _ in range(2):
            with raises_error(
                OutputError, "output: cannot write '", "': No space left on device; free some space or give another"
            ):
                acquire_output(str(disk / "out"), {"model": "m"})
        filler.unlink()
        acquire_output(str(disk / "out"), {"model": "m"}).release()


def test_an_output_that_cannot_be_written_is_reported(tmp_path: Path):
    with small_disk(tmp_path / "disk", options="ro") as disk:
        for write in (lambda uri: acquire_output(uri, {}), check_writable):
            with raises_error(
                OutputError, "output: cannot write '", "': Read-only file system; or give another place with "
            ):
                write(str(disk / "out"))


def test_checking_that_an_output_is_writable_leaves_nothing_behind(tmp_path: Path):
    check_writable(str(tmp_path / "no" / "such" / "out"))
    check_writable(str(tmp_path / "out"))
    check_writable(str(tmp_path))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.usefixtures("ray_session")
def test_a_disk_that_fills_up_during_a_run_is_reported_and_the_run_resumes_when_there_is_space(tmp_path: Path, models):
    documents = [DOCUMENT | {"document_id": str(i), "ballast": os.urandom(100_000)} for i in range(24)]
    config = write_job(tmp_path, models["bert"], documents, [{"question_id": "q", "question": "Who built it?"}])
    with small_disk(tmp_path / "disk") as disk:
        config = changed(config, output=str(disk / "out"))
        with raises_error(
            OutputError, "No space left on device; fix that and run the same command again: finished documents are kept"
        ):
            answer_documents(config)
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        manifest = answer_documents(config)
        assert manifest["windows_this_run"] < 24
        assert_nothing_lost(config, [(str(i), "q") for i in range(24)], manifest)
