"""Which files of a folder make a table, and what columns they have together."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import raises_error

from qa_ray.errors import InputError
from qa_ray.io.document_table import DocumentTable, open_documents, read_row_groups
from qa_ray.io.parquet_listing import list_parquet
from qa_ray.io.table_files import open_table

COLUMNS = {"document_id": "document_id", "text": "text"}


def write(path: Path, **columns: Any) -> None:
    """One document with the id of the file's name, unless ``columns`` has ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"document_id": [path.parent.name + path.stem], "text": ["Ada Vane built it."]} | columns
    pq.write_table(pa.table(names), path)


def read(documents: DocumentTable) -> list[dict[str, Any]]:
    """All documents, without texts; every batch has the schema of the table."""
    rows = []
    for group in documents.row_groups:
        for batch in read_row_groups(documents.uri, [group], documents.columns):
            assert batch.schema == documents.columns.schema
            rows += batch.drop_columns(["text"]).to_pylist()
    return sorted(rows, key=lambda row: row["document_id"])


# ---- Files


def test_hidden_names_are_those_of_spark_and_suffixes_may_be_upper_case(tmp_path: Path):
    for name in ("a.parquet", "b.PARQUET", "c.Pq", "d.parq", "_date=2024/e.parquet", "x/_k=1/f.parquet"):
        write(tmp_path / name)
    hidden = ("_g.parquet", ".h.parquet", "_temporary/i.parquet", ".k=1/j.parquet", "_SUCCESS", ".a.parquet.crc")
    others = ("k.pdf", "l.PDF", "m.csv", "README", "x/n.txt")
    for name in (*hidden, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_parquet(str(tmp_path), "documents")
    assert len(listing.paths) == 6
    assert listing.counts.words == "6 files; not read: 2 .pdf, 1 .csv, 1 .txt, 1 without suffix, 6 hidden"
    assert listing.counts.as_json()["not_read"] == {".pdf": 2, ".csv": 1, ".txt": 1, "without suffix": 1, "hidden": 6}
    assert open_documents(str(tmp_path), COLUMNS).files == listing.counts


def test_one_file_that_is_named_is_read_wherever_it_is(tmp_path: Path):
    write(tmp_path / "_hidden" / "_a.parquet")
    assert list_parquet(str(tmp_path / "_hidden" / "_a.parquet"), "documents").counts.words == "1 file"
    with raises_error(InputError, "documents: no Parquet file (*.parquet) in ", "which holds 1 hidden; "):
        list_parquet(str(tmp_path / "_hidden"), "documents")


def test_a_glob_takes_folders_with_all_below_them_and_says_what_else_it_matched(tmp_path: Path):
    for name in ("lang=de/a.parquet", "lang=en/b/c.parquet", "spark.parquet/part-0.parquet", "_old/d.parquet"):
        write(tmp_path / name)
    (tmp_path / "notes.pdf").touch()
    for pattern, count, words in (
        ("*", 3, "3 files; not read: 1 .pdf, 1 hidden"),
        ("*.parquet", 1, "1 file"),
        ("lang=*", 2, "2 files"),
        ("lang=*/*.parquet", 1, "1 file"),
        ("**", 3, "3 files; not read: 1 .pdf, 1 hidden"),
        ("_o*/*.parquet", 1, "1 file"),
    ):
        listing = list_parquet(str(tmp_path / pattern), "documents")
        assert (len(listing.paths), listing.counts.words) == (count, words), pattern


@pytest.mark.parametrize(
    ("log", "table_format"),
    [("_delta_log/0.json", "Delta Lake"), (".hoodie/hoodie.properties", "Hudi"), ("m/v1.metadata.json", "Iceberg")],
)
def test_a_table_with_versions_is_read_with_a_warning(tmp_path: Path, log: str, table_format: str):
    write(tmp_path / "a.parquet")
    (tmp_path / log).parent.mkdir()
    (tmp_path / log).touch()
    (note,) = open_documents(str(tmp_path), COLUMNS).notes
    assert note == (
        f"documents: {str(tmp_path)!r} has the log of a {table_format} table, which is not read: files of its earlier "
        "versions, and deleted rows, count as well; export its current version to Parquet"
    )


# ---- Columns of folders


def test_folders_give_columns_with_the_types_that_arrow_infers(tmp_path: Path):
    write(tmp_path / "docs" / "lang=de" / "year=2024" / "name=x%20y%2Fz" / "a.parquet")
    write(tmp_path / "docs" / "lang=__HIVE_DEFAULT_PARTITION__" / "year=07" / "b.parquet")
    write(tmp_path / "docs" / "c.parquet")
    for uri in ("docs", "docs/", "docs/**", "d*"):
        documents = open_documents(str(tmp_path / uri), COLUMNS)
        assert documents.passed_through == ("lang", "year", "name")
        assert documents.columns.schema.types[2:] == [pa.string(), pa.int32(), pa.string()]
        values = [[row[name] for name in ("lang", "year", "name")] for row in read(documents)]
        assert values == [[None] * 3, ["de", 2024, "x y/z"], [None, 7, None]]
    assert open_documents(str(tmp_path / "docs"), COLUMNS, keep=["year"]).passed_through == ("year",)
    assert open_documents(str(tmp_path / "docs"), COLUMNS, keep=[]).passed_through == ()


def test_files_that_change_their_folders_are_another_table(tmp_path: Path):
    write(tmp_path / "lang=de" / "p.parquet", document_id=["a"])
    before = open_table(str(tmp_path), "documents").fingerprint
    (tmp_path / "lang=de").rename(tmp_path / "lang=en")
    assert open_table(str(tmp_path), "documents").fingerprint != before


def test_a_column_of_folders_and_files_is_that_of_the_files_and_it_is_said(tmp_path: Path):
    write(tmp_path / "year=1" / "a.parquet", year=pa.array([2], pa.int64()))
    write(tmp_path / "year=3" / "b.parquet")
    documents = open_documents(str(tmp_path), COLUMNS)
    assert [row["year"] for row in read(documents)] == [2, 3]
    assert documents.columns.schema.field("year").type == pa.int64()
    (note,) = documents.notes
    assert note.startswith("documents: the column 'year' is in the files and in the names of their folders, as in ")
    assert open_documents(str(tmp_path), COLUMNS, keep=[]).notes == ()


def test_ids_may_be_in_the_names_of_folders(tmp_path: Path):
    for number in (7, 8):
        path = tmp_path / f"nr={number}" / "a.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table({"text": ["Ada"]}), path)
    documents = open_documents(str(tmp_path), {"document_id": "nr", "text": "text"})
    assert documents.id_type == pa.int32()
    assert documents.num_documents == 2


# ---- Columns that differ between files


DAY = datetime.datetime(2024, 5, 1)
STRUCT = pa.struct([("a", pa.int32())])


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.array([1], pa.int32()), pa.array([2], pa.int64()), pa.int64()),
        (pa.array([1], pa.int8()), pa.array([2.5], pa.float32()), pa.float32()),
        (pa.array([1], pa.int64()), pa.array([2.5]), pa.float64()),  # pandas, where some values are missing
        (pa.array([1], pa.uint64()), pa.array([-2]), pa.int64()),
        (pa.array([None]), pa.array(["x"]), pa.string()),
        (pa.array(["x"]), pa.array(["y"], pa.large_string()), pa.large_string()),
        (pa.array(["x"], pa.string_view()), pa.array(["y"]), pa.large_string()),
        (pa.array(["x"]).dictionary_encode(), pa.array(["y"]), pa.string()),
        (pa.array([["x"]], pa.list_(pa.string_view())), pa.array([["y"]]), pa.list_(pa.large_string())),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["y"]]), pa.list_(pa.string())),
        (pa.array([{"a": 1}], STRUCT), pa.array([{"b": "y", "a": 2}]), None),
        (pa.array([DAY], pa.timestamp("us")), pa.array([DAY], pa.timestamp("ns")), pa.timestamp("ns")),
        (pa.array([DAY.date()]), pa.array([None]), pa.date32()),
        (pa.array([1], pa.decimal128(5, 2)), pa.array([2], pa.decimal128(9, 3)), pa.decimal128(9, 3)),
        (pa.array([b"a" * 16], pa.uuid()), pa.array([None]), pa.uuid()),
        (pa.array([True]), pa.array([None]), pa.bool_()),
    ],
)
def test_types_are_promoted_where_no_value_is_lost(tmp_path: Path, one: pa.Array, other: pa.Array, common: Any):
    write(tmp_path / "a.parquet", more=one)
    write(tmp_path / "b.parquet", more=other)
    write(tmp_path / "c.parquet")
    documents = open_documents(str(tmp_path), COLUMNS)
    column_type = documents.columns.schema.field("more").type
    assert column_type == common or (common is None and {field.name for field in column_type} == {"a", "b"})
    for row, array in zip(read(documents), (one, other, pa.array([None])), strict=True):
        value = array.to_pylist()[0]
        if isinstance(value, dict):
            assert {name: item for name, item in row["more"].items() if item is not None} == value
        else:
            assert row["more"] == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["1"]), pa.array([1])),
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([2**63], pa.uint64()), pa.array([-1])),
        (pa.array([datetime.datetime(9999, 12, 31)], pa.timestamp("us")), pa.array([DAY], pa.timestamp("ns"))),
        (pa.array([DAY], pa.timestamp("us")), pa.array([DAY], pa.timestamp("us", "UTC"))),
        (pa.array([True]), pa.array([1])),
        (pa.array([0.5]), pa.array([1], pa.decimal128(5, 2))),
        (pa.array([{"a": 1}], STRUCT), pa.array([{"a": "x"}])),
    ],
)
def test_types_that_would_change_values_are_refused_only_if_the_column_is_wanted(
    tmp_path: Path, one: pa.Array, other: pa.Array
):
    write(tmp_path / "a.parquet", more=one)
    write(tmp_path / "b.parquet", more=other)
    with raises_error(
        InputError,
        f"documents: the column 'more' has type {other.type} in '{tmp_path}/b.parquet' and {one.type} in "
        f"'{tmp_path}/a.parquet', and no type holds the values of both; write them with one type, or leave it out",
    ):
        open_documents(str(tmp_path), COLUMNS)
    assert len(read(open_documents(str(tmp_path), COLUMNS, keep=[]))) == 2


