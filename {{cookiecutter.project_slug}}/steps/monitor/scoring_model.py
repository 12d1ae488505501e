"""Load the registered model that will score the new data, and its profile."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from profiles import Profile, parse_profile
from sklearn.pipeline import Pipeline

PROFILE = "profile.json"
# A message names at most this many versions of a model.
SHOWN_VERSIONS = 5
# The polars type for each type in the signature of a model.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}
# A damaged file may have any contents: bytes that are not UTF-8, text that is not JSON, or
# JSON of another shape. So reading it may end in any of these errors.
ERRORS_OF_DAMAGED_FILES = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)


class MonitorError(Exception):
    """The new data cannot be compared, or must not be scored. The message says why."""


@dataclass(frozen=True)
class ScoringModel:
    """A registered model, and the columns that it needs, with their types.

    `profile` describes the training rows. It is None if the model was saved without one.
    """

    name: str
    version: str
    pipeline: Pipeline
    columns: Mapping[str, pl.DataType]
    profile: Profile | None


def load_scoring_model(name: str, version: str, prepared: Path) -> ScoringModel:
    """Load the registered model that will score the rows in the folder `prepared`.

    If the step prep has recorded a version of the model in the prepared files, this version
    is loaded: prep has read the data for it. Otherwise `version` is loaded, which may be
    "latest".

    Raises MonitorError if the model cannot be loaded.
    """
    version = read_recorded_version(prepared) or version
    if version == "latest":
        version = find_newest_version(name)
    folder = download_model(name, version)
    # MLflow decodes a path like a URL: it would look for a folder "my%20project" at
    # "my project". So a copy is loaded from a temporary folder, whose path has no "%".
    with TemporaryDirectory() as temporary_folder:
        copied_model = shutil.copytree(folder, Path(temporary_folder) / "model")
        description = Model.load(str(copied_model))
        check_python(description)
        pipeline = mlflow.sklearn.load_model(copied_model.as_uri())
        profile = read_profile(copied_model)
    return ScoringModel(name, version, pipeline, list_columns(description), profile)


def read_recorded_version(prepared: Path) -> str | None:
    """Return the version of the model that prep has recorded in the parts.

    Returns None if no version is recorded. Raises MonitorError if there are no parts.
    """
    part = min(prepared.glob("*.parquet"), default=None)
    if part is None:
        raise MonitorError(
            f"There is no Parquet file in {prepared}, so there are no rows to compare."
        )
    return pl.read_parquet_metadata(part).get("model_version")


def find_newest_version(name: str) -> str:
    """Return the newest version of a registered model, such as "12".

    Returns "latest" if no model of this name is registered, so that loading this version
    fails with a message.
    """
    versions = list_versions(name)
    return versions[-1] if versions else "latest"


def list_versions(name: str) -> list[str]:
    """Return the versions of a registered model, such as "1" and "2", the newest last.

    The list is empty if no model of this name is registered.
    """
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted((str(version.version) for version in versions), key=int)


def download_model(name: str, version: str) -> Path:
    """Return the folder with the files of a registered model.

    Raises MonitorError if the version is not registered, or if its files are gone.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        raise MonitorError(_explain_failed_download(name, version, error)) from None


def _explain_failed_download(
    name: str, version: str, error: MlflowException | OSError
) -> str:
    """Return a message on why a model cannot be downloaded, and what the user can do.

    `error` is what MLflow has raised.
    """
    # For missing files, MLflow raises an OSError or, with the same error code as for a
    # missing version, an exception with this text.
    if isinstance(error, OSError) or "No such artifact" in str(error):
        return (
            f"The model {name}, version {version}, cannot be loaded: its files are gone."
            " Train again with --set register=always, or choose another version with"
            f" scoring.model_version. ({error})"
        )

    is_unknown = error.error_code == "RESOURCE_DOES_NOT_EXIST"
    other_versions = list_versions(name) if is_unknown else []
    if other_versions:
        newest_versions = ", ".join(other_versions[-SHOWN_VERSIONS:])
        return (
            f"There is no version {version} of the model {name}. The newest versions are:"
            f" {newest_versions}. Choose another scoring.model_version in settings.yml."
        )
    return (
        f"The model {name}, version {version}, cannot be loaded: run the training pipeline"
        f" first. ({error})"
    )


def check_python(description: Model) -> None:
    """Raise MonitorError if a model was saved by another minor version of Python.

    The model holds functions of its train step as bytecode. If Python 3.12 runs the
    bytecode of Python 3.11, the process may crash without an exception.
    """
    flavor = description.flavors.get("python_function", {})
    trained_with = ".".join(flavor.get("python_version", "").split(".")[:2])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if trained_with and trained_with != running:
        raise MonitorError(
            f"The model was trained with Python {trained_with}, and this is Python"
            f" {running}. Train again with --set register=always, or score with Python"
            f" {trained_with}."
        )


def list_columns(description: Model) -> dict[str, pl.DataType]:
    """Return the names and types of the columns that a saved model was trained on.

    Raises MonitorError if the model has no signature, which would name the columns, or if a
    column has a type that the step train does not save.
    """
    if description.signature is None:
        raise MonitorError(
            "The model was saved without a signature, which would name its columns. Save it"
            " with save_model() of steps/train/model_files.py."
        )
    columns: list[dict[str, Any]] = description.signature.inputs.to_dict()
    for column in columns:
        if column["type"] not in TYPES:
            raise MonitorError(
                f"In the model's signature, the column '{column['name']}' has the type"
                f" {column['type']}, which is not one of {', '.join(TYPES)}. Save the model"
                " with save_model() of steps/train/model_files.py."
            )
    return {column["name"]: TYPES[column["type"]] for column in columns}


def read_profile(folder: Path) -> Profile | None:
    """Return the profile in the folder of a saved model, or None if there is none.

    Raises MonitorError if the profile is damaged.
    """
    file = folder / PROFILE
    if not file.exists():
        return None
    try:
        return parse_profile(json.loads(file.read_text(encoding="utf-8")))
    except ERRORS_OF_DAMAGED_FILES as error:
        # The text of a KeyError is only the key, so the message also has the type.
        raise MonitorError(
            f"The file {PROFILE} of the model is damaged ({type(error).__name__}: {error})."
            " Train again with --set register=always, or choose another version with"
            " scoring.model_version."
        ) from None
