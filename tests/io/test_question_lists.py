"""Questions in lists of the documents: read, checked, and in place of a table of questions."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gold_tables import Folder, answer, golds
from hypothesis import given
from hypothesis import strategies as st
from listed import ENTRY, TEXT, documents_with, entry
from running import DOCUMENT, raises_error

from qa_ray.config import FinetuneConfig, check_config
from qa_ray.errors import InputError
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.io.document_table import open_documents
from qa_ray.io.question_lists import QuestionLists, list_leaves, num_listed, read_lists
from qa_ray.io.question_table import open_questions
from qa_ray.io.row_checks import check
from qa_ray.schemas import GOLD, Question
from qa_ray.training.plan import make_plan as make_finetune_plan

COLUMNS: dict[str, Any] = {
    name: name for name in ("document_id", "text", "question_id", "question", "questions", "answers")
}
LISTS = QuestionLists("questions", "question_id", "question")


# ---- Reading lists


LIST = st.none() | st.lists(
    st.none()
    | st.fixed_dictionaries(
        {"question_id": st.none() | st.integers(0, 99), "question": st.none() | st.text(max_size=3)}
    ),
    max_size=4,
)


@given(st.lists(LIST, max_size=12), st.integers(1, 5), st.booleans())
def test_lists_are_counted_and_read_whatever_is_null_or_empty(
    tmp_path_factory: pytest.TempPathFactory, lists: list[Any], rows_per_group: int, is_large: bool
):
    struct = pa.struct([("question", pa.string()), ("more", pa.list_(GOLD)), ("question_id", pa.int16())])
    array = pa.array(lists, pa.large_list(struct) if is_large else pa.list_(struct))
    path = tmp_path_factory.mktemp("lists") / "documents.parquet"
    pq.write_table(pa.table({"questions": array}), path, row_group_size=rows_per_group)
    file = pq.ParquetFile(path)
    leaves = list_leaves(file.metadata, LISTS, ["question_id"])
    counted = sum(num_listed(batch["questions"]) for batch in file.iter_batches(3, columns=leaves.names))
    assert counted == sum(len(row or ()) for row in lists)
    assert [name.endswith(".question_id") for name in leaves.names] == [True]
    leaves = list_leaves(file.metadata, LISTS, ["question_id", "question"])
    read = [
        row
        for batch in file.iter_batches(3, columns=leaves.names)
        for row in read_lists(batch["questions"], LISTS).to_pylist()
    ]
    without_id = {"question_id": None, "question": None}
    for row, written in zip(read, lists, strict=True):
        assert row == [
            {name: None if value is None else str(value) for name, value in (one or without_id).items()}
            for one in written or ()
        ]


# ---- Checks of the entries


@given(st.lists(st.sampled_from([None, "a", "b", "c", "table"]), max_size=8), st.booleans())
def test_every_entry_is_a_question_or_a_reject_and_ids_are_unique(ids: list[str | None], has_text: bool):
    listed = read_lists(pa.array([[entry(id_) for id_ in ids]], pa.list_(ENTRY)), LISTS)[0]
    asked = [Question("table", "Who?")]
    checked = check("d", pa.scalar(TEXT if has_text else " "), asked, listed)
    kept = [question.question_id for question in checked.questions]
    assert len(kept) == len(set(kept)) == (len({*ids, "table"} - {None}) if has_text else 0)
    assert len(kept) + len(checked.rejects) == len(ids) + 1
    expected = Counter(null_question_id=ids.count(None))
    expected["duplicate_question_id"] = len(ids) - ids.count(None) - len({*ids} - {None, "table"})
    expected["blank_text"] = 0 if has_text else len({*ids, "table"} - {None})
    assert Counter(row["reason"] for row in checked.rejects) == +expected


# ---- Gold answers in lists


def write_gold(folder: Path) -> tuple[str, str]:
    """A table of documents with lists of questions, and a table with the same questions."""
    lists = [
        [entry("q", answers=golds("Ada Vane")), entry("r", answers=[])],
        None,
        [entry("q", "When?", answers=golds("1871")), entry("s", answers=None)],
    ]
    rows = [one | {"document_id": f"d{i}"} for i, asked in enumerate(lists) for one in asked or ()]
    documents = documents_with(*lists).append_column("year", pa.array([1871, 1872, 1873]))
    tables = Folder(folder)
    return tables.table("documents", documents.to_pylist(), documents.schema), tables.questions(*rows)


def test_a_table_of_documents_with_lists_is_a_table_of_questions(tmp_path: Path):
    documents, questions = write_gold(tmp_path)
    (listed, fingerprint), (table, _) = (open_questions(uri, COLUMNS) for uri in (documents, questions))
    for id_ in ("d0", "d1", "d2", "d3"):
        assert listed.of(id_) == table.of(id_)
    assert listed.num_bound == 4
    assert fingerprint == open_documents(documents, COLUMNS, []).fingerprint


@pytest.mark.parametrize(
    ("documents", "messages"),
    [
        (documents_with([entry("q"), entry("q")]), ["question_id 'q' occurs 2 times for document 'd0'"]),
        (documents_with([entry(None)]), ["1 questions of ", "have null as 'questions.question_id'; give every"]),
        (documents_with([], None), ["questions' has 1 file and no row; nothing to ask"]),
        (
            documents_with([entry("q")]).set_column(0, "document_id", pa.array([None], pa.string())),
            ["1 questions of ", "have null as 'document_id'; give every question and its document an id"],
        ),
        (
            documents_with([{"question_id": "q", "question": "?"}], type=pa.list_(pa.struct(list(ENTRY)[:2]))),
            ["the structs of 'questions': no column 'answers'; there are question_id, question; "],
        ),
    ],
)
def test_lists_that_are_no_table_of_questions_are_refused(tmp_path: Path, documents: pa.Table, messages: list[str]):
    (tmp_path / "questions").mkdir()
    pq.write_table(documents, tmp_path / "questions" / "part-0.parquet")
    with raises_error(InputError, "questions: ", *messages):
        open_questions(str(tmp_path / "questions"), COLUMNS)


def test_answers_are_scored_against_the_gold_answers_of_the_documents(tmp_path: Path):
    documents, questions = write_gold(tmp_path)
    answers = Folder(tmp_path).answers(
        answer("q", "Ada Vane", 0.1, "d0"), answer("r", None, 0.9, "d0"), answer("q", "1872", 0.1, "d2")
    )
    scores = evaluate(answers, documents, by=["year"])
    assert scores.overall == evaluate(answers, questions).overall
    assert {year: group.count for year, group in scores.groups["year"].items()} == {"1871": 2, "1873": 1}
    assert scores.no_gold == 1


def test_lists_without_gold_answers_are_refused_by_evaluate(tmp_path: Path):
    tables = Folder(tmp_path)
    questions = tables.table("documents", [DOCUMENT | {"questions": [entry("q")]}])
    with raises_error(
        InputError,
        "questions: document 'a' in ",
        " has the question {'question_id': 'q', 'question': 'Who built it?'}; give questions as lists of structs with",
    ):
        evaluate(tables.answers(answer("q", "Ada Vane", document_id="a")), questions)


def test_a_model_is_finetuned_on_documents_with_lists(tmp_path: Path, models):
    documents, questions = write_gold(tmp_path)
    plans = [
        make_finetune_plan(
            check_config(
                FinetuneConfig,
                {"documents": documents, "questions": uri, "output": str(tmp_path / "out"), "model": models["bert"]},
                "test",
            )
        )
        for uri in (documents, questions)
    ]
    (document_table, listed), (_, table) = (plan.training_tables for plan in plans)
    assert [listed.of(id_) for id_ in ("d0", "d1", "d2")] == [table.of(id_) for id_ in ("d0", "d1", "d2")]
    assert (document_table.lists, document_table.passed_through) == (None, ())
