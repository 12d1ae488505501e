"""List the files of a folder, in the same way for local runs and for Azure ML."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def list_files(data: Path) -> dict[str, Path]:
    """Return the path of each file of data, by its name relative to the folder `data`.

    If `data` is a file, the result is this file alone. Hidden files are left out, because
    they are not uploaded to Azure ML either. Links to folders are followed, but each folder
    is visited only once, so links in a circle do no harm.
    """
    if data.is_file():
        return {data.name: data}
    files: dict[str, Path] = {}
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(data, followlinks=True):
        subfolders.sort()
        real_folder = os.path.realpath(folder)
        if real_folder in visited:
            subfolders.clear()
            continue
        visited.add(real_folder)
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                files[path.relative_to(data).as_posix()] = path
    return files


def find_similar_path(root: Path, path: str) -> str:
    """Return the existing path that a path of data below `root` probably means, or "".

    The first part of the path that does not exist is replaced by the most similar name in
    its folder. For example, the result for data/sampel/a.csv is data/sample.
    """
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
