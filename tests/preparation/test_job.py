"""qa_ray.preparation.job: what is checked, counted and rejected, and how the tables are published."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED_DATA, needs_shared_data
from source_files import article, ids, paragraph, qa, rows, squad, write_json

from qa_ray.errors import InputError, OutputError
from qa_ray.preparation import job as module
from qa_ray.preparation.job import PreparedTables, prepare
from qa_ray.schemas import DOCUMENTS, QUESTIONS, REJECTS


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "a.txt").write_text("Ada was here.")
    return folder


def test_version_2_gold_is_a_list_an_empty_list_or_null(tmp_path: Path):
    gold = [{"text": "Ada", "answer_start": 0}] * 2
    source = write_json(
        tmp_path / "dev.json",
        squad(
            article(
                "Ada",
                paragraph(
                    "Ada was here.",
                    qa("a", answers=gold, is_impossible=False),
                    qa("b", answers=[], is_impossible=True, plausible_answers=gold),
                    qa("c", answers=gold),
                    qa(7),
                ),
            )
        ),
    )
    result = prepare(source, f"{tmp_path}/out")
    twice = [{"text": "Ada", "start_char": 0}] * 2
    assert [
        (row["question_id"], row["answers"], row["is_impossible"]) for row in rows(tmp_path / "out", "questions")
    ] == [
        ("a", twice, False),
        ("b", [], True),
        ("c", twice, None),
        ("7", None, None),
    ]
    assert result == PreparedTables(
        layout="squad",
        documents=1,
        questions=4,
        gold_answers=4,
        unanswerable=1,
        misplaced_answers=0,
        gold_changes={},
        rejects=0,
        rejects_by_reason={},
        files_read=1,
        files_not_read={},
        paths={name: f"{tmp_path}/out/{name}" for name in ("documents", "questions")},
    )
    assert "read as squad (1 file): 1 document, 4 questions, 0 rejects" in str(result)


def test_the_tables_begin_with_the_columns_of_the_schemas(tmp_path: Path):
    prepare(write_json(tmp_path / "dev.json", squad(article("A", paragraph("x", qa("1"))))), f"{tmp_path}/out")
    documents, questions = (
        pq.read_schema(tmp_path / "out" / name / "part-00000.parquet") for name in ("documents", "questions")
    )
    assert pa.schema(list(documents)[: len(DOCUMENTS)]) == DOCUMENTS
    assert pa.schema(list(questions)[: len(QUESTIONS)]) == QUESTIONS
    assert documents.names[len(DOCUMENTS) :] == ["title"]
    assert questions.names[len(QUESTIONS) :] == ["title", "is_impossible"]


def test_a_question_id_may_occur_in_two_documents_but_not_twice_in_one(tmp_path: Path):
    twice = [paragraph("x", qa("1")), paragraph("y", qa("1", "Where?"))]
    source = write_json(tmp_path / "dev.json", squad(article("T", *twice)))
    assert prepare(source, f"{tmp_path}/out").questions == 2
    expected = "question_id '1' occurs twice in document 'T': 'Who?' and 'Where?'; give each its own id or drop one"
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare(source, f"{tmp_path}/out", join=True)


def test_misplaced_answers_are_kept_and_counted_and_an_unknown_position_is_not_misplaced(tmp_path: Path):
    starts = [0, 1, 99, None, -1]
    answers = [{"text": "Ada", "answer_start": start} for start in starts]
    source = write_json(tmp_path / "dev.json", squad(article("T", paragraph("Ada Ada", qa("1", answers=answers)))))
    result = prepare(source, f"{tmp_path}/out")
    assert result.misplaced_answers == 2
    assert "gold: 1 answer with a negative start_char, read as unknown" in str(result)
    starts[-1] = None
    assert [answer["start_char"] for answer in rows(tmp_path / "out", "questions")[0]["answers"]] == starts


def test_empty_texts_and_questions_are_kept_for_the_answer_job_to_reject(tmp_path: Path):
    result = prepare(
        write_json(tmp_path / "dev.json", squad(article("T", paragraph("", qa("1", ""))))), f"{tmp_path}/out"
    )
    assert (result.documents, result.questions, result.rejects) == (1, 1, 0)


def test_rows_with_lone_surrogates_are_rejected_with_the_position_and_other_rows_are_kept(tmp_path: Path):
    bad = "ab\ud83d"
    source = write_json(
        tmp_path / "dev.json",
        squad(
            article("T", paragraph("fine", qa("1"), qa("2", bad), qa("3", answers=[{"text": bad, "answer_start": 0}]))),
            article("U", paragraph(bad, qa("4"), qa("5"))),
            article(f"V{bad}", paragraph("fine")),
        ),
    )
    result = prepare(source, f"{tmp_path}/out")
    assert (result.documents, result.questions, result.rejects) == (1, 1, 5)
    rejects = rows(tmp_path / "out", "rejects")
    assert [(row["document_id"], row["question_id"]) for row in rejects] == [
        ("T#1", "2"),
        ("T#1", "3"),
        ("U#1", "4"),
        ("U#1", "5"),
        ("Vab\\ud83d#1", None),
    ]
    assert {(row["stage"], row["reason"]) for row in rejects} == {("prepare", "invalid_unicode")}
    assert rejects[0]["detail"] == "question: character 2 is the lone surrogate U+D83D; fix the source"
    assert rejects[2]["detail"] == "text: character 2 is the lone surrogate U+D83D; fix the source"
    assert pq.read_schema(tmp_path / "out" / "rejects" / "part-00000.parquet") == REJECTS


def test_row_groups_are_small_and_files_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "FILE_CHARS", 3 << 20)
    sizes = [10] * 600 + [600_000] * 5 + [3_000_000, 10, 10]
    parts = [paragraph(f"{i}".ljust(size, "x"), *(qa(f"{i}-{j}") for j in range(18))) for i, size in enumerate(sizes)]
    prepare(write_json(tmp_path / "dev.json", squad(article("T", *parts))), f"{tmp_path}/out")

    def groups(table: str) -> list[list[int]]:
        footers = [pq.read_metadata(file) for file in sorted((tmp_path / "out" / table).iterdir())]
        return [[footer.row_group(i).num_rows for i in range(footer.num_row_groups)] for footer in footers]

    # 600 short texts; then texts of 600,000 characters, no two of which fit into a group; the long one has its own.
    assert groups("documents") == [[256, 256, 89, 1, 1, 1, 1, 1], [2]]
    assert groups("questions") == [[10_000, 944]]
    assert [len(row["text"]) for row in rows(tmp_path / "out", "documents")] == sizes


def test_the_id_of_a_question_to_every_document_is_refused_for_a_single_document_too(letters: Path, tmp_path: Path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "Who?"}\n{"question": "Where?", "question_id": "q1", "document_id": "a"}\n')
    with pytest.raises(
        InputError, match=r"question_id 'q1' occurs twice in document 'a': 'Who\?' and 'Where\?'; give each"
    ):
        prepare(str(letters), f"{tmp_path}/out", questions=str(questions))
    questions.write_text('{"question": "Who?", "question_id": "q2"}\n{"question": "Where?"}\n')
    with pytest.raises(
        InputError, match=r"'q2' occurs twice among those asked about every document: 'Who\?' and 'Where\?'"
    ):
        prepare(str(letters), f"{tmp_path}/out", questions=str(questions))


def test_a_prefix_distinguishes_two_sources_with_the_same_ids(letters: Path, tmp_path: Path):
    (letters / "questions.jsonl").write_text('{"question": "Who?", "document_id": "a"}\n')
    for prefix in ("", "more/"):
        prepare(
            str(letters),
            f"{tmp_path}/{prefix}out",
            questions=f"{letters}/questions.jsonl",
            prefix=prefix,
            layout="text",
        )
    assert rows(tmp_path / "out", "documents")[0]["document_id"] == "a"
    assert rows(tmp_path / "more/out", "documents")[0]["document_id"] == "more/a"
    assert rows(tmp_path / "more/out", "questions")[0]["document_id"] == "more/a"


# ---- Publishing


def test_an_earlier_prepare_is_replaced_and_other_files_are_kept(letters: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "notes.txt").touch()
    (letters / "questions.txt").write_text("Who?")
    prepare(str(letters), str(out), questions=f"{letters}/questions.txt")
    (letters / "b.txt").write_text("Bob")
    (letters / "questions.txt").write_text("")
    prepare(str(letters), str(out), questions=f"{letters}/questions.txt")
    assert ids(out) == ["a", "b"]
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == ["_PREPARED.json", "documents/part-00000.parquet", "mine/notes.txt"]


@pytest.mark.parametrize("marked", [False, True])
def test_tables_that_prepare_did_not_write_are_never_touched(letters: Path, tmp_path: Path, marked: bool):
    if marked:
        prepare(str(letters), f"{tmp_path}/out")
    other = tmp_path / "out" / "questions" / "mine.parquet"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    expected = (
        f"output '{tmp_path}/out' holds 'questions/mine.parquet', which prepare did not write "
        "(_PREPARED.json does not list it); move it away or give another output"
    )
    with pytest.raises(OutputError, match=re.escape(expected)):
        prepare(str(letters), f"{tmp_path}/out")
    assert other.read_text() == "mine"


def test_a_failed_prepare_leaves_the_earlier_tables_unchanged(letters: Path, tmp_path: Path):
    source = tmp_path / "dev.json"
    prepare(write_json(source, squad(article("T", paragraph("x", qa("1"))))), f"{tmp_path}/out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    write_json(source, squad(article("T", paragraph("x", qa("1"), qa("1")))))
    with pytest.raises(InputError, match="occurs twice"):
        prepare(str(source), f"{tmp_path}/out")
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before


def test_a_prepare_killed_between_two_moves_can_be_run_again(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (letters / "questions.txt").write_text("Who?")
    again = partial(prepare, str(letters), f"{tmp_path}/out", questions=f"{letters}/questions.txt")
    filesystem = fsspec.filesystem("file")
    real_move = type(filesystem).mv

    def move_documents_only(self: object, source: str, target: str) -> None:
        if "questions" in target:
            raise KeyboardInterrupt
        real_move(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(filesystem), "mv", move_documents_only)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert again().questions == 1


def test_files_staged_by_a_killed_prepare_are_not_published(letters: Path, tmp_path: Path):
    stale = tmp_path / "out" / "_preparing" / "documents" / "part-00009.parquet"
    stale.parent.mkdir(parents=True)
    stale.touch()
    prepare(str(letters), f"{tmp_path}/out")
    assert [file.name for file in (tmp_path / "out" / "documents").iterdir()] == ["part-00000.parquet"]


def test_an_output_that_cannot_be_written_is_an_output_error(letters: Path, tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"output: cannot write .*; or give another place with output=…"):
        prepare(str(letters), f"{tmp_path}/out/deep")


def test_sources_and_output_may_be_uris():
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {
            "/prepare/in/deep/a.txt": b"Ada",
            "/prepare/dev.json": json.dumps(squad(article("T", paragraph("x")))).encode(),
        }
    )
    for source, expected in (("memory://prepare/in", "deep/a"), ("memory://prepare/dev.json", "T#1")):
        result = prepare(source, f"memory://prepare/out-{expected}")
        assert result.paths == {"documents": f"memory://prepare/out-{expected}/documents"}
        with memory.open(f"/prepare/out-{expected}/documents/part-00000.parquet", "rb") as file:
            assert pq.read_table(file)["document_id"].to_pylist() == [expected]
        assert not memory.exists(f"/prepare/out-{expected}/_preparing")


def test_importing_prepare_loads_no_heavy_library():
    heavy = "'datasets', 'torch', 'transformers', 'ray'"
    code = f"import sys, qa_ray.preparation.job; print([name for name in ({heavy}) if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@needs_shared_data
@pytest.mark.parametrize(
    ("file", "documents", "questions", "unanswerable", "gold_answers", "misplaced"),
    [
        ("squad/dev-v1.1.json", 2_067, 10_570, 0, 34_726, 0),
        ("squad/dev-v2.0.json", 1_204, 11_873, 5_945, 20_302, 0),
        ("zh/cmrc2018_dev.json", 848, 3_219, 0, 9_657, 0),  # 193 are unknown (-1), 7 counted in UTF-16 units
        ("long/cuad-v1.json", 510, 20_910, 14_208, 13_831, 0),
    ],
)
def test_the_counts_of_real_data_are_right(
    tmp_path: Path, file: str, documents: int, questions: int, unanswerable: int, gold_answers: int, misplaced: int
):
    result = prepare(f"{SHARED_DATA}/{file}", f"{tmp_path}/out")
    assert (result.documents, result.questions, result.unanswerable) == (documents, questions, unanswerable)
    assert (result.gold_answers, result.misplaced_answers, result.rejects) == (gold_answers, misplaced, 0)
