"""What prepare does not read or cannot use is named: files by kind, rejects, tables of other sources."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import article, ids, paragraph, qa, rows, squad, write_json

from qa_ray.cli.main import main
from qa_ray.errors import InputError, JobError, OutputError
from qa_ray.preparation.job import prepare

ROW = {"id": 1, "context": "Ada was here.", "question": "Who?"}


def write(folder: Path, **files: str | bytes) -> str:
    """Files by name, with ``__`` for a period and ``___`` for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


# ---- Files


def test_the_files_that_are_not_read_are_printed_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(
        tmp_path / "in",
        a__TXT="Ada",
        b__pdf="",
        c__PDF="",
        d__docx="",
        _e__txt="",
        __git___f="",
        README="",
        g__md="Bob",
    )
    (tmp_path / "prepare.yaml").write_text(f"source: {source}\noutput: {tmp_path}/out\n")
    assert main(["prepare", f"{tmp_path}/prepare.yaml"]) == 0
    expected = "6 files not read: 2 .pdf, 2 hidden (.git/f, _e.txt), 1 .docx, 1 without suffix (README)"
    assert expected in capsys.readouterr().out
    assert ids(tmp_path / "out") == ["a", "g"]


def test_folders_that_look_like_partitions_are_read(tmp_path: Path):
    source = write(tmp_path / "in", **{"_date=2024___a__txt": "Ada", "_old___b__txt": "Bob"})
    assert "1 file not read: 1 hidden (_old/b.txt)" in str(prepare(source, f"{tmp_path}/out"))
    assert ids(tmp_path / "out") == ["_date=2024/a"]


def test_text_beside_tables_and_tables_beside_squad_json_are_told(tmp_path: Path):
    source = write(tmp_path / "tables", a__jsonl=json.dumps(ROW), b__txt="Bob")
    assert "1 file not read: 1 .txt" in str(prepare(source, f"{tmp_path}/out"))
    write_json(tmp_path / "squad" / "dev.json", squad(article("T", paragraph("x", qa("1")))))
    write(tmp_path / "squad", a__jsonl=json.dumps(ROW))
    assert "1 file not read: 1 .jsonl" in str(prepare(f"{tmp_path}/squad", f"{tmp_path}/out of squad"))


def test_tables_of_all_kinds_in_a_folder_are_one(tmp_path: Path):
    folder = tmp_path / "in"
    write(folder, a__jsonl=json.dumps(ROW), b__csv="id,context,question\n2,Bob,Who?\n", state__json="{}")
    pq.write_table(pa.table({"id": [3], "context": ["Eve"], "question": ["Who?"]}), folder / "c.parquet")
    with pa.OSFile(f"{folder}/d.arrow", "wb") as file:
        table = pa.table({"id": [4], "context": ["Kim"], "question": ["Who?"]})
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    result = prepare(str(folder), f"{tmp_path}/out")
    assert (result.files_read, result.questions) == (4, 4)
    assert [row["question_id"] for row in rows(tmp_path / "out", "questions")] == ["1", "2", "3", "4"]
    assert "1 file not read: 1 .json" in str(result)  # what `datasets` writes beside its Arrow files


def test_partitions_of_tables_are_columns(tmp_path: Path):
    source = write(tmp_path / "in", **{"lang=de___a__jsonl": json.dumps(ROW)})
    prepare(source, f"{tmp_path}/out")
    assert rows(tmp_path / "out", "questions")[0]["lang"] == "de"


def test_files_of_no_split_are_told(tmp_path: Path):
    source = write(
        tmp_path / "in", **{name: json.dumps(ROW) for name in ("train__jsonl", "dev__jsonl", "extra__jsonl")}
    )
    with pytest.raises(InputError, match="has the splits validation, train and 1 files of none; name one of them"):
        prepare(source, f"{tmp_path}/out")
    assert "1 file not read: 1 .jsonl" in str(prepare(source, f"{tmp_path}/out", split="dev"))


def test_files_beside_the_questions_are_told(tmp_path: Path):
    letters = write(tmp_path / "letters", a__txt="Ada")
    questions = write(tmp_path / "questions", a__jsonl='{"question": "Who?"}', b__xlsx="")
    assert "1 file not read: 1 .xlsx" in str(prepare(letters, f"{tmp_path}/out", questions=questions))


def test_links_to_folders_are_followed_and_other_links_are_told(tmp_path: Path):
    source = write(tmp_path / "in", a__txt="Ada")
    write(tmp_path / "elsewhere", b__txt="Bob")
    links = {"linked": "../elsewhere", "loop": ".", "gone": "nowhere", "gone.pdf": "nowhere", "c.txt": "a.txt"}
    for name, target in links.items():
        (tmp_path / "in" / name).symlink_to(target)
    told = "3 files not read: 2 behind a broken link (gone, gone.pdf), 1 behind a link not followed (loop)"
    assert told in str(prepare(source, f"{tmp_path}/out"))
    assert ids(tmp_path / "out") == ["a", "c", "linked/b"]


def test_a_broken_link_that_should_be_a_document_is_an_error_with_its_target(tmp_path: Path):
    source = write(tmp_path / "in", a__txt="Ada")
    (tmp_path / "in" / "b.txt").symlink_to("nowhere.txt")
    expected = "b.txt' cannot be read: No such file or directory (it is a link to 'nowhere.txt'); check the path"
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare(source, f"{tmp_path}/out")


