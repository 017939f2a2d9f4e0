"""Paths and URIs of files; files that appear complete or not at all."""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from running import fill, raises_error, small_disk

from qa_ray.errors import OutputError
from qa_ray.io.storage import (
    NewFile,
    absolute_uri,
    create_text,
    list_sizes,
    move_file,
    open_filesystem,
    read_text,
    remove_folder,
    write_text,
)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("data/documents", "WORKING/data/documents"),
        ("../data", "PARENT/data"),
        ("~/data", "HOME/data"),
        ("/lake/data", "/lake/data"),
        ("file:///lake/data", "/lake/data"),
        ("local:///lake/data", "/lake/data"),
        ("file://data", "WORKING/data"),
        ("local://data", "WORKING/data"),
        ("s3://lake/local://data", "s3://lake/local://data"),
    ],
)
def test_a_path_is_made_absolute_and_leads_to_the_same_file(
    uri: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, folder in {"WORKING": tmp_path, "PARENT": tmp_path.parent, "HOME": Path.home()}.items():
        absolute = absolute.replace(name, str(folder))
    assert absolute_uri(uri) == absolute
    if not uri.startswith("s3"):
        assert os.path.normpath(open_filesystem(uri)[1]) == absolute


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path):
    uri = str(tmp_path)
    write_text(f"{uri}/file", "earlier")
    with suppress(ZeroDivisionError), NewFile(f"{uri}/file") as file:
        file.write(b"half of it")
        raise ZeroDivisionError
    assert read_text(f"{uri}/file") == "earlier"
    with NewFile(f"{uri}/file") as file:
        file.write(b"all ")
        assert read_text(f"{uri}/file") == "earlier"
        file.write(b"of it")
    assert read_text(f"{uri}/file") == "all of it"
    assert (file.num_bytes, file.sha256) == (9, hashlib.sha256(b"all of it").hexdigest())
    assert list_sizes(uri) == {"file": 9}


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        write_text(f"{disk}/manifest.json", "earlier")
        filler = fill(disk)
        with raises_error(OutputError, "manifest.json': No space left on device"):
            write_text(f"{disk}/manifest.json", "x" * 10_000_000)
        assert read_text(f"{disk}/manifest.json") == "earlier"
        assert {path.name for path in disk.iterdir()} == {"manifest.json", filler.name}


def test_a_file_is_created_by_one_writer_also_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*paths: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    for name in ("linked", "exfat"):
        assert create_text(f"{tmp_path}/{name}", "first")
        assert not create_text(f"{tmp_path}/{name}", "second")
        assert create_text(f"{tmp_path}/{name}", "first")  # a reply that was lost
        assert read_text(f"{tmp_path}/{name}") == "first"
        monkeypatch.setattr(os, "link", refuse)
    assert sorted(os.listdir(tmp_path)) == ["exfat", "linked"]


@pytest.mark.parametrize("name", ["out[1]", "out*", "out?"])
@pytest.mark.parametrize("keep", [None, "kept"])
def test_what_looks_like_a_pattern_is_the_name_of_one_folder(name: str, keep: str | None):
    root = f"memory://{uuid4().hex}"
    for folder in (name, "out1"):
        write_text(f"{root}/{folder}/_run/file", "text")
        write_text(f"{root}/{folder}/_run/kept/file", "text")
    remove_folder(f"{root}/{name}/_run", keep=keep)
    move_file(f"{root}/out1/_run/file", f"{root}/{name}/moved")
    filesystem, path = open_filesystem(root)
    left = {file.removeprefix(f"{path}/") for file in filesystem.find(path)}
    assert left == {"out1/_run/kept/file", f"{name}/moved"} | ({f"{name}/_run/kept/file"} if keep else set())
