"""Choose the folders of the default datastore that a pipeline reads its data from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..files import find_similar_path, list_files
from ..project import Project
from .errors import AzureError

#: Files are read in chunks of this size.
CHUNK_BYTES = 1 << 20
#: The name of a folder contains this many hexadecimal digits of the digest of its files.
DIGEST_DIGITS = 16


@dataclass(frozen=True)
class DataFolder:
    """A folder of the default datastore, and the local files to upload into it."""

    path: str
    #: The local files by their paths on the datastore. Empty for a folder that the user has
    #: named. Its files are on the datastore already, and can change at any time.
    files: dict[str, Path] = field(default_factory=dict)


def choose_data_folders(
    project: Project[Any],
    data_settings: Mapping[str, str],
    named_folders: Mapping[str, str],
) -> dict[str, DataFolder]:
    """Return the folder on the datastore from which each data parameter reads, by parameter.

    `data_settings` maps each data parameter of a pipeline to the name of a setting below
    `data`. A parameter with the setting "training" reads the files at the path that
    `data.training` contains. For a parameter in `named_folders`, the user has chosen a folder
    of the datastore, which the parameter reads instead.

    Raises AzureError if there are no files at the path in a setting.
    """
    folders = {}
    for parameter, setting in data_settings.items():
        named_folder = named_folders.get(parameter)
        if named_folder:
            folders[parameter] = DataFolder(named_folder)
        else:
            folders[parameter] = make_data_folder(project, setting)
    return folders


def make_data_folder(project: Project[Any], setting: str) -> DataFolder:
    """Describe the folder on the datastore for the local files of a setting below `data`.

    With the setting "training", these are the files at the path in `data.training`. The name
    of the folder contains a digest of the files, so changed files get a new folder. If the
    folder kept its name, Azure ML would not notice that files have changed, and would reuse
    the results of earlier runs. Raises AzureError if there are no files.
    """
    files = list_data_files(project, setting)
    if not files:
        key = f"data.{setting}"
        path = _get_path(project, setting)
        similar_path = find_similar_path(project.root, path)
        if similar_path:
            hint = f"Did you mean {similar_path}?"
        else:
            hint = "Put the data there, or correct the path."
        raise AzureError(
            f"{project.file_of(key)}: {key} is {path}, but there is no file there. {hint}"
        )

    digest = _digest_files(files)[:DIGEST_DIGITS]
    path = f"{project.settings().name}/{setting}-{digest}"
    file_by_path = {f"{path}/{relative}": file for relative, file in files.items()}
    return DataFolder(path, file_by_path)


def list_data_files(project: Project[Any], setting: str) -> dict[str, Path]:
    """Return the local files at the path in the setting `data.SETTING`.

    They are sorted by their local paths. The keys are their paths relative to the path in the
    setting.
    """
    files = list_files(project.root / _get_path(project, setting))
    return dict(sorted(files.items(), key=itemgetter(1)))


def _get_path(project: Project[Any], setting: str) -> str:
    """Return the path in the setting `data.SETTING`."""
    return str(getattr(project.settings().data, setting))


def _digest_files(files: Mapping[str, Path]) -> str:
    """Return a digest of the names, sizes and contents of files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
