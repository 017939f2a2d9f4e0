"""qa_ray.io.parquet_writer: a folder of Parquet files of bounded size."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_ray.errors import OutputError
from qa_ray.io.parquet_writer import ParquetFolderWriter


def groups(folder: Path) -> list[list[int]]:
    """The rows of each row group, file by file."""
    footers = [pq.read_metadata(file) for file in sorted(folder.iterdir())]
    return [[footer.row_group(i).num_rows for i in range(footer.num_row_groups)] for footer in footers]


def test_a_file_is_closed_after_the_table_that_reaches_its_limit(tmp_path: Path):
    folder = ParquetFolderWriter(f"{tmp_path}/out", max_group_rows=3, max_file_rows=6)
    for num_rows in (4, 0, 4, 1):
        folder.write(pa.table({"n": range(num_rows)}))
    folder.close()
    assert groups(tmp_path / "out") == [[3, 1, 3, 1], [1]]
    assert folder.num_rows == 9
    for i, (file, num_rows) in enumerate(zip(folder.files, (8, 1), strict=True)):
        content = (tmp_path / "out" / f"part-0000{i}.parquet").read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert file == {"name": f"part-0000{i}.parquet", "rows": num_rows, "bytes": len(content), "sha256": sha256}


def test_added_rows_are_buffered_until_the_next_would_exceed_a_limit(tmp_path: Path):
    schema = pa.schema([("text", pa.string())])
    limits: dict[str, Any] = {"max_group_rows": 3, "max_group_chars": 10, "max_file_chars": 20}
    folder = ParquetFolderWriter(f"{tmp_path}/out", schema, **limits)
    texts = ["x" * size for size in (1, 1, 1, 1, 9, 1, 25, 0, 2)]
    for text in texts:
        folder.add({"text": text})
    folder.close()
    assert groups(tmp_path / "out") == [[3, 2, 1, 1], [2]]
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == texts


def test_without_rows_no_folder_is_made(tmp_path: Path):
    ParquetFolderWriter(f"{tmp_path}/out", max_group_rows=3).close()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"cannot write '.*/out'"):
        ParquetFolderWriter(f"{tmp_path}/out", max_group_rows=3).write(pa.table({"n": [1]}))
