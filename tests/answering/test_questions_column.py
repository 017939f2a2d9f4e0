"""Questions in a list column of the documents: every entry is answered or rejected, as if it were in a table."""

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listed import TEXT, documents_with, entry, listed_job
from rich.console import Console
from running import DOCUMENT, QUESTION, assert_same_answers, changed, not_utf8, raises_error, read_rows, write_job

from qa_ray.answering import job, plan
from qa_ray.answering.job import answer_documents, check_job
from qa_ray.answering.plan import make_plan
from qa_ray.cli.plans import show_plan
from qa_ray.config import AnswerConfig
from qa_ray.errors import InputError
from qa_ray.io import document_ids, question_lists
from qa_ray.io.document_table import read_row_groups
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids

# ---- The plan


@pytest.mark.parametrize(
    ("documents", "settings", "messages"),
    [
        (
            [DOCUMENT],
            {},
            [
                "questions: no table is given, and columns.questions='questions' is none of the documents' columns "
                "document_id, text; give questions=…, or name the column with lists of questions"
            ],
        ),
        ([DOCUMENT], {"columns": {"questions": None}}, ["columns.questions=None is none of the documents' columns"]),
        (
            [DOCUMENT | {"questions": "Who?"}],
            {},
            [
                "documents: the column 'questions' has type string, not list<struct<question_id, question>>; cast it, "
                "or name the column with the questions with columns.questions=…, null: none"
            ],
        ),
        ([DOCUMENT | {"questions": ["Who?"]}], {}, ["has type list<", "not list<struct<question_id, question>>"]),
        (
            [DOCUMENT | {"questions": [{"id": 1, "question": "Who?"}]}],
            {},
            [
                "documents: the structs of 'questions': no column 'question_id'; there are id, question; ",
                "name the right one with columns.question_id=…",
            ],
        ),
        (
            [DOCUMENT | {"questions": [entry("q", 7)]}],  # pyright: ignore[reportArgumentType]
            {},
            ["documents: the structs of 'questions': the column 'question' has type int64, not string; cast it"],
        ),
        (
            [DOCUMENT | {"questions": [entry(1.0)]}],
            {},
            ["the column 'question_id' has type double, not string or integer; cast it"],
        ),
        (
            documents_with([], None),
            {},
            ["documents: no question in the lists of the column 'questions'; nothing to ask"],
        ),
        (
            documents_with([entry("q")]),
            {"columns": {"keep": ["questions"]}},
            ["documents: columns.keep names 'questions', which holds the questions; they are in the answers anyway"],
        ),
    ],
)
def test_lists_that_cannot_be_used_are_refused_before_anything_runs(
    tmp_path: Path, models, documents: Any, settings: dict[str, Any], messages: list[str]
):
    with raises_error(InputError, *messages):
        make_plan(listed_job(tmp_path, models["bert"], documents, **settings))


def test_a_column_of_lists_that_is_named_must_exist_and_one_that_is_not_need_not(tmp_path: Path, models):
    config = write_job(tmp_path, models["bert"])
    assert make_plan(config).num_pairs == 1
    with raises_error(InputError, "documents: no column 'asked'; there are document_id, text; name the right one with"):
        make_plan(changed(config, columns={"questions": "asked"}))


def test_the_documents_cannot_be_their_own_table_of_questions_as_well(tmp_path: Path, models):
    config = listed_job(tmp_path, models["bert"], documents_with([entry("q")]))
    with raises_error(
        InputError, "are the documents, and the questions in their column 'questions' are asked anyway; leave questions"
    ):
        make_plan(changed(config, questions=config.documents))


def test_pairs_are_counted_exactly_over_files_row_groups_and_both_sources(tmp_path: Path, models):
    first = documents_with([entry("a"), entry("a"), None], None, [], [entry(None)], *[[entry("x")]] * 20)
    second = documents_with([entry("a", None)] * 1_000).set_column(0, "document_id", pa.array(["e"]))
    questions = [QUESTION | {"document_id": id_, "question_id": id_ or "all"} for id_ in ("d1", "nowhere", None)]
    config = write_job(tmp_path, models["bert"], (first, second), questions, row_group_size=3)
    both = make_plan(config)
    assert both.documents.num_listed == 3 + 1 + 20 + 1_000
    assert both.num_pairs == 1_024 + 2 + 25
    alone = make_plan(changed(config, questions=None))
    assert (alone.num_pairs, len(alone.questions)) == (1_024, 0)
    neither = make_plan(changed(config, columns={"questions": None, "keep": []}))
    assert (neither.documents.lists, neither.num_pairs) == (None, 2 + 25)


