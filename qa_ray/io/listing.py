"""The files at a path: which there are, and which names hide."""

import glob
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import fsspec

from qa_ray.io.local_files import LocalFiles
from qa_ray.io.local_folders import LocalFolders, find_files, is_hidden
from qa_ray.io.storage import open_filesystem
from qa_ray.io.storage_errors import reading


class Listing(NamedTuple):
    """The files at a path, sorted; they are paths in its file system."""

    root: str  # the folder that was given, or that of a glob: in the folders below it, names may be hidden
    files: list[str]
    hidden: list[str]  # files that are not among ``files``
    skipped: Sequence[str] = ()  # folders that links lead to a second time, or in a circle


def list_folder(uri: str, table: str) -> Listing:
    """The files at ``uri``: a file, a folder and all below it, or a glob, whose folders are taken with all below them.

    In folders, names that begin with ``_`` or ``.`` are hidden, as for Spark and Arrow; ``_name=value`` is not. A glob
    finds them if it has such a name itself. Links to folders are followed as in ``local_folders.find_files``.

    Raises:
        InputError: no permission; the message begins with ``table`` ("documents").
    """
    filesystem, path = open_filesystem(uri)
    with reading(uri, table):
        if filesystem.isfile(path):
            return Listing(posixpath.dirname(path), [path], [])
        if glob.has_magic(path) and not filesystem.exists(path):
            names = path.split("/")
            number = next(i for i, name in enumerate(names) if glob.has_magic(name))
            root = "/".join(names[:number])
            found = _files_of_glob(filesystem, path, root)
            return _without_hidden(root, found, asked=is_hidden("/".join(names[number:])))
        try:
            filesystem.ls(path, detail=False)  # raises for a missing or forbidden folder, which find() ignores
            found = _find(filesystem, path, [path])
        except (FileNotFoundError, NotADirectoryError):
            found = LocalFolders([], [])
    return _without_hidden(path, found)


def _find(filesystem: fsspec.AbstractFileSystem, root: str, folders: Iterable[str]) -> LocalFolders:
    if isinstance(filesystem, LocalFiles):
        return find_files(root, folders)
    return LocalFolders([str(file) for folder in folders for file in filesystem.find(folder)], [])


def _files_of_glob(filesystem: fsspec.AbstractFileSystem, path: str, root: str) -> LocalFolders:
    entries: Any = filesystem.glob(path, detail=True)
    folders = {name for name, entry in entries.items() if entry["type"] == "directory"}
    links = {name for name, entry in entries.items() if entry["type"] == "other" and filesystem.isdir(name)}
    files = entries.keys() - folders - links
    if path.endswith("**") and not links:  # all that is below the folders is among the entries
        folders = set()
    below, skipped = _find(filesystem, root, _outermost(folders | links))
    return LocalFolders([*files, *below], skipped)


def _outermost(folders: Iterable[str]) -> list[str]:
    """Those that are not in another of them."""
    kept = []
    for folder in sorted(folders, key=lambda folder: f"{folder}/"):
        if not (kept and folder.startswith(f"{kept[-1]}/")):
            kept.append(folder)
    return kept


def _without_hidden(root: str, found: LocalFolders, *, asked: bool = False) -> Listing:
    files, skipped = ({path for path in paths if asked or not _is_hidden_in(root, path)} for paths in found)
    hidden = {path for paths in found for path in paths} - files - skipped
    return Listing(root, sorted(files), sorted(hidden), sorted(skipped))


def _is_hidden_in(root: str, path: str) -> bool:
    return is_hidden(path[len(root) :].lstrip("/"))
