"""Sinks write the answers in further formats; docs/how-to/add-a-sink.md adds one."""

import csv
import datetime
import decimal
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import DOCUMENT, changed, not_utf8, one_of, raises_error, read_rows, small_disk, write_job

from qa_ray.answering.job import answer_documents
from qa_ray.answering.plan import make_plan
from qa_ray.errors import ConfigError, OutputError
from qa_ray.log import LOG
from qa_ray.output import sinks
from qa_ray.output.sinks import SINKS, JsonLines, ParquetSink, TableSink, answer_formats, check_formats
from qa_ray.schemas import ANSWERS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-sink.md"
SPAN = {"answer": "Ada, „Vane“\n", "start_char": 0, "stop_char": 9, "score": 0.5}
ROW = {
    "document_id": "a", "question_id": "q", "question": "谁？", **SPAN, "no_answer_score": None, "n_best": [SPAN],
    "snippet": "x\u2028y", "num_windows": 1, "num_windows_read": 1, "model_fingerprint": "m", "run_id": "r",
    "text_sha256": "t",
}  # fmt: skip
NO_ANSWER = dict.fromkeys(ROW) | {"document_id": "b", "question_id": "q", "n_best": []}


def read_jsonl(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in sorted(folder.iterdir()) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def test_json_lines_keep_nulls_lists_and_any_text(tmp_path: Path):
    sink = JsonLines(f"{tmp_path}/out", "part-0")
    sink.write(pa.Table.from_pylist([ROW, NO_ANSWER], ANSWERS))
    assert not list((tmp_path / "out").glob("part-0*"))  # not before it is complete
    files = sink.close()
    assert read_jsonl(tmp_path / "out") == [ROW, NO_ANSWER]
    content = (tmp_path / "out" / "part-0.jsonl").read_bytes()
    assert "谁？" in content.decode()
    digest = hashlib.sha256(content).hexdigest()
    assert files == [{"name": "part-0.jsonl", "rows": 2, "bytes": len(content), "sha256": digest}]


def test_json_lines_write_values_that_json_lacks(tmp_path: Path):
    nan, infinity = float("nan"), float("inf")
    table = pa.table(
        {
            "floats": [[nan, 1.0, infinity]],
            "bytes": [b"\xff\x00"],
            "day": [datetime.date(2024, 5, 17)],
            "moment": [datetime.datetime(2024, 5, 17, 12, 30, tzinfo=datetime.UTC)],
            "late days": pa.array([[2_932_897]], pa.list_(pa.date32())),  # beyond Python's datetime.MAXYEAR
            "price": [decimal.Decimal("12.30")],
            "latin": not_utf8(b"Caf\xe9"),
            "list": pa.ListArray.from_arrays([0, 2], not_utf8(b"\xe9", b"ok")),
            "struct": pa.StructArray.from_arrays([not_utf8(b"\xe9"), pa.array([1])], ["text", "number"]),
            "kind": pa.DictionaryArray.from_arrays([0], not_utf8(b"\xe9")),
        }
    )
    sink = JsonLines(f"{tmp_path}/out", "part-0")
    sink.write(table)
    sink.close()
    assert read_jsonl(tmp_path / "out") == [
        {
            "floats": [None, 1.0, None],
            "bytes": "/wA=",
            "day": "2024-05-17",
            "moment": "2024-05-17T12:30:00+00:00",
            "late days": ["10000-01-01"],
            "price": "12.30",
            "latin": "Caf\ufffd",
            "list": ["\ufffd", "ok"],
            "struct": {"text": "\ufffd", "number": 1},
            "kind": "\ufffd",
        }
    ]


def test_every_format_has_the_same_rows_in_a_file_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sinks, "ROWS_PER_TEXT", 2)
    answers = TableSink(str(tmp_path), "part-7", answer_formats(["jsonl", "jsonl"]))
    for num_rows in (2, 0, 4, 1):
        answers.write(pa.Table.from_pylist([ROW] * num_rows, ANSWERS))
    assert answers.num_rows == 7
    assert {folder: [(file["name"], file["rows"]) for file in files] for folder, files in answers.close().items()} == {
        "answers": [("part-7.parquet", 7)],
        "exports/jsonl": [("part-7.jsonl", 7)],
    }
    assert read_jsonl(tmp_path / "exports" / "jsonl") == [ROW] * 7
    assert pq.read_table(tmp_path / "answers").to_pylist() == [ROW] * 7


def test_without_a_row_there_is_no_file_and_no_folder(tmp_path: Path):
    answers = TableSink(str(tmp_path), "part-0", answer_formats(["jsonl"]))
    answers.write(ANSWERS.empty_table())
    assert answers.close() == {"answers": [], "exports/jsonl": []}
    assert list(tmp_path.iterdir()) == []


