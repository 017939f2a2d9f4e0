"""The files at a path: links to folders are followed, each folder is read once, and no circle of links hangs."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import raises_error

from qa_ray.errors import InputError
from qa_ray.io.listing import list_folder
from qa_ray.io.parquet_listing import list_parquet
from qa_ray.io.table_files import open_table


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A folder with links to a folder elsewhere, to one of its own, to itself and to what holds it."""
    for name in ("lake/2024/a.txt", "lake/2024/_old/b.txt", "elsewhere/c.txt", "elsewhere/deep/d.txt", "beside.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    links = {
        "lake/1999": "../elsewhere",
        "lake/latest": "2024",
        "lake/2024/again": "..",
        "lake/above": "../..",
        "lake/old": "2024/_old",
        "lake/_hidden": "../elsewhere",
        "elsewhere/deep/circle": "../../elsewhere",
        "elsewhere/lake": "../lake",
        "lake/e.txt": "../beside.txt",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path / "lake"


def below(lake: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, lake) for path in paths]


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/"])
def test_links_to_folders_are_followed_and_each_folder_is_read_once(lake: Path, pattern: str):
    listing = list_folder(f"{lake}{pattern}", "source")
    assert below(lake, listing.files) == ["1999/c.txt", "1999/deep/d.txt", "2024/a.txt", "e.txt", "old/b.txt"]
    assert {"2024/_old/b.txt", "_hidden"} <= {*below(lake, listing.hidden)}
    assert below(lake, [*listing.skipped]) == ["1999/deep/circle", "1999/lake", "2024/again", "above", "latest"]


def test_a_folder_that_is_a_link_itself_is_read(lake: Path):
    assert list_folder(f"{lake}/latest", "source").files == [f"{lake}/latest/a.txt"]
    assert list_folder(f"{lake}/latest/", "source").files == [f"{lake}/latest/a.txt"]


def test_many_folders_that_link_to_each_other_are_read_once(tmp_path: Path):
    for i in range(12):
        (tmp_path / f"{i:02}").mkdir()
        (tmp_path / f"{i:02}" / "a.txt").touch()
        for j in range(12):
            (tmp_path / f"{i:02}" / f"to {j}").symlink_to(tmp_path / f"{j:02}")
    assert len(list_folder(str(tmp_path), "source").files) == 12
    assert len(list_folder(f"{tmp_path}/**/*", "source").files) == 12


def test_the_links_beside_parquet_files_are_counted_by_kind(lake: Path):
    for folder in ("elsewhere", "lake/2024"):
        pq.write_table(pa.table({"document_id": ["a"]}), lake.parent / folder / "part-0.parquet")
    (lake / "gone").symlink_to("nowhere")
    (lake / "self").symlink_to("self")
    listing = list_parquet(str(lake), "documents")
    assert below(lake, listing.paths) == ["1999/part-0.parquet", "2024/part-0.parquet"]
    assert listing.counts.not_read == {
        "behind a link not followed": 5,
        ".txt": 5,
        "behind a broken link": 2,
        "hidden": 2,
    }


def test_a_broken_link_that_should_be_a_parquet_file_is_an_error_with_its_target(lake: Path):
    (lake / "gone.parquet").symlink_to("nowhere.parquet")
    with raises_error(InputError, "gone.parquet': No such file or directory (it is a link to 'nowhere.parquet')"):
        open_table(str(lake), "documents")
