"""Read the registered models from MLflow's database.

Importing MLflow takes seconds, so its tables are read directly. Their layout is that of the
MLflow version that environment/steps.txt pins.
"""

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
#: The newest version comes first. MLflow keeps versions that were deleted. The tag `run` is
#: FOLDER_TAG of tracked_runs.py.
FIND_VERSION = """
    SELECT
        version, creation_time, run_id, source,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'run') AS local_run
    FROM model_versions
    WHERE name = :model
        AND current_stage IS NOT 'Deleted_Internal'
        AND (:version = 'latest' OR version = :version)
    ORDER BY version DESC
"""
#: A version belongs to the run of the step `register`, a child of the pipeline's run.
LIST_VERSIONS = """
    SELECT
        version, creation_time,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'run') AS local_run,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'mlflow.parentRunId')
            AS pipeline_run,
        (
            SELECT value FROM model_version_tags AS tags_of_version
            WHERE tags_of_version.name = model_versions.name
                AND tags_of_version.version = model_versions.version
                AND key = 'reference'
        ) AS reference
    FROM model_versions
    WHERE name = :model AND current_stage IS NOT 'Deleted_Internal'
    ORDER BY version DESC
"""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    #: A string that is unique to this version.
    identity: str
    #: The folder with the files of the model. None if it is not on this machine.
    files: Path | None
    #: The local run that has registered the version, or an empty string.
    run: str


@dataclass(frozen=True)
class VersionOrigin:
    """When a version of a model was registered, and by which run."""

    version: str
    #: Milliseconds since 1970.
    created: int
    #: The folder of the local run that has registered the version, or an empty string.
    run: str
    #: The id of the same run in MLflow, or an empty string.
    mlflow_run: str
    #: The version that new models are compared with while this version is the newest.
    reference: str


@dataclass(frozen=True)
class RegisteredModel:
    """The registered model that a step looks up."""

    #: Changes with the version and with its files. Empty if the step looks up no model.
    fingerprint: str
    #: The local run that has registered the model, or an empty string.
    run: str


def find_model_version(root: Path, model: str, version: str) -> ModelVersion | None:
    """Return a version of a registered model, or None if it does not exist.

    The version "latest" is the newest one. Raises sqlite3.Error if the database cannot be
    read.
    """
    with closing(_connect(root)) as connection:
        parameters = {"model": model, "version": version}
        row = connection.execute(FIND_VERSION, parameters).fetchone()
    if row is None:
        return None

    identity = json.dumps([row["version"], row["creation_time"], row["run_id"]])
    files = None
    uri = urlsplit(row["source"] or "")
    if uri.scheme == "file":
        files = Path(url2pathname(uri.path))
    return ModelVersion(identity, files, run=row["local_run"] or "")


def list_versions(root: Path, model: str) -> list[VersionOrigin]:
    """Return the versions of a registered model, with the newest first.

    Raises sqlite3.Error if the database cannot be read.
    """
    if not (root / DATABASE).exists():
        return []
    with closing(_connect(root)) as connection:
        rows = connection.execute(LIST_VERSIONS, {"model": model}).fetchall()
    return [
        VersionOrigin(
            version=str(row["version"]),
            created=int(row["creation_time"] or 0),
            run=row["local_run"] or "",
            mlflow_run=row["pipeline_run"] or "",
            reference=row["reference"] or str(row["version"]),
        )
        for row in rows
    ]


def list_model_sources(root: Path) -> list[str]:
    """Return the paths or URIs of the files of all registered models."""
    with closing(_connect(root)) as connection:
        rows = connection.execute("SELECT source FROM model_versions").fetchall()
    return [row["source"] or "" for row in rows]


def _connect(root: Path) -> sqlite3.Connection:
    """Open MLflow's database, so that the values of a row can be read by their names.

    Reading waits up to a minute while another process writes to the database.
    """
    connection = sqlite3.connect(root / DATABASE, timeout=60)
    connection.row_factory = sqlite3.Row
    return connection


@dataclass(frozen=True)
class ModelLookup:
    """Finds the registered model that a step looks up."""

    root: Path
    model: str
    #: The version to look up: a number, or "latest".
    version: str
    #: The names of the steps that look up the model.
    steps: frozenset[str]
    fingerprints: Fingerprints

    def find(self, step: str) -> RegisteredModel:
        """Return the registered model that a step would look up now.

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
