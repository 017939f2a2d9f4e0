"""Read tasks of a run, without Ray: row groups are packed into tasks, tasks yield tables."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TEXT
from running import raises_error, write_job
from stuck_file import stuck_file

from qa_ray.answering.plan import make_plan
from qa_ray.errors import InputError
from qa_ray.io import document_table
from qa_ray.io.document_table import DocumentTable, RowGroup, open_documents, sample
from qa_ray.runtime import datasource
from qa_ray.runtime.datasource import TASK_BYTES, TASK_GROUPS, DocumentDatasource, pack_row_groups

COLUMNS = {"document_id": "document_id", "text": "text"}
STORAGE = {
    "endpoint_url": None,
    "region": None,
    "addressing_style": "auto",
    "max_attempts": 8,
    "connect_timeout_s": 1,
    "read_timeout_s": 1,
}


@given(st.lists(st.integers(0, 2 * TASK_BYTES) | st.integers(0, 10), max_size=400))
def test_row_groups_are_packed_in_order_and_none_is_lost(sizes: list[int]):
    groups = [RowGroup("a", number, 1, 0, size) for number, size in enumerate(sizes)]
    tasks = pack_row_groups(groups)
    assert [group for task in tasks for group in task] == groups
    for task in tasks:
        assert len(task) == 1 or (len(task) <= TASK_GROUPS and sum(group.num_bytes for group in task) <= TASK_BYTES)


def test_string_views_are_read_as_large_strings(tmp_path: Path):
    columns = {"document_id": ["a", "b"], "text": ["über", None], "more": ["x", "y"]}
    table = pa.table({name: pa.array(values, pa.string_view()) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "documents.parquet")
    documents = open_documents(str(tmp_path), COLUMNS)
    (task,) = DocumentDatasource(documents, documents.row_groups, STORAGE).get_read_tasks(1)
    (block,) = task()
    assert block.to_pydict() == columns
    assert set(block.schema.types) == {pa.large_string()} == set(documents.columns.schema.types)


def test_dictionary_encoded_texts_are_read_in_batches_of_bounded_size(tmp_path: Path):
    rows = {"document_id": [str(i) for i in range(5_000)], "text": ["-" * 1_000] * 5_000}
    pq.write_table(pa.table(rows), tmp_path / "documents.parquet")
    documents = open_documents(str(tmp_path), COLUMNS)
    (task,) = DocumentDatasource(documents, documents.row_groups, STORAGE).get_read_tasks(1)
    assert documents.row_groups[0].num_bytes < 100_000
    assert [block.num_rows for block in task()] == [1_024, 1_024, 1_024, 1_024, 904]


def test_a_thousand_small_files_are_packed_into_a_few_tasks():
    assert len(pack_row_groups([RowGroup(f"{i}", 0, 1, 30, 60) for i in range(1_000)])) == -(-1_000 // TASK_GROUPS)


@pytest.fixture
def lake(tmp_path: Path) -> DocumentTable:
    """Twenty files of one to three row groups, each file with its own metadata."""
    for file in range(20):
        rows = {"text": [f"{TEXT} {file}.{row}" for row in range(5)], "kept": [*range(5)], "left": [b"-"] * 5}
        table = pa.table({"document_id": [f"d{file:02}.{row}" for row in range(5)]} | rows)
        if file % 2:
            table = table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))
        path = tmp_path / "documents" / f"part-{file:02}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"file": str(file)}), path, row_group_size=2 + file % 4)
    return open_documents(str(tmp_path / "documents"), COLUMNS, keep=["kept"])


def test_long_documents_are_read_first_and_similar_lengths_keep_their_order(lake: DocumentTable):
    means = [600, 1_000, 100, 90_000, 120, 80_000, 700]
    groups = [RowGroup(str(mean), 0, 10, 10 * mean, TASK_BYTES) for mean in means]
    tasks = DocumentDatasource(lake, groups, STORAGE).tasks
    assert [int(group.path) for (group,) in tasks] == [90_000, 80_000, 600, 1_000, 700, 100, 120]


@pytest.mark.parametrize("limit", [1, 2_000, 1_000_000])
def test_the_tasks_read_every_row_exactly_once(lake: DocumentTable, limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasource, "TASK_BYTES", limit)
    monkeypatch.setattr(document_table, "BATCH_BYTES", limit)
    tasks = DocumentDatasource(lake, lake.row_groups, STORAGE).get_read_tasks(1)
    table = pa.concat_tables(block for task in tasks for block in task())
    assert table.column_names == ["document_id", "text", "kept"]
    assert sorted(table["document_id"].to_pylist()) == [f"d{file:02}.{row}" for file in range(20) for row in range(5)]
    assert (
        dict(zip(*table.select(["document_id", "text"]).to_pydict().values(), strict=True))["d19.4"] == f"{TEXT} 19.4"
    )
    assert sum(task.metadata.num_rows or 0 for task in tasks) == table.num_rows


def test_row_groups_with_pages_too_large_for_the_driver_are_not_sampled(
    lake: DocumentTable, monkeypatch: pytest.MonkeyPatch
):
    largest = max(lake.row_groups, key=lambda group: group.text_bytes)
    monkeypatch.setattr(document_table, "SAMPLED_GROUPS", 1_000)
    assert len(list(sample(lake, 1_000))) == lake.num_documents
    monkeypatch.setattr(document_table, "MAX_SAMPLED_PAGE_BYTES", largest.text_bytes)
    skipped = [group for group in lake.row_groups if group.text_bytes == largest.text_bytes]
    num_sampled = lake.num_documents - sum(group.num_rows for group in skipped)
    assert 0 < len(list(sample(lake, 1_000))) == num_sampled


def test_a_plan_without_a_sample_estimates_windows_from_the_mean_document_length(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    questions = [{"question_id": "q", "question": "Who?"}]
    documents = [{"document_id": f"d{i}", "text": f"{i}. " + TEXT * 20} for i in range(9)]
    config = write_job(tmp_path, models["bert"], (documents,), questions)
    sampled = make_plan(config)
    monkeypatch.setattr(document_table, "MAX_SAMPLED_PAGE_BYTES", 0)
    estimated = make_plan(config)
    assert sampled.num_windows / 3 < estimated.num_windows < sampled.num_windows * 3


@pytest.mark.parametrize("limit", [1, 1_000_000])
def test_a_read_that_is_stuck_raises_an_error_with_its_place(
    lake: DocumentTable, limit: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(datasource, "TASK_BYTES", limit)
    with (
        stuck_file(Path(lake.uri) / "part-07.parquet"),
        raises_error(
            InputError,
            f"documents: row group 0 of '{lake.uri}/part-07.parquet' gave no row for limits.block_timeout_s=0.5 "
            "seconds; check its file system, or raise the limit, and run the same command again: all documents that "
            "could be read are answered",
        ),
    ):
        for task in DocumentDatasource(lake, lake.row_groups, STORAGE, timeout_s=0.5).get_read_tasks(1):
            list(task())


def test_the_error_of_a_stuck_read_names_the_row_group(lake: DocumentTable, monkeypatch: pytest.MonkeyPatch):
    """Two batches of one row are read before the file system stops, of row groups of two rows each."""
    ended = threading.Event()
    groups = [group for group in lake.row_groups if group.path.endswith("part-00.parquet")]
    for num_read, number in ((0, 0), (1, 0), (2, 1), (4, 2)):

        def read_row_groups(*args: object, num_read: int = num_read) -> Iterator[pa.RecordBatch]:
            yield from [pa.record_batch({"text": ["-"]})] * num_read
            ended.wait()

        monkeypatch.setattr(datasource, "read_row_groups", read_row_groups)
        (task,) = DocumentDatasource(lake, groups, STORAGE, timeout_s=0.1).get_read_tasks(1)
        with raises_error(InputError, f"documents: row group {number} of '{groups[0].path}' gave no row"):
            list(task())
    ended.set()


def test_a_read_in_time_gives_the_same_rows_and_errors(lake: DocumentTable):
    tasks = DocumentDatasource(lake, lake.row_groups, STORAGE, timeout_s=60).get_read_tasks(1)
    rows = pa.concat_tables(block for task in tasks for block in task()).to_pylist()
    tasks = DocumentDatasource(lake, lake.row_groups, STORAGE).get_read_tasks(1)
    assert rows == pa.concat_tables(block for task in tasks for block in task()).to_pylist()
    (Path(lake.uri) / "part-07.parquet").write_bytes(b"PAR1, but no more")
    for timeout_s in (None, 60):
        with raises_error(InputError, "part-07.parquet"):
            for task in DocumentDatasource(lake, lake.row_groups, STORAGE, timeout_s).get_read_tasks(1):
                list(task())
