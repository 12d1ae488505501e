"""List the files of a folder of data, here and on Azure ML."""

from __future__ import annotations

import os
from pathlib import Path


def list_files(data: Path) -> dict[str, Path]:
    """Return a file, or all files below a folder, by their names from there on.

    Hidden files are left out, as Azure ML is not sent them either. Folders behind links
    are looked into, each once.
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
