"""List the files of a folder, in the same way for local runs and for Azure ML."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def list_files(data: Path) -> dict[str, Path]:
    """Return the files in the folder `data` and below it, as a dict from name to path.

    A name is the path relative to `data`, such as `2024/a.csv`. If `data` is a file, the
    result is this file alone.

    Hidden files and folders, whose names begin with a period, are left out: they belong to
    editors and other tools, and the steps do not read them. Links to folders are followed,
    but no folder is listed twice, so circular links do no harm.
    """
    if data.is_file():
        return {data.name: data}

    path_by_name: dict[str, Path] = {}
    visited_folders: set[str] = set()
    for folder, subfolders, file_names in os.walk(data, followlinks=True):
        # os.walk goes on with the folders that remain in the list `subfolders`.
        real_folder = os.path.realpath(folder)
        if real_folder in visited_folders:
            subfolders.clear()
            continue
        visited_folders.add(real_folder)
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))

        for file_name in file_names:
            path = Path(folder, file_name)
            if not _is_hidden(file_name) and path.is_file():
                path_by_name[path.relative_to(data).as_posix()] = path
    return path_by_name


def _is_hidden(name: str) -> bool:
    """Return whether the name of a file or folder begins with a period."""
    return name.startswith(".")


def find_similar_path(root: Path, path: str) -> str:
    """Return the existing path that is probably meant by `path`, a misspelt path of data.

    `path` and the result are relative to `root`. The first part of `path` that does not
    exist is replaced by the most similar name in its folder, and the rest is dropped: the
    result for data/sampel/a.csv is data/sample. Returns "" if no name is similar, or if
    `path` exists.
    """
    # Find the first part of the path that does not exist.
    missing = root / path
    while not missing.parent.exists():
        missing = missing.parent
    if missing.exists() or not missing.parent.is_dir():
        return ""

    names = [entry.name for entry in missing.parent.iterdir()]
    similar = difflib.get_close_matches(missing.name, names, n=1)
    if not similar or similar[0] == missing.name:
        return ""
    return (missing.parent / similar[0]).relative_to(root).as_posix()
