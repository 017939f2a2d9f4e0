"""Bad input tables are refused before the run, with the place and the remedy."""

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import DOCUMENT, QUESTION, File, changed, not_utf8, raises_error, write_job

from qa_ray.answering.plan import make_plan
from qa_ray.errors import InputError
from qa_ray.io.document_table import open_documents
from qa_ray.io.question_table import open_questions

COLUMNS = {name: name for name in ("document_id", "text", "question_id", "question")}
TO_ALL = {"question_id": "q", "question": "Who built it?"}
NO_DOCUMENTS = pa.table({"document_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
NO_QUESTIONS = NO_DOCUMENTS.rename_columns(["question_id", "question"])
FIFTY_ROWS = pa.table(
    {"document_id": [f"d{i}" for i in range(50)], "text": [f"Ada Vane built {i} lighthouses " * 20 for i in range(50)]}
)


def parquet(table: pa.Table, *, broken_column: int | None = None) -> bytes:
    """The table as the bytes of a file; the pages of ``broken_column`` are overwritten."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    content = bytearray(file.getvalue())
    if broken_column is not None:
        chunk = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(broken_column)
        start = (chunk.dictionary_page_offset or chunk.data_page_offset) + 30
        content[start : start + 60] = b"\xff" * 60
    return bytes(content)


# ---- Files


def test_a_path_that_does_not_exist_is_reported():
    for table, open_table in (("documents", open_documents), ("questions", open_questions)):
        with raises_error(
            InputError, f"{table}: no such file or folder: '/no/such'; give a Parquet file, a folder or a glob"
        ):
            open_table("/no/such", COLUMNS)


def test_a_folder_without_parquet_is_reported(tmp_path: Path):
    (tmp_path / "_hidden.parquet").touch()
    with raises_error(
        InputError, "documents: no Parquet file (*.parquet) in ", "which holds 1 hidden; make some from SQuAD JSON"
    ):
        open_documents(str(tmp_path), COLUMNS)
    (tmp_path / "notes.txt").touch()
    with raises_error(
        InputError, "which holds notes.txt, 1 hidden; make some from SQuAD JSON, text files or a dataset with 'qa-ray"
    ):
        open_documents(str(tmp_path), COLUMNS)


def test_files_without_read_permission_are_reported():
    folder = Path(tempfile.mkdtemp())  # not below pytest's, which others may not enter at all
    folder.chmod(0o755)
    pq.write_table(pa.Table.from_pylist([DOCUMENT]), folder / "part.parquet")
    user = os.geteuid()
    try:
        for locked in (folder / "part.parquet", folder):
            locked.chmod(0)
            os.seteuid(user or 65534)  # root may read everything
            with raises_error(
                InputError,
                f"documents: cannot read {str(locked)!r}: no permission (Permission denied); check its owner",
            ):
                open_documents(str(folder), COLUMNS)
            os.seteuid(user)
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


NOT_PARQUET = {
    "empty": (b"", "Parquet file size is 0 bytes"),
    "short": (b"hello", "smaller than the minimum file footer"),
    "text": (b"PAR1 and then some text PAR1", "footer"),
    "cut off": (parquet(FIFTY_ROWS)[:-50], "Parquet magic bytes not found"),
}


@pytest.mark.parametrize("content_name", NOT_PARQUET)
@pytest.mark.parametrize("table", ["documents", "questions"])
def test_a_file_that_is_not_parquet_is_reported(tmp_path: Path, models, content_name: str, table: str):
    content, reason = NOT_PARQUET[content_name]
    files: dict[str, Any] = {table: content}
    config = write_job(tmp_path, models["bert"], **files)
    with raises_error(
        InputError, f"{table}: ", "part-0.parquet' cannot be read as Parquet (", reason, "write it again or move it"
    ):
        make_plan(config)


@pytest.mark.parametrize("broken_column", [0, 1])
def test_a_file_with_broken_pages_is_reported(tmp_path: Path, models, broken_column: int):
    config = write_job(tmp_path, models["bert"], parquet(FIFTY_ROWS, broken_column=broken_column))
    with raises_error(
        InputError, "documents: ", "part-0.parquet' cannot be read as Parquet (", "); write it again or move it"
    ):
        make_plan(config)
    columns = COLUMNS | {"question_id": "document_id", "question": "text", "document_id": "none"}
    with raises_error(
        InputError, "questions: ", "part-0.parquet' cannot be read as Parquet (", "); write it again or move it"
    ):
        open_questions(config.documents, columns)


def test_a_path_may_contain_any_character(tmp_path: Path, models):
    config = write_job(tmp_path / "my docs #1 %41 [x] é=1&*'\"?", models["bert"])
    assert make_plan(config).num_pairs == 1


# ---- Columns, types and ids of documents


@pytest.mark.parametrize(
    ("documents", "messages"),
    [
        (
            [{"document_id": "a", "txt": "b"}],
            [
                "no column 'text'; there are document_id, txt; did you mean 'txt'? ",
                "name the right one with columns.text=…",
            ],
        ),
        (pa.table({}), ["no column 'document_id'; there are none; name the right one with columns.document_id=…"]),
        (NO_DOCUMENTS, ["documents' has 1 file and no row; nothing to answer"]),
        (
            [{"document_id": "a", "text": 3}],
            ["the column 'text' has type int64, not string; cast it or name another column"],
        ),
        ([{"document_id": "a", "text": None}], ["the column 'text' has type null, not string"]),
        ([{"document_id": "a", "text": b"x"}], ["the column 'text' has type binary, not string"]),
        ([{"document_id": 1.0, "text": "b"}], ["the column 'document_id' has type double, not string or integer"]),
        (
            [DOCUMENT, DOCUMENT | {"document_id": None}],
            ["1 rows of ", "part-0.parquet' have null as 'document_id'; give every document an id"],
        ),
        (
            pa.table({"document_id": not_utf8(b"a\xff"), "text": ["b"]}),
            ["'document_id' in ", "part-0.parquet' is not valid UTF-8 (", "); fix the ids"],
        ),
        ([DOCUMENT, DOCUMENT], ["document_id 'a' occurs twice, in ", "ids must be unique: drop or rename one of them"]),
        (([DOCUMENT], [DOCUMENT]), ["part-0.parquet' and in ", "part-1.parquet'"]),
        (
            ([DOCUMENT], [{"document_id": 1, "text": "b"}]),
            [
                "the column 'document_id' has type int64 in ",
                "part-1.parquet' and string in ",
                "part-0.parquet', and no type holds the values of both; write them with one type",
            ],
        ),
        (
            ([DOCUMENT | {"x": "a"}], [DOCUMENT | {"document_id": "b", "x": 1}]),
            [
                "the column 'x' has type int64 in ",
                " and string in ",
                "write them with one type, or leave it out: columns.keep=[…] names the columns to pass through",
            ],
        ),
        (
            ([DOCUMENT], [{"document_id": "b", "Text": "c"}]),
            [
                "no column 'text' in ",
                "part-1.parquet', though other files have it; there are document_id, Text; did you mean 'Text'? rename",
            ],
        ),
        (
            pa.table([["a"], ["b"], ["c"]], ["document_id", "text", "text"]),
            ["part-0.parquet' has two columns 'text'; drop or rename one of them, or leave it out with columns.keep"],
        ),
        (
            [DOCUMENT | {"answer": 1}],
            ["the column 'answer' has a name that the job uses itself; rename it, or name the columns to pass through"],
        ),
        (
            [DOCUMENT | {"questions": 1}],
            [
                "the column 'questions' has type int64, not list<struct<question_id, question>>; cast it, or name the "
                "column with the questions with columns.questions=…, null: none"
            ],
        ),
    ],
)
def test_documents_that_cannot_be_used_are_refused(tmp_path: Path, models, documents: File, messages: list[str]):
    config = write_job(tmp_path, models["bert"], documents)
    with raises_error(InputError, "documents: ", *messages):
        make_plan(config)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": "txt"},
            "no column 'txt'; there are document_id, text; did you mean 'text'? name the right one with columns.text=…",
        ),
        ({"keep": ["title"]}, "no column 'title'; there are document_id, text; leave it out of columns.keep"),
        ({"document_id": "text"}, "columns.document_id and columns.text both name 'text'; name two columns"),
    ],
)
def test_wrong_column_names_in_the_config_are_reported(tmp_path: Path, models, columns: dict[str, Any], message: str):
    with raises_error(InputError, message):
        make_plan(write_job(tmp_path, models["bert"], columns=columns))


def test_columns_whose_names_the_job_uses_itself_are_refused(tmp_path: Path, models):
    documents = [{"body": "b", "text": "c", "questions": "a"}]
    columns = {"text": "body", "document_id": "questions"}
    config = write_job(tmp_path, models["bert"], documents, columns=columns)
    with raises_error(InputError, "documents: the column 'text' has a name that the job uses itself"):
        make_plan(config)
    with raises_error(
        InputError, "documents: the id column 'questions' has a name that the job uses itself; rename it"
    ):
        make_plan(changed(config, columns=columns | {"keep": []}))


# ---- Columns, types and ids of questions


@pytest.mark.parametrize(
    ("questions", "messages"),
    [
        ([{"question_id": "q", "ask": "b"}], ["no column 'question'; there are question_id, ask; did you mean"]),
        (pa.table({}), ["no column 'question_id'; there are none"]),
        (NO_QUESTIONS, ["questions' has 1 file and no row; nothing to ask"]),
        ([QUESTION | {"question": 3}], ["the column 'question' has type int64, not string"]),
        ([QUESTION | {"document_id": 1.0}], ["the column 'document_id' has type double, not string or integer"]),
        (
            [QUESTION, QUESTION | {"question_id": None}],
            ["1 rows of ", "part-0.parquet' have null as 'question_id'; give every question an id"],
        ),
        (
            [QUESTION, QUESTION],
            ["question_id 'q' occurs 2 times for document 'a'; ids must be unique within a document"],
        ),
        (
            [QUESTION, QUESTION | {"document_id": None}],
            ["'q' is asked about every document and also of 'a'; give one of them another id"],
        ),
        ([TO_ALL] * 3, ["'q' occurs 3 times among those asked about every document; give each its own id"]),
        (
            [TO_ALL, {"question_id": "r", "question": None}],
            ["question 'r', asked about every document, has null as its text; write the question or drop the row"],
        ),
        ([TO_ALL | {"question": " \n"}], ["has a text of white space only; write the question or drop the row"]),
        (
            pa.table({"question_id": ["q", "r"], "question": not_utf8(b"ok", b"\xed\xa0\x80")}),
            [
                "'question' in row 2 of 2 of ",
                "part-0.parquet' is b'\\xed\\xa0\\x80', not valid UTF-8; fix it or drop the row",
            ],
        ),
        (
            pa.table({"question_id": not_utf8(b"\xff"), "question": ["?"]}),
            ["'question_id' in row 1 of 1 of ", "is b'\\xff', not valid UTF-8"],
        ),
    ],
)
def test_questions_that_cannot_be_used_are_refused(tmp_path: Path, models, questions: File, messages: list[str]):
    config = write_job(tmp_path, models["bert"], questions=questions)
    with raises_error(InputError, "questions: ", *messages):
        make_plan(config)


def test_question_files_may_differ_in_the_types_of_ids_and_strings(tmp_path: Path):
    types = [(pa.string(), pa.int32()), (pa.large_string(), pa.string()), (pa.string(), pa.null())]
    for i, (text, document_id) in enumerate(types):
        ids = pa.nulls(1) if document_id == pa.null() else pa.array([str(i)]).cast(document_id)
        table = pa.table({"question_id": [i], "question": pa.array(["?"], text), "document_id": ids})
        pq.write_table(table, tmp_path / f"part-{i}.parquet")
    questions, _ = open_questions(str(tmp_path), COLUMNS)
    assert questions.num_bound == 2
    assert [question.question_id for question in questions.to_all] == ["2"]
    assert [question.question_id for question in questions.of("0")] == ["0", "2"]
