"""Read the registered models from MLflow's database, which is quicker than MLflow itself."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..files import list_files
from .fingerprints import Fingerprints
from .tracking import DATABASE

#: Stands for the fingerprint of a registered model if none is registered.
NO_MODEL = "none"
#: MLflow writes this file beside a model when it is loaded.
MARK_OF_LOADING = "registered_model_meta"
#: The newest version comes first. MLflow keeps versions that were deleted.
FIND_VERSION = """
    SELECT
        version, creation_time, run_id, source,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'run')
    FROM model_versions
    WHERE name = :model
        AND current_stage IS NOT 'Deleted_Internal'
        AND (:version = 'latest' OR version = :version)
    ORDER BY version DESC
"""
#: A version belongs to the run of the step `register`, which is below the pipeline's run.
LIST_VERSIONS = """
    SELECT
        version, creation_time,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'run'),
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'mlflow.parentRunId')
    FROM model_versions
    WHERE name = :model AND current_stage IS NOT 'Deleted_Internal'
    ORDER BY version DESC
"""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    identity: str  # differs from that of every other version
    files: Path | None  # None if they are not on this machine
    run: str  # the local run that has registered it, or an empty text


@dataclass(frozen=True)
class VersionOrigin:
    """When a version of a model was registered, and by which run."""

    version: str
    created: int  # milliseconds since 1970
    #: The folder of the local run that has registered it, or an empty text.
    run: str
    #: The id in MLflow of the same run, or an empty text.
    mlflow_run: str


@dataclass(frozen=True)
class RegisteredModel:
    """The registered model that a step looks up, as far as reuse depends on it."""

    fingerprint: str  # empty for a step that looks up none
    run: str  # the local run that has registered it, or an empty text


def find_model_version(root: Path, model: str, version: str) -> ModelVersion | None:
    """Return a version of a registered model; the version "latest" means the newest.

    Returns None if there is none. Raises sqlite3.Error if the database cannot be read.
    """
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        parameters = {"model": model, "version": version}
        row = connection.execute(FIND_VERSION, parameters).fetchone()
    if row is None:
        return None
    number, created, mlflow_run, source, local_run = row
    uri = urlsplit(source or "")
    files = Path(url2pathname(uri.path)) if uri.scheme == "file" else None
    identity = json.dumps([number, created, mlflow_run])
    return ModelVersion(identity, files, local_run or "")


def list_versions(root: Path, model: str) -> list[VersionOrigin]:
    """Return the versions of a registered model, with the newest first.

    Raises sqlite3.Error if the database cannot be read.
    """
    if not (root / DATABASE).exists():
        return []
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        rows = connection.execute(LIST_VERSIONS, {"model": model}).fetchall()
    return [
        VersionOrigin(str(version), int(created or 0), run or "", mlflow_run or "")
        for version, created, run, mlflow_run in rows
    ]


def list_model_sources(root: Path) -> list[str]:
    """Return where the files of all registered models are, as paths or URIs."""
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        rows = connection.execute("SELECT source FROM model_versions").fetchall()
    return [source or "" for (source,) in rows]


@dataclass(frozen=True)
class ModelLookup:
    """Find the registered model that a step looks up, if it does."""

    root: Path
    model: str
    version: str  # a number, or "latest"
    steps: frozenset[str]  # the names of the steps that look up the model
    fingerprints: Fingerprints

    def find(self, step: str) -> RegisteredModel:
        """Return the registered model that a step would find now.

        Raises OSError or sqlite3.Error if it cannot be read.
        """
        if step not in self.steps:
            return RegisteredModel(fingerprint="", run="")
        version = find_model_version(self.root, self.model, self.version)
        if version is None:
            return RegisteredModel(NO_MODEL, run="")
        files = list_files(version.files) if version.files else {}
        files.pop(MARK_OF_LOADING, None)
        content = self.fingerprints.hash_files(files)
        return RegisteredModel(f"{version.identity} {content}", version.run)