def test_row_groups_are_filled_across_tables_and_bounded_in_rows_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sinks, "ROWS_PER_GROUP", 10)
    sink = ParquetSink(str(tmp_path), "part-0")
    for num_rows in (4, 25, 4):
        sink.write(pa.Table.from_pylist([ROW] * num_rows, ANSWERS))
    monkeypatch.setattr(sinks, "BYTES_PER_GROUP", 100_000)
    for _ in range(3):
        sink.write(pa.Table.from_pylist([ROW | {"snippet": "x" * 60_000}], ANSWERS))
    sink.close()
    footer = pq.read_metadata(tmp_path / "part-0.parquet")
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [10, 10, 10, 5, 1]


@pytest.mark.parametrize("order", ["in the order of ids", "in any order"])
def test_a_query_for_one_document_reads_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str):
    monkeypatch.setattr(sinks, "ROWS_PER_GROUP", 500)
    ids = [f"document-{i:05}" for i in range(20_000)]
    if order == "in any order":
        random.Random(0).shuffle(ids)
    for number in range(2):
        sink = ParquetSink(str(tmp_path), f"part-{number}")
        rows = [ROW | {"document_id": id_} for id_ in ids[number * 10_000 :][:10_000]]
        sink.write(pa.Table.from_pylist(rows, ANSWERS))
        sink.close()
    files, wanted = f"{tmp_path}/*.parquet", "document-12345"
    query = duckdb.connect().execute
    assert len(query(f"from '{files}' where document_id = '{wanted}'").fetchall()) == 1
    probe = query(f"select bloom_filter_excludes from parquet_bloom_probe('{files}', 'document_id', '{wanted}')")
    is_skipped = [excludes for (excludes,) in probe.fetchall()]
    assert len(is_skipped) == 40
    assert is_skipped.count(False) <= 3  # the one that has it, and false positives of 1 %


def test_a_full_disk_is_an_output_error(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk, raises_error(OutputError, "No space left on device"):
        sink = JsonLines(f"{disk}/out", "part")
        sink.write(pa.Table.from_pylist([ROW] * 20_000, ANSWERS))
        sink.close()


def test_an_unknown_format_is_refused_before_the_run(tmp_path: Path, models: dict[str, str]):
    config = write_job(tmp_path, models["bert"])
    with raises_error(ConfigError, f"export.0: Input should be {one_of(SINKS)}, not 'no-such'"):
        changed(config, export="no-such")
    with raises_error(ConfigError, f"export: unknown format 'no-such'; known formats are {', '.join(sorted(SINKS))}"):
        make_plan(config.model_copy(update={"export": ["no-such"]}))
    with raises_error(ConfigError, "unknown format 'no-such'"):
        check_formats(["jsonl", "no-such"])


def test_the_export_is_no_part_of_the_identity(tmp_path: Path, models: dict[str, str]):
    config = write_job(tmp_path, models["bert"])
    assert make_plan(changed(config, export="jsonl")).identity == make_plan(config).identity


@pytest.fixture
def example() -> Any:
    """The sink that the page's code block defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace["Csv"]


def test_the_example_repairs_strings_that_are_not_utf_8(tmp_path: Path, example: Any):
    sink = example(f"{tmp_path}/out", "part-0")
    sink.write(pa.table({"document_id": not_utf8(b"Caf\xe9"), "question_id": ["q"], "answer": ['"Ada",\nVane']}))
    sink.write(pa.table({"document_id": ["b"], "question_id": ["q"], "answer": pa.nulls(1, pa.string())}))
    sink.close()
    with (tmp_path / "out" / "part-0.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(example.columns)
    assert rows == [["Caf\ufffd", "q", '"Ada",\nVane'], ["b", "q", ""]]


@pytest.mark.usefixtures("ray_session")
def test_a_job_exports_with_a_sink_added_to_the_table(
    tmp_path: Path,
    models: dict[str, str],
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setitem(SINKS, "csv", example)
    documents = [DOCUMENT | {"document_id": str(i), "nr": i} for i in range(3)]
    questions = [{"question_id": "q", "question": "Who built it?"}]
    config = write_job(tmp_path, models["bert"], documents, questions, export=["csv", "jsonl"])
    manifest = answer_documents(config)
    exports, answers = Path(config.output) / "exports", read_rows(config, "answers")
    (name,) = (file["name"] for file in manifest["files"]["exports/csv"])
    with (exports / "csv" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_id = sorted(rows, key=lambda row: row["document_id"])
    assert by_id == [{name: row[name] for name in ("document_id", "question_id", "answer")} for row in answers]
    assert sorted(read_jsonl(exports / "jsonl"), key=lambda row: row["document_id"]) == answers
    assert manifest["files"].keys() == {"answers", "exports/csv", "exports/jsonl", "rejects"}

    monkeypatch.setattr(LOG, "propagate", True)  # to caplog
    monkeypatch.setitem(SINKS, "xlsx", example)  # not written: the output is finished
    assert answer_documents(changed(config, export=["xlsx"])) == manifest
    assert "export: xlsx is missing in " in caplog.text
    monkeypatch.delitem(SINKS, "csv")
    with raises_error(ConfigError, "export: unknown format 'csv'"):  # a retry would leave the export incomplete
        answer_documents(changed(config, export=[], retry_rejects=True))
