"""Read the versions of the registered model from MLflow's database.

Importing MLflow takes seconds, so the tables of the database are read without it. They have
the layout of the MLflow version that environment/steps.txt pins.
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
#: The name of a file that MLflow writes into a model's folder each time that the model is
#: loaded.
FILE_WRITTEN_BY_LOADING = "registered_model_meta"
#: Finds a version by its number, or the newest version if `version` is 'latest'. MLflow
#: keeps deleted versions in the table, so they are left out here. The tag `run` is
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
#: Lists all versions, the newest first. A version belongs to the run of the step
#: `register`, which is a child of the pipeline's run in MLflow. The tag `reference` is set
#: by `register`.
LIST_VERSIONS = """
    SELECT
        version, creation_time,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'run') AS local_run,
        (SELECT value FROM tags WHERE run_uuid = run_id AND key = 'mlflow.parentRunId')
            AS mlflow_run_id,
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
    """A version of the registered model, with its files and the run that registered it."""

    #: A string that no other version has, even if the model is deleted and registered
    #: again.
    identity: str
    #: The folder with the files of the model. None if it is not on this machine.
    folder: Path | None
    #: The name of the local run that has registered the version, or an empty string if no
    #: local run has registered it.
    run_name: str


@dataclass(frozen=True)
class VersionOrigin:
    """When a version of a model was registered, and by which run."""

    #: The number of the version.
    version: str
    #: The time of the registration in milliseconds since 1970, or 0 if MLflow has none.
    created: int
    #: The name that the local run had when it registered the version. Empty if no local run
    #: has registered it.
    run_name: str
    #: The id of the same run in MLflow, or an empty string.
    mlflow_run_id: str
    #: The reference is the version that `evaluate` compares new models with while this
    #: version is the newest. It is an earlier version if this version was not clearly
    #: better than the earlier one.
    reference: str


@dataclass(frozen=True)
class RegisteredModel:
    """The registered model that a step looks up."""

    #: A text that is different for each version, and also differs if the files of a version
    #: have changed. Empty if the step looks up no model, and NO_MODEL if none is registered.
    fingerprint: str
    #: The name of the local run that has registered the model, or an empty string.
    run_name: str


def find_model_version(root: Path, model: str, version: str) -> ModelVersion | None:
    """Return a version of the registered model `model`, or None if it does not exist.

    `version` is a number, or "latest" for the newest version. `root` is the folder of the
    project. Raises sqlite3.Error if MLflow's database cannot be read.
    """
    with closing(_connect(root)) as connection:
        parameters = {"model": model, "version": version}
        row = connection.execute(FIND_VERSION, parameters).fetchone()
    if row is None:
        return None

    # If a model is deleted and registered again, its versions have the same numbers as
    # before. So the number alone does not identify a version.
    identity = json.dumps([row["version"], row["creation_time"], row["run_id"]])
    folder = None
    uri = urlsplit(row["source"] or "")
    is_on_this_machine = uri.scheme == "file"
    if is_on_this_machine:
        folder = Path(url2pathname(uri.path))
    return ModelVersion(identity, folder, run_name=row["local_run"] or "")


def list_versions(root: Path, model: str) -> list[VersionOrigin]:
    """Return when each version of a registered model was created, and by which run.

    The newest version comes first. `root` is the folder of the project, and `model` is the
    name of the registered model. The list is empty if the project has no MLflow database
    yet. Raises sqlite3.Error if the database cannot be read.
    """
    if not (root / DATABASE).exists():
        return []
    with closing(_connect(root)) as connection:
        rows = connection.execute(LIST_VERSIONS, {"model": model}).fetchall()

    origins = []
    for row in rows:
        version = str(row["version"])
        # New models are compared with the reference of the newest version. The step
        # `register` writes the reference into a tag, unless the version is itself the
        # reference.
        reference = row["reference"] or version
        origins.append(
            VersionOrigin(
                version=version,
                created=int(row["creation_time"] or 0),
                run_name=row["local_run"] or "",
                mlflow_run_id=row["mlflow_run_id"] or "",
                reference=reference,
            )
        )
    return origins


def list_model_uris(root: Path) -> list[str]:
    """Return the URI of the folder of each version of all registered models.

    `root` is the folder of the project. Raises sqlite3.Error if MLflow's database cannot be
    read.
    """
    with closing(_connect(root)) as connection:
        rows = connection.execute("SELECT source FROM model_versions").fetchall()
    return [row["source"] or "" for row in rows]


def _connect(root: Path) -> sqlite3.Connection:
    """Open MLflow's database so that the values of a row are read by their column names.

    A query waits up to a minute while another process writes to the database.
    """
    connection = sqlite3.connect(root / DATABASE, timeout=60)
    connection.row_factory = sqlite3.Row
    return connection


@dataclass(frozen=True)
class ModelLookup:
    """Finds the registered model that a step looks up."""

    #: The folder of the project.
    root: Path
    #: The name of the registered model.
    model: str
    #: The version to look up: a number, or "latest".
    version: str
    #: The names of the steps that look up the model.
    model_readers: frozenset[str]
    fingerprints: Fingerprints

    def find_model_for(self, step_name: str) -> RegisteredModel:
        """Return the registered model that a step would look up now.

        Its fingerprint changes if another version or other files are registered. The
        fingerprint is empty if the step looks up no model, and NO_MODEL if no model is
        registered. Raises OSError if the model's files
        cannot be read, and sqlite3.Error if MLflow's database cannot be read.
        """
        if step_name not in self.model_readers:
            return RegisteredModel(fingerprint="", run_name="")
        version = find_model_version(self.root, self.model, self.version)
        if version is None:
            return RegisteredModel(fingerprint=NO_MODEL, run_name="")

        files: dict[str, Path] = {}
        if version.folder is not None:
            files = list_files(version.folder)
        # MLflow writes this file whenever the model is loaded. Loading a model must not
        # change its fingerprint, so the file is left out.
        files.pop(FILE_WRITTEN_BY_LOADING, None)
        content_hash = self.fingerprints.hash_files(files)
        return RegisteredModel(
            fingerprint=f"{version.identity} {content_hash}", run_name=version.run_name
        )
