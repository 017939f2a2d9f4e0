"""A run with earlier outputs asks only what is new, and its output is that of a run from nothing."""

import io
import json
import logging
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from models import TEXT
from rich.console import Console
from running import assert_nothing_lost, assert_same_answers, changed, raises_error, read_rows, write_job

from qa_ray.answering import flatten, job, previous
from qa_ray.answering.job import answer_documents, check_job
from qa_ray.answering.plan import make_plan
from qa_ray.answering.previous import (
    AnswersFile,
    PreviousAnswers,
    gather_answers,
    index_pairs,
    open_previous,
    read_keys,
)
from qa_ray.cli.console import show_answers
from qa_ray.cli.plans import show_plan
from qa_ray.config import AnswerConfig
from qa_ray.config.sections import StorageSettings
from qa_ray.errors import InputError, OutputError
from qa_ray.output.verify import verify
from qa_ray.runtime.tasks import run_tasks

STORAGE = StorageSettings().model_dump()
TO_ALL = [
    {"question_id": "who", "question": "Who built the lighthouse?", "document_id": None},
    {"question_id": "where", "question": "它在哪里？", "document_id": None},
]
BOUND = [{"question_id": "when", "question": "When was it signed?", "document_id": "d🗼07"}]
SETTINGS = {"answers": {"no_answer_threshold": 0.1, "n_best": 2}, "limits": {"max_rejected_fraction": 1}}


def text_of(number: int, version: int = 0) -> str:
    draw = random.Random(f"{number} {version}")
    return " ".join(draw.choices(TEXT.split(), k=draw.randint(40, 250)))


def document(number: int, version: int = 0, title: str = "monday") -> dict[str, Any]:
    return {"document_id": f"d🗼{number:02}", "text": text_of(number, version), "title": title, "year": 1900 + number}


MONDAY = [document(i) for i in range(39)] + [document(39) | {"text": " "}]  # whose questions are rejected
# Five new, three changed, two removed; of one the title has changed; and all of them in another order.
TUESDAY = [document(i, title="tuesday" if i == 11 else "monday") for i in range(2, 36)]
TUESDAY += [document(i, version=1) for i in range(36, 39)] + [MONDAY[39]] + [document(i) for i in range(40, 45)]
NEW_ON_TUESDAY = {f"d🗼{i:02}" for i in (*range(36, 39), *range(40, 45))}
random.Random(0).shuffle(TUESDAY)


def pairs(documents: list[dict[str, Any]], questions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    ids = {str(row["document_id"]) for row in documents}
    all_pairs = [(id_, q["question_id"]) for id_ in ids for q in questions if q["document_id"] in (None, id_)]
    return all_pairs + [(q["document_id"], q["question_id"]) for q in questions if q["document_id"] not in {None, *ids}]


def run_ids(config: AnswerConfig) -> dict[tuple[str, str], str]:
    """The run that answered each pair."""
    return {(row["document_id"], row["question_id"]): row["run_id"] for row in read_rows(config, "answers")}


def without_run(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "run_id"} for row in rows]


def assert_as_from_nothing(config: AnswerConfig, folder: Path) -> dict[str, Any]:
    """The tables of ``config`` are those of the same job without earlier outputs, and consistent; its manifest."""
    fresh = changed(config, previous=[], output=str(folder))
    manifest, expected = json.loads((Path(config.output) / "manifest.json").read_text()), answer_documents(fresh)
    assert_same_answers(without_run(read_rows(config, "answers")), without_run(read_rows(fresh, "answers")))
    assert read_rows(config, "rejects") == read_rows(fresh, "rejects")
    names = ("documents", "answers", "rejects", "windows")
    assert [manifest["counts"][name] for name in names] == [expected["counts"][name] for name in names]
    assert verify(config.output).problems == []
    own = [row for row in read_rows(config, "answers") if row["run_id"] == manifest["run_id"]]
    assert manifest["windows_this_run"] == sum(row["num_windows"] for row in own)
    assert manifest["counts"]["reused"] == manifest["counts"]["answers"] - len(own)
    return manifest


