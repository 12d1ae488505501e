"""The files below a folder that are data, here and on Azure ML."""

from __future__ import annotations

import os
from pathlib import Path


def list_files(data: Path) -> dict[str, Path]:
    """A file, or all files below a folder, by name; none of those that are hidden.

    Azure ML is not sent those either. Folders behind links are looked into, once.
    """
    if data.is_file():
        return {data.name: data}
    found, seen = {}, set()
    for folder, folders, names in os.walk(data, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        for path in (Path(folder, name) for name in names if name[0] != "."):
            if path.is_file():
                found[path.relative_to(data).as_posix()] = path
    return found