def test_lists_that_are_too_large_to_be_read_at_once_are_counted_and_read_in_batches(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(document_ids, "STREAMED_BYTES", 0)
    monkeypatch.setattr(question_lists, "VALUES_PER_BATCH", 100)
    lists = [[entry(f"q{i}") for i in range(60)] for _ in range(10)]
    documents = make_plan(listed_job(tmp_path, models["bert"], documents_with(*lists), row_group_size=5)).documents
    assert documents.num_listed == 600
    columns = documents.columns.select(["document_id"])
    batches = list(read_row_groups(documents.uri, documents.row_groups, columns, documents.lists))
    assert [batch.num_rows for batch in batches] == [1] * 10
    questions = [{name: one[name] for name in ("question_id", "question")} for one in lists[0]]
    assert [row for batch in batches for row in batch["questions"].to_pylist()] == [questions] * 10


def test_the_estimate_counts_the_lists(tmp_path: Path, models):
    lists = [[entry(f"q{i}") for i in range(number)] for number in (0, 3, 5)]
    plan = make_plan(listed_job(tmp_path / "listed", models["bert"], documents_with(*lists)))
    rows = [QUESTION | one | {"document_id": f"d{i}"} for i, asked in enumerate(lists) for one in asked]
    table = write_job(tmp_path / "table", models["bert"], documents_with(*lists).drop_columns(["questions"]), rows)
    assert plan.num_windows == make_plan(table).num_windows > 0


def test_the_plan_says_where_the_questions_come_from(tmp_path: Path, models):
    documents = documents_with([entry("a"), entry("b")], [])
    for questions, expected in (
        ([{"question_id": "all", "question": "Who?"}], "1 asked about every document, in 1 file: 4 answers"),
        (None, "2 in the column 'questions': 2 answers"),
    ):
        config = listed_job(tmp_path / str(bool(questions)), models["bert"], documents, questions)
        console = Console(file=io.StringIO(), width=160)
        show_plan(*check_job(config), console)
        assert isinstance(console.file, io.StringIO)
        assert expected in console.file.getvalue()


def test_a_large_table_of_bound_questions_is_named_with_the_statement_that_makes_the_column(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    questions = [QUESTION, QUESTION | {"question_id": "r"}]
    config = write_job(tmp_path, models["bert"], questions=questions, columns={"question": "question"})
    make_plan(config)
    assert not caplog.records
    monkeypatch.setattr(plan, "MANY_BOUND_QUESTIONS", 1)
    monkeypatch.setattr(plan.LOG, "propagate", True)
    with caplog.at_level(logging.WARNING, "qa_ray"):
        make_plan(config)
    (message,) = {record.getMessage() for record in caplog.records}  # twice, if a job ran in this process before
    assert "questions: 2 are about one document each, and the driver and every node hold them" in message
    statement = (
        f"copy (select * from '{config.documents}/**/*.parquet' left join (select \"document_id\", list(struct_pack("
        '"question_id" := "question_id", "question" := "question")) as "questions" from '
        f'\'{config.questions}/**/*.parquet\' where "document_id" is not null group by "document_id") using '
        "(\"document_id\")) to 'documents-with-questions' (format parquet, per_thread_output true, "
        "row_group_size 4096);"
    )
    assert message.endswith(f"In DuckDB: {statement}")


@pytest.mark.parametrize("empty", [pa.null(), pa.list_(pa.null())])
def test_a_file_whose_lists_are_all_empty_need_not_have_their_type(tmp_path: Path, models, empty: pa.DataType):
    without = documents_with(None, None, type=empty).set_column(0, "document_id", pa.array(["e0", "e1"]))
    for i, files in enumerate([(documents_with([entry("q")]), without), (without, documents_with([entry("q")]))]):
        config = listed_job(tmp_path / str(i), models["bert"], files)
        assert make_plan(config).num_pairs == 1


# ---- The job


def bad_lists() -> pa.Table:
    ids = not_utf8(b"q", b"r", None, b"q", b"z\xff", b"bad", b"null", b"blank", b"long", b"all", b"own")
    texts = not_utf8(b"Who?", b"Where?", b"Who?", b"When?", b"Who?", b"\xff", None, b" ", b"who " * 20, b"?", b"?")
    entries = pa.StructArray.from_arrays([ids, texts], ["question_id", "question"])
    one = pa.ListArray.from_arrays(pa.array([0, len(entries)]), entries)
    others = pa.array([None, [], [entry("q")], [entry("q"), entry("r")]], one.type)
    return pa.table(
        {
            "document_id": [f"d{i}" for i in range(5)],
            "text": pa.array([TEXT, TEXT, TEXT, TEXT, None]),
            "questions": pa.concat_arrays([one, others]),
            "title": ["Lighthouses"] * 5,
        }
    )


TABLE = [
    {"document_id": None, "question_id": "all", "question": "Who built it?"},
    {"document_id": "d0", "question_id": "own", "question": "When?"},
    {"document_id": "nowhere", "question_id": "own", "question": "When?"},
]
REJECTS = [
    ("d0", None, "null_question_id", "question 3 of the document's list has null as its id; give it one"),
    ("d0", "all", "duplicate_question_id", "question 10 of the document's list has the id 'all' of another one"),
    ("d0", "bad", "invalid_unicode", "question 6 of the document's list has a text that is not valid UTF-8: "),
    ("d0", "blank", "blank_question", "question 'blank' has a text of white space only"),
    ("d0", "long", "question_too_long", "20 tokens, more than windows.max_question_tokens=5"),
    ("d0", "null", "null_question", "question 'null' has null as its text"),
    ("d0", "own", "duplicate_question_id", "question 11 of the document's list has the id 'own' of another one"),
    ("d0", "q", "duplicate_question_id", "question 4 of the document's list has the id 'q' of another one, which is"),
    ("d0", "z�", "invalid_question_id", "question 5 of the document's list has an id that is not valid UTF-8: "),
    ("d4", "all", "null_text", "document 'd4' has null as its text"),
    ("d4", "q", "null_text", "document 'd4' has null as its text"),
    ("d4", "r", "null_text", "document 'd4' has null as its text"),
    ("nowhere", "own", "unknown_document", "question 'own' is bound to document 'nowhere'"),
]
ANSWERED = [("d0", "all"), ("d0", "own"), ("d0", "q"), ("d0", "r"), ("d1", "all"), ("d2", "all"), ("d3", "all")]
ANSWERED += [("d3", "q")]


def short_questions(plan: Any, finished: np.ndarray, tokenize_settings: Any = job.tokenize_settings) -> Any:
    return replace(tokenize_settings(plan, finished), max_question_tokens=5)


def colliding(ids: pa.Array, key: str) -> np.ndarray:
    """Hashes that all collide under the first key."""
    return hash_ids(ids, key) * np.uint64(key != HASH_KEYS[0])


@pytest.mark.usefixtures("ray_session")
def test_every_entry_is_answered_or_rejected_and_a_retry_asks_what_it_can(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch
):
    """Also with ids whose hashes collide under the first key."""
    monkeypatch.setattr(document_ids, "hash_ids", colliding)
    config = write_job(
        tmp_path, models["bert"], bad_lists(), TABLE, row_group_size=2, limits={"max_rejected_fraction": 1}
    )
    with monkeypatch.context() as patch:
        patch.setattr(job, "tokenize_settings", short_questions)
        manifest = answer_documents(config)
    answers, rejects = read_rows(config, "answers"), all_rejects(config)
    assert [(row["document_id"], row["question_id"]) for row in answers] == ANSWERED
    assert {row["title"] for row in answers} == {"Lighthouses"}
    assert "questions" not in answers[0]
    assert [row[:3] for row in rejects] == [row[:3] for row in REJECTS]
    for (*_, detail), (*_, expected) in zip(rejects, REJECTS, strict=True):
        assert detail.startswith(expected)
    assert manifest["counts"]["answers"] + manifest["counts"]["rejects"] == 14 + 5 + 2 == make_plan(config).num_pairs

    manifest = answer_documents(changed(config, retry_rejects=True))
    assert [(row["document_id"], row["question_id"]) for row in read_rows(config, "answers")] == sorted(
        [*ANSWERED, ("d0", "long")]
    )
    assert [row[:3] for row in all_rejects(config)] == [row[:3] for row in REJECTS if row[1] != "long"]
    assert manifest["counts"]["rejects"] == len(REJECTS) - 1
    assert [retry["answers"] for retry in manifest["retries"]] == [1]


def all_rejects(config: AnswerConfig) -> list[tuple[Any, ...]]:
    rows = pq.read_table(Path(config.output) / "rejects").to_pylist()
    rejects = [(row["document_id"], row["question_id"], row["reason"], row["detail"]) for row in rows]
    return sorted(rejects, key=lambda row: (row[0], row[1] or ""))


@pytest.mark.usefixtures("ray_session")
def test_lists_give_the_answers_of_a_table_whatever_ids_and_columns_are_called(tmp_path: Path, models):
    texts = [TEXT, "The harbor was dug in 1902 by the town.", "Nobody knows who planted the oak."]
    asked = [["Who built it?", "When?"], [], ["Who planted the oak?"]]
    names = {"document_id": "nr", "text": "body", "question_id": "id", "question": "ask", "questions": "asked"}
    documents = pa.table(
        {
            "nr": pa.array([7, 8, 9]),
            "asked": pa.array(
                [[{"ask": text, "id": i, "kind": "x"} for i, text in enumerate(questions)] for questions in asked],
                pa.large_list(pa.struct([("ask", pa.large_string()), ("kind", pa.string()), ("id", pa.int32())])),
            ),
            "body": texts,
        }
    )
    questions = [
        {"nr": 7 + row, "id": i, "ask": text} for row, texts in enumerate(asked) for i, text in enumerate(texts)
    ]
    listed = listed_job(tmp_path / "listed", models["bert"], documents, columns=names)
    table = write_job(
        tmp_path / "table", models["bert"], documents.drop_columns(["asked"]), questions,
        columns=names | {"questions": "questions"},
    )  # fmt: skip
    answers = []
    for config in (listed, table):
        answer_documents(config)
        answers.append([row | {"run_id": ""} for row in read_rows(config, "answers")])
    assert [row["document_id"] for row in answers[0]] == [7, 7, 9]
    assert_same_answers(*answers)