@pytest.fixture(scope="module")
def monday(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> AnswerConfig:
    """A finished job, with its answers in several files."""
    config = write_job(
        tmp_path_factory.mktemp("monday"), models["bert"], MONDAY, TO_ALL + BOUND, export="jsonl", **SETTINGS
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatten, "ROWS_PER_FILE", 40)
        manifest = answer_documents(config)
    assert len(manifest["files"]["answers"]) > 1
    assert (manifest["previous"], manifest["counts"]["reused"]) == ([], 0)
    answers = read_rows(config, "answers")
    assert 5 < sum(row["answer"] is None for row in answers) < len(answers) - 5
    return config


def tuesday(folder: Path, monday: AnswerConfig, documents: Any = TUESDAY, questions: Any = None) -> AnswerConfig:
    """The job of the next day, over other tables."""
    tables = write_job(folder, monday.model, documents, questions or TO_ALL + BOUND)
    places = {"documents": tables.documents, "questions": tables.questions, "output": str(folder / "output")}
    return changed(monday, previous=monday.output, **places)


# ---- The job


@pytest.mark.parametrize("rows_per_file", [flatten.ROWS_PER_FILE, 35])
def test_a_daily_run_reads_the_model_for_new_and_changed_documents_and_its_output_is_that_of_a_run_from_nothing(
    tmp_path: Path, monday: AnswerConfig, monkeypatch: pytest.MonkeyPatch, rows_per_file: int
):
    monkeypatch.setattr(flatten, "ROWS_PER_FILE", rows_per_file)
    config = tuesday(tmp_path, monday)
    manifest = answer_documents(config)
    assert_nothing_lost(config, pairs(TUESDAY, TO_ALL + BOUND), manifest)
    assert_as_from_nothing(config, tmp_path / "fresh")
    answered = {id_ for (id_, _), run_id in run_ids(config).items() if run_id == manifest["run_id"]}
    assert answered == NEW_ON_TUESDAY
    earlier = json.loads((Path(monday.output) / "manifest.json").read_text())["run_id"]
    assert manifest["previous"] == [{"output": monday.output, "run_id": earlier}]
    assert {*run_ids(config).values()} == {manifest["run_id"], earlier}
    assert 0 < manifest["counts"]["tokens"] < 8 * 1000
    lines = [
        json.loads(line)
        for file in (tmp_path / "output" / "exports" / "jsonl").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert sorted(lines, key=lambda row: (row["document_id"], row["question_id"])) == read_rows(config, "answers")
    assert (len(manifest["files"]["answers"]) > 1) == (rows_per_file == 35)


@pytest.mark.usefixtures("ray_session")
def test_a_new_question_and_one_with_another_text_are_asked_alone(tmp_path: Path, monday: AnswerConfig):
    questions = [
        TO_ALL[0],
        TO_ALL[1] | {"question": "Where is it?"},
        {"question_id": "what", "question": "What did it cost?", "document_id": "d🗼12"},
        {"question_id": "what", "question": "What did it cost?", "document_id": "nowhere"},
    ]
    config = tuesday(tmp_path, monday, MONDAY, questions)
    manifest = answer_documents(config)
    assert_nothing_lost(config, pairs(MONDAY, questions), manifest)
    assert_as_from_nothing(config, tmp_path / "fresh")
    asked = {pair for pair, run_id in run_ids(config).items() if run_id == manifest["run_id"]}
    assert asked == {(f"d🗼{i:02}", "where") for i in range(39)} | {("d🗼12", "what")}


@pytest.mark.usefixtures("ray_session")
def test_days_in_a_row_keep_the_run_of_each_answer_and_rejects_are_asked_again(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch
):
    """With integer ids, questions in lists, and no column that is passed through."""

    def day(name: str, numbers: range, questions: list[str], previous: list[str]) -> AnswerConfig:
        asked = [{"question_id": i, "question": text} for i, text in enumerate(questions)]
        documents = [{"document_id": i, "text": text_of(i), "questions": asked} for i in numbers]
        config = write_job(tmp_path / name, models["bert"], documents, limits={"max_rejected_fraction": 1})
        return changed(config, questions=None, previous=previous)

    first = day("monday", range(10), ["Who?", "Who built the lighthouse?"], [])
    with monkeypatch.context() as patch:
        patch.setattr(job, "tokenize_settings", short_questions)
        manifests = [answer_documents(first)]
    assert manifests[0]["counts"]["rejects_by_reason"] == {"question_too_long": 10}
    second = day("tuesday", range(2, 12), ["Who?", "Who built the lighthouse?"], [first.output])
    manifests.append(answer_documents(second))
    third = day("wednesday", range(3, 13), ["Who?", "Who built the lighthouse?"], [second.output])
    manifests.append(answer_documents(third))

    assert [manifest["counts"]["reused"] for manifest in manifests] == [0, 8, 18]
    assert manifests[2]["counts"]["rejects"] == 0
    runs = [manifest["run_id"] for manifest in manifests]
    days = {pair: runs.index(run_id) for pair, run_id in run_ids(third).items()}
    assert days == {
        (i, question): 2 if i == 12 else 1 if question == 1 or i > 9 else 0 for i in range(3, 13) for question in (0, 1)
    }
    assert_as_from_nothing(third, tmp_path / "fresh")


tokenize_settings = job.tokenize_settings


def short_questions(plan: Any, finished: np.ndarray) -> Any:
    return replace(tokenize_settings(plan, finished), max_question_tokens=2)


@pytest.mark.usefixtures("ray_session")
def test_of_two_earlier_outputs_the_first_counts(tmp_path: Path, monday: AnswerConfig):
    other = tuesday(tmp_path / "other", monday, [document(i) for i in range(30, 50)])
    other_run = answer_documents(changed(other, previous=[]))["run_id"]
    monday_run = json.loads((Path(monday.output) / "manifest.json").read_text())["run_id"]
    config = tuesday(tmp_path, monday, [document(i) for i in range(39)] + [document(i) for i in range(40, 50)])
    manifest = answer_documents(changed(config, previous=[other.output, monday.output]))
    assert [entry["output"] for entry in manifest["previous"]] == [other.output, monday.output]
    assert (manifest["windows_this_run"], manifest["counts"]["answers"]) == (0, 49 * 2 + 1)
    expected = {(f"d🗼{i:02}", q["question_id"]): other_run for i in range(30, 50) if i != 39 for q in TO_ALL}
    assert run_ids(config) == dict.fromkeys(run_ids(config), monday_run) | expected


@pytest.fixture
def killed(tmp_path: Path, monday: AnswerConfig, monkeypatch: pytest.MonkeyPatch) -> AnswerConfig:
    """A run that was killed before its commit, when one of its part files was not written yet and one was twice."""

    class KilledError(Exception):
        pass

    def kill(*_: Any) -> None:
        raise KilledError

    config = tuesday(tmp_path, monday)
    with monkeypatch.context() as patch:
        patch.setattr(job, "commit", kill)
        with pytest.raises(KilledError):
            answer_documents(config)
    parts = sorted((tmp_path / "output" / "_run" / "parts").iterdir())
    assert len(parts) > 2
    parts[0].unlink()
    shutil.copy(parts[1], parts[1].with_name("0.parquet"))
    return config


def test_a_killed_run_is_resumed_and_a_document_in_two_part_files_counts_once(tmp_path: Path, killed: AnswerConfig):
    manifest = answer_documents(killed)
    assert_nothing_lost(killed, pairs(TUESDAY, TO_ALL + BOUND), manifest)
    fresh = changed(killed, previous=[], output=str(tmp_path / "fresh"))
    answer_documents(fresh)
    assert_same_answers(without_run(read_rows(killed, "answers")), without_run(read_rows(fresh, "answers")))
    answered = {id_ for (id_, _), run_id in run_ids(killed).items() if run_id == manifest["run_id"]}
    assert answered == NEW_ON_TUESDAY
    assert manifest["counts"]["reused"] == manifest["counts"]["answers"] - 2 * len(NEW_ON_TUESDAY)
    assert manifest["counts"]["windows"] == sum(row["num_windows"] for row in read_rows(killed, "answers"))


def test_a_killed_run_is_not_resumed_with_other_earlier_outputs(tmp_path: Path, killed: AnswerConfig, monday):
    output = killed.output
    message = (
        f"output: {output!r} holds an unfinished run with previous={[monday.output]} as they were then, not [] as they "
        "are now; give the same ones, or remove the output folder"
    )
    without = changed(killed, previous=[])
    for run in (answer_documents, check_job):
        with raises_error(OutputError, message):
            run(without)
    shutil.copytree(monday.output, tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    manifest["files"]["answers"].pop()
    (tmp_path / "copy" / "manifest-2.json").write_text(json.dumps(manifest))  # as a retry adds one
    with raises_error(OutputError, f"not {[str(tmp_path / 'copy')]} as they are now"):
        answer_documents(changed(killed, previous=str(tmp_path / "copy")))
    (tmp_path / "copy" / "manifest-2.json").unlink()
    answer_documents(changed(killed, previous=str(tmp_path / "copy")))  # the same files at another place


def test_a_finished_output_does_not_need_the_earlier_ones_any_more(tmp_path: Path, monday: AnswerConfig):
    shutil.copytree(monday.output, tmp_path / "copy")
    config = changed(tuesday(tmp_path, monday), previous=str(tmp_path / "copy"))
    manifest = answer_documents(config)
    shutil.rmtree(tmp_path / "copy")
    assert answer_documents(config) == manifest
    assert answer_documents(changed(config, retry_rejects=True))["counts"]["rejects"] == 2
    assert answer_documents(changed(config, previous=[]))["counts"]["reused"] == manifest["counts"]["reused"]


# ---- Before the run


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    monkeypatch.setattr(previous.LOG, "propagate", True)
    with caplog.at_level(logging.WARNING, "qa_ray"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == previous.LOG.name]


def test_nothing_is_taken_from_an_output_with_other_settings_and_a_warning_names_them(
    tmp_path: Path, monday: AnswerConfig, models, warnings
):
    plan = make_plan(monday)
    assert open_previous([monday.output], plan.identity).num_answers == 39 * 2 + 1
    others = {"columns.text": "body", "documents": "x", "questions": None}
    assert open_previous([monday.output], plan.identity | others).num_answers == 39 * 2 + 1
    assert warnings() == []
    others = {"windows.overlap_tokens": 17, "answers.n_best": 3, "runner.dtype": "bfloat16", "qa_ray": "0.1.0"}
    taken = open_previous([monday.output], plan.identity | others)
    assert (taken, taken.origin) == (PreviousAnswers(), None)
    (warning,) = warnings()
    assert warning == (
        f"previous: nothing is taken from {monday.output!r}, which differs in answers.n_best (2 there, 3 now); "
        f"qa_ray ({plan.identity['qa_ray']!r} there, '0.1.0' now); runner.dtype ('float32' there, 'bfloat16' now); "
        "windows.overlap_tokens (16 there, 17 now)"
    )
    assert open_previous([monday.output], plan.identity | {"model": "m"}).num_answers == 0


def test_with_other_settings_all_is_answered(tmp_path: Path, monday: AnswerConfig, warnings):
    config = tuesday(tmp_path, changed(monday, answers={"n_best": 1}), TUESDAY[:2])
    manifest = answer_documents(config)
    assert (manifest["counts"]["reused"], manifest["previous"]) == (0, [])
    assert {*run_ids(config).values()} == {manifest["run_id"]}
    assert len(warnings()) == 1


def test_a_place_without_finished_answers_is_refused_and_nothing_is_left_behind(tmp_path: Path, monday: AnswerConfig):
    config = tuesday(tmp_path, monday)
    (tmp_path / "model").mkdir()
    for name, content in (("manifest.json", {"identity": {}, "files": {"model": []}, "run_id": "r"}),):
        (tmp_path / "model" / name).write_text(json.dumps(content))
    for place, message in (
        (tmp_path, f"previous: {str(tmp_path)!r} has no manifest.json: it is no output folder, or its run is not"),
        (tmp_path / "none", f"previous: {str(tmp_path / 'none')!r} has no manifest.json"),
        (tmp_path / "model", f"previous: {str(tmp_path / 'model')!r} is not the output of `qa-ray answer`; leave it"),
    ):
        for run in (answer_documents, check_job):
            with raises_error(InputError, message):
                run(changed(config, previous=[monday.output, str(place)]))
    assert not (tmp_path / "output").exists()


def test_an_earlier_output_that_is_damaged_is_an_error_that_names_the_file(tmp_path: Path, monday: AnswerConfig):
    shutil.copytree(monday.output, tmp_path / "copy")
    first, second = sorted((tmp_path / "copy" / "answers").iterdir())[:2]
    pq.write_table(pq.read_table(first).slice(1), first)
    taken = open_previous([str(tmp_path / "copy")], make_plan(monday).identity)
    with raises_error(InputError, f"previous: {str(first)!r} has ", " rows, and its manifest says ", "`qa-ray verify`"):
        index_pairs(taken, STORAGE)
    second.unlink()
    with raises_error(InputError, "previous:", str(second)):
        read_keys(STORAGE, taken.files[1])


@pytest.mark.usefixtures("ray_session")
def test_a_file_that_vanishes_before_the_commit_is_an_error_that_names_it(tmp_path: Path):
    taken = PreviousAnswers((AnswersFile(str(tmp_path / "gone.parquet"), 3, ""),))
    ((table,),) = gather_answers(taken, STORAGE, [np.array([0, 2])])
    for arguments in ([(table,)], [(table,), (table,)]):
        with raises_error(InputError, "previous: ", "gone.parquet"):
            run_tasks(num_rows, arguments)


def num_rows(table: pa.Table) -> int:
    return table.num_rows


def test_the_plan_and_the_summary_say_how_many_answers_are_taken(tmp_path: Path, monday: AnswerConfig):
    config = tuesday(tmp_path, monday)
    console = Console(file=io.StringIO(), width=200)
    show_plan(*check_job(config), console)
    manifest = answer_documents(config)
    show_answers(manifest, config, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert re.search(r"previous +│ 79 answers in 1 earlier output +│", text)
    assert f"69 of the answers are of earlier runs; this one read {manifest['windows_this_run']:,} windows" in text
