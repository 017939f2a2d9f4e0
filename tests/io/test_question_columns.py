"""Columns of questions: which of them names the document, their types, and the values that have none."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import raises_error

from qa_ray.errors import InputError
from qa_ray.io.document_table import open_documents
from qa_ray.io.question_table import QuestionTable, open_questions

COLUMNS = {name: name for name in ("document_id", "text", "question_id", "question")}
GOLD_COLUMNS = COLUMNS | {"answers": "answers"}


def questions_of(folder: Path, *tables: pa.Table | list[dict[str, Any]], **columns: str) -> QuestionTable:
    """The questions in these files, with these names of columns."""
    for number, table in enumerate(tables):
        table = table if isinstance(table, pa.Table) else pa.Table.from_pylist(table)
        pq.write_table(table, folder / f"part-{number}.parquet")
    names = (GOLD_COLUMNS if "answers" in columns else COLUMNS) | columns
    return open_questions(str(folder), names)[0]


ONE = {"question_id": "q", "question": "Who?"}


@pytest.mark.parametrize("own", ["document_id", "doc", "Uuid"])
def test_a_column_that_the_config_names_must_be_in_the_questions_too(tmp_path: Path, own: str):
    with raises_error(
        InputError,
        f"questions: no column 'uuid', which columns.document_id names; there are question_id, question, {own}; ",
        "name the questions' own with columns.question_document_id=…; if all are asked about every document, add a "
        "column 'uuid' of nulls",
    ):
        questions_of(tmp_path, [ONE | {own: "a"}], document_id="uuid")
    questions = questions_of(tmp_path, [ONE | {own: "a"}], document_id="uuid", question_document_id=own)
    assert questions.num_bound == 1
    with raises_error(InputError, "questions: no column 'none', which columns.question_document_id names; there are"):
        questions_of(tmp_path, [ONE | {own: "a"}], question_document_id="none")


def test_questions_without_a_column_that_could_name_a_document_are_asked_of_all(tmp_path: Path):
    assert questions_of(tmp_path, [ONE | {"answers": []}], document_id="uuid").num_bound == 0
    questions = questions_of(tmp_path, [ONE | {"topic": "x"}])
    assert (len(questions.to_all), questions.notes) == (1, ())


def test_a_column_that_may_name_the_document_is_pointed_out(tmp_path: Path):
    (note,) = questions_of(tmp_path, [ONE | {"doc_id": "a"}]).notes
    assert note == (
        "questions: there is no column 'document_id', so each is asked about every document; if 'doc_id' names its "
        "document, set columns.question_document_id=doc_id"
    )


def test_a_file_without_the_column_of_documents_is_refused(tmp_path: Path):
    with raises_error(InputError, "no column 'document_id' in ", "part-1.parquet', though other files have it"):
        questions_of(tmp_path, [ONE | {"document_id": "a"}], [ONE | {"question_id": "r"}])


def test_other_columns_of_questions_may_differ_in_any_way(tmp_path: Path):
    files = [[ONE | {"more": 1}], [ONE | {"question_id": "r", "more": "x"}], [ONE | {"question_id": "s"}]]
    assert len(questions_of(tmp_path, *files)) == 3


@pytest.mark.parametrize(
    ("start_char", "shown"),
    [(29.5, "29.5"), (float("nan"), "nan"), ("x", "'x'"), (Decimal("1.5"), "Decimal('1.5')"), (2.0**70, "1.18")],
)
def test_a_start_that_is_no_integer_is_named_with_its_place(tmp_path: Path, start_char: Any, shown: str):
    good = {"text": "Ada", "start_char": type(start_char)(3)}
    golds = [[good], None, [], [good, {"text": "Vane", "start_char": start_char}], [good]]
    rows = [ONE | {"question_id": str(number), "answers": gold} for number, gold in enumerate(golds)]
    with raises_error(
        InputError,
        f"questions: 'start_char' of 'gold' in row 4 of 5 of '{tmp_path}/part-0.parquet' is {shown}",
        ", not an integer; fix it, or make it null: unknown",
    ):
        questions_of(
            tmp_path, pa.Table.from_pylist(rows).rename_columns(["question_id", "question", "gold"]), answers="gold"
        )


def test_starts_that_are_whole_and_more_fields_in_another_order_are_read(tmp_path: Path):
    answers = [{"stop_char": 6, "start_char": 3.0, "text": "Ada"}]
    questions = questions_of(tmp_path, [ONE | {"answers": answers}], answers="answers")
    assert questions.to_all[0].answers == [{"text": "Ada", "start_char": 3}]
    with raises_error(InputError, "questions: 'start_char' of 'answers' has type bool, not int64; cast it"):
        questions_of(tmp_path, [ONE | {"answers": [{"start_char": True, "text": "Ada"}]}], answers="answers")


def test_documents_of_questions_may_be_in_the_names_of_folders(tmp_path: Path):
    for number in (7, 8):
        (tmp_path / f"document_id={number}").mkdir()
        pq.write_table(pa.Table.from_pylist([ONE]), tmp_path / f"document_id={number}" / "a.parquet")
    questions = open_questions(str(tmp_path), COLUMNS)[0]
    assert (questions.num_bound, len(questions.of("7")), questions.document_id_type) == (2, 1, pa.int32())


@pytest.mark.parametrize(
    ("types", "common"),
    [
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.string(), pa.large_string()], pa.large_string()),
        ([pa.int32(), pa.string()], pa.string()),
        ([pa.int32(), pa.null()], pa.int32()),
    ],
)
def test_the_type_of_ids_is_that_of_all_files(tmp_path: Path, types: list[pa.DataType], common: pa.DataType):
    tables = []
    for number, id_type in enumerate(types):
        ids = pa.nulls(1) if pa.types.is_null(id_type) else pa.array([str(number)]).cast(id_type)
        tables.append(pa.table({"question_id": [number], "question": ["Who?"], "document_id": ids}))
    assert questions_of(tmp_path, *tables).document_id_type == common


def test_uuids_of_questions_are_those_of_documents(tmp_path: Path):
    ids = pa.array([b"a" * 16, b"b" * 16], pa.uuid())
    (tmp_path / "questions").mkdir()
    table = pa.table({"question_id": ids, "question": ["Who?"] * 2, "document_id": ids})
    questions = questions_of(tmp_path / "questions", table)
    assert (questions.document_id_type, questions.question_id_type) == (pa.uuid(), pa.uuid())
    pq.write_table(pa.table({"document_id": ids, "text": ["Ada"] * 2}), tmp_path / "documents.parquet")
    documents = open_documents(str(tmp_path / "documents.parquet"), COLUMNS)
    assert documents.id_type == pa.uuid()
    assert [len(questions.of(str(id_))) for id_ in ids.to_pylist()] == [1, 1]
