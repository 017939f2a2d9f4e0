"""The files below local folders, with links to folders followed."""

import os
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

BROKEN, SKIPPED = "behind a broken link", "behind a link not followed"


class LocalFolders(NamedTuple):
    """The files below some folders, and the folders below them that are not entered."""

    files: list[str]
    skipped: list[str]


def is_hidden(path: str) -> bool:
    """Whether one of the names in a path below the folder that was given is hidden."""
    return any(name.startswith(".") or (name.startswith("_") and "=" not in name) for name in path.split("/"))


def find_files(root: str, folders: Iterable[str]) -> LocalFolders:
    """All files below ``folders``, which are ``root`` or below it, none of them in another.

    Each folder is read once: first all that are there without links, then those that links lead to. So a link to a
    folder that is read anyway is skipped, and circles of links end; a link to a folder that holds ``root`` is, too. A
    hidden link is among the files, as it is.
    """
    files, skipped, read = [], [], set[str]()
    source = os.path.realpath(root)
    pending = sorted(folders, key=lambda folder: (os.path.islink(folder), folder))
    for top in pending:  # it grows by the links below
        real_top = os.path.realpath(top)
        for folder, names, file_names in os.walk(top):
            relative = os.path.relpath(folder, top)
            real = os.path.normpath(posixpath.join(real_top, relative))
            if real in read or (folder != root and os.path.commonpath([source, real]) == real):
                skipped.append(folder)
                names.clear()
                continue
            names.sort()
            in_hidden = relative != "." and is_hidden(relative)
            if not in_hidden:
                read.add(real)
            for name in filter(lambda name: os.path.islink(posixpath.join(folder, name)), names):
                (files if in_hidden or is_hidden(name) else pending).append(posixpath.join(folder, name))
            files += [posixpath.join(folder, name) for name in file_names]
    return LocalFolders(files, skipped)


def kind_of_link(path: str) -> str | None:
    """BROKEN for a link to nothing, SKIPPED for a folder among files that are not read, else None."""
    if os.path.islink(path) and not os.path.exists(path):
        return BROKEN
    return SKIPPED if os.path.isdir(path) else None