def test_files_may_differ_in_the_order_and_case_of_columns_and_have_columns_twice_that_are_not_wanted(tmp_path: Path):
    pq.write_table(pa.table({"Title": ["A"], "text": ["Ada"], "document_id": ["a"]}), tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", document_id=["b"], title=["B"])
    assert [(row["Title"], row["title"]) for row in read(open_documents(str(tmp_path), COLUMNS))] == [
        ("A", None),
        (None, "B"),
    ]
    twice = pa.table([["c"], ["Ada"], [1], [2]], ["document_id", "text", "n", "n"])
    pq.write_table(twice, tmp_path / "c.parquet")
    assert len(read(open_documents(str(tmp_path), COLUMNS, keep=["title"]))) == 3
    with raises_error(InputError, "c.parquet' has two columns 'n'; drop or rename one of them, or leave it out"):
        open_documents(str(tmp_path), COLUMNS)


@pytest.mark.parametrize(
    "empty", [pa.table({}), pa.table({"text": pa.array([], pa.float64()), "more": pa.array([], pa.string())})]
)
def test_files_without_a_row_have_no_say(tmp_path: Path, empty: pa.Table):
    write(tmp_path / "b.parquet", more=[1])
    pq.write_table(empty, tmp_path / "a.parquet")
    pq.ParquetWriter(tmp_path / "c.parquet", empty.schema).close()  # without a row group
    documents = open_documents(str(tmp_path), COLUMNS)
    assert [row["more"] for row in read(documents)] == [1]
    assert documents.files.num_files == 3


def test_texts_may_be_dictionaries_and_null_in_all_rows_of_a_file(tmp_path: Path):
    write(tmp_path / "a.parquet", text=pa.array(["Ada"]).dictionary_encode())
    write(tmp_path / "b.parquet", text=pa.array([None]))
    assert open_documents(str(tmp_path), COLUMNS).columns.schema.field("text").type == pa.string()


@pytest.mark.parametrize(
    ("ids", "id_type"),
    [
        (pa.array([b"a" * 16], pa.uuid()), pa.uuid()),
        (pa.array([7], pa.decimal128(20, 0)), pa.decimal128(20, 0)),
        (pa.array(["a"]).dictionary_encode(), pa.string()),
        (pa.array([7], pa.uint16()), pa.uint16()),
    ],
)
def test_ids_may_be_uuids_whole_decimals_and_dictionaries(tmp_path: Path, ids: pa.Array, id_type: pa.DataType):
    write(tmp_path / "a.parquet", document_id=ids)
    documents = open_documents(str(tmp_path), COLUMNS)
    assert documents.id_type == id_type
    assert read(documents)[0]["document_id"] == ids.to_pylist()[0]


@pytest.mark.parametrize("ids", [pa.array([True]), pa.array([b"a" * 16]), pa.array([1.5]), pa.array([DAY])])
def test_ids_of_other_types_are_refused(tmp_path: Path, ids: pa.Array):
    write(tmp_path / "a.parquet", document_id=ids)
    with raises_error(InputError, f"'document_id' has type {ids.type}, not string or integer; cast it or name another"):
        open_documents(str(tmp_path), COLUMNS)