def test_a_source_whose_files_are_all_hidden_is_an_error(tmp_path: Path):
    source = write(tmp_path / "in", _a__txt="Ada")
    with pytest.raises(
        InputError, match=r"no file that can be read, only 1 file: 1 hidden \(_a.txt\); .*rename hidden"
    ):
        prepare(source, f"{tmp_path}/out")


# ---- Rejects


def bad_letters(tmp_path: Path, *, good: int, bad: int) -> str:
    folder = tmp_path / "letters"
    for i in range(good + bad):
        write(folder, **{f"{i:03}__txt": b"\xff" if i >= good else b"Ada"})
    return str(folder)


@pytest.mark.parametrize(("in_ray_job", "code"), [(False, 3), (True, 0)])
def test_rejects_are_printed_and_end_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, in_ray_job: bool, code: int
):
    if in_ray_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    source = bad_letters(tmp_path, good=8, bad=1)
    (tmp_path / "prepare.yaml").write_text(f"source: {source}\noutput: {tmp_path}/out\n")
    assert main(["prepare", f"{tmp_path}/prepare.yaml"]) == code
    assert f"rejects: invalid_unicode 1; see {tmp_path}/out/rejects" in capsys.readouterr().out
    marker = json.loads((tmp_path / "out" / "_PREPARED.json").read_text())
    assert (marker["rejects"], marker["rejects_by_reason"]) == (1, {"invalid_unicode": 1})


def test_too_many_rejects_fail_the_job_and_only_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = bad_letters(tmp_path, good=30, bad=3), tmp_path / "out"
    (tmp_path / "prepare.yaml").write_text(f"source: {source}\noutput: {out}\n")
    assert main(["prepare", f"{tmp_path}/prepare.yaml"]) == 1
    expected = (
        "failed: 3 of 33 documents and questions (9.1%) were rejected (invalid_unicode 3), more than "
        f"limits.max_rejected_fraction=0.05; see '{out}/rejects'; fix the source or raise the limit"
    )
    assert expected in capsys.readouterr().err
    assert len(rows(out, "rejects")) == 3
    assert sorted(path.name for path in out.iterdir()) == ["_PREPARED.json", "rejects"]
    assert main(["prepare", f"{tmp_path}/prepare.yaml", "limits.max_rejected_fraction=0.1"]) == 3
    assert len(ids(out)) == 30
    with pytest.raises(JobError):
        prepare(source, str(out), max_rejected_fraction=0)
    assert (len(ids(out)), len(rows(out, "rejects"))) == (30, 3)


def test_rejects_of_a_source_without_a_usable_document_are_written(tmp_path: Path):
    source = bad_letters(tmp_path, good=0, bad=2)
    with pytest.raises(InputError, match="has no usable document, so only the rejects were written"):
        prepare(source, f"{tmp_path}/out")
    assert len(rows(tmp_path / "out", "rejects")) == 2


# ---- Tables of another source


def test_tables_of_another_source_are_never_replaced(tmp_path: Path):
    first, second = (write(tmp_path / name, a__txt=name) for name in ("first", "second"))
    prepare(first, f"{tmp_path}/out")
    expected = (
        f"output '{tmp_path}/out' holds the tables of another source, which differs in source='{first}', now "
        f"'{second}'; give another output, or remove this one"
    )
    with pytest.raises(OutputError, match=re.escape(expected)):
        prepare(second, f"{tmp_path}/out")
    assert rows(tmp_path / "out", "documents")[0]["text"] == "first"


def test_the_same_source_by_another_path_or_with_other_options_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "in", a__txt="Ada")
    prepare(f"{tmp_path}/in", f"{tmp_path}/out")
    monkeypatch.chdir(tmp_path)
    prepare("in", "out", prefix="x/")
    assert ids("out") == ["x/a"]


def test_questions_and_splits_of_another_file_are_not_replaced(tmp_path: Path):
    letters = write(tmp_path / "letters", a__txt="Ada")
    for name in ("q.txt", "r.txt"):
        (tmp_path / name).write_text("Who?")
    prepare(letters, f"{tmp_path}/out", questions=f"{tmp_path}/q.txt")
    for questions in (f"{tmp_path}/r.txt", None):
        with pytest.raises(OutputError, match=r"which differs in questions='.*q.txt', now"):
            prepare(letters, f"{tmp_path}/out", questions=questions)
    tables = write(tmp_path / "in", train__jsonl=json.dumps(ROW), dev__jsonl=json.dumps(ROW))
    prepare(tables, f"{tmp_path}/split", split="train")
    with pytest.raises(OutputError, match="which differs in split='train', now 'dev'"):
        prepare(tables, f"{tmp_path}/split", split="dev")


def test_too_many_rejects_do_not_touch_the_tables_of_another_source(tmp_path: Path):
    prepare(write(tmp_path / "in", a__txt="Ada"), f"{tmp_path}/out")
    with pytest.raises(OutputError, match="holds the tables of another source"):
        prepare(bad_letters(tmp_path, good=0, bad=2), f"{tmp_path}/out")
    assert not (tmp_path / "out" / "rejects").exists()


def test_a_table_without_the_columns_is_an_error_though_others_have_them(tmp_path: Path):
    source = write(tmp_path / "in", a__jsonl=json.dumps(ROW), b__csv="a,b\n1,2\n", c__jsonl="")
    with pytest.raises(InputError, match=r"in/b.csv': no column 'context' for 'text', only a, b; name the right one"):
        prepare(source, f"{tmp_path}/out")
