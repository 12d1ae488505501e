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


class MonitorError(Exception):
    """The new data cannot be compared with the training data; the message says why."""


@dataclass(frozen=True)
class ScoringModel:
    """A registered model, and the columns that it needs.

    `profile` is None if the model was saved without one.
    """

    name: str
    version: str
    pipeline: Pipeline
    columns: Mapping[str, pl.DataType]
    profile: Profile | None


def load_scoring_model(name: str, version: str, prepared: Path) -> ScoringModel:
    """Load the model that will score the parts in the folder `prepared`.

    Prep has recorded in the parts which version's schema it has used to read the data. If
    no version is recorded, `version` is used, which may be "latest". Raises MonitorError if
    the model cannot be loaded.
    """
    version = read_version_of_parts(prepared) or version
    if version == "latest":
        version = find_newest_version(name)
    folder = download_model(name, version)
    # MLflow decodes %20 in a path to a space, so it loads a copy at a path without such
    # characters.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        description = Model.load(str(copy))
        check_python(description)
        pipeline = mlflow.sklearn.load_model(copy.as_uri())
        profile = read_profile(copy)
    return ScoringModel(name, version, pipeline, list_columns(description), profile)


def read_version_of_parts(prepared: Path) -> str | None:
    """Return the version of the model that prep has recorded in the parts, or None.

    Raises MonitorError if there are no parts.
    """
    part = min(prepared.glob("*.parquet"), default=None)
    if part is None:
        raise MonitorError(
            f"There is no Parquet file in {prepared}, so no row to compare."
        )
    return pl.read_parquet_metadata(part).get("model_version")


def find_newest_version(name: str) -> str:
    """Return the newest version of a registered model.

    Returns "latest" if no model of this name is registered.
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

    Raises MonitorError if the model or its files are missing.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) or "No such artifact" in str(error):
            raise MonitorError(
                f"The model {name}, version {version}, cannot be loaded: its files are"
                " gone: train again with --set register=always, or pin another version"
                f" by scoring.model_version. ({error})"
            ) from None
        version_is_missing = (
            isinstance(error, MlflowException)
            and error.error_code == "RESOURCE_DOES_NOT_EXIST"
        )
        versions = list_versions(name) if version_is_missing else []
        if versions:
            newest_versions = ", ".join(versions[-SHOWN_VERSIONS:])
            raise MonitorError(
                f"There is no version {version} of the model {name}. The newest versions"
                f" are: {newest_versions}. Choose another scoring.model_version in"
                " settings.yml."
            ) from None
        raise MonitorError(
            f"The model {name}, version {version}, cannot be loaded: run the training"
            f" pipeline first. ({error})"
        ) from None


def check_python(description: Model) -> None:
    """Raise MonitorError if a model was saved by another minor version of Python.

    The model holds the functions of its train step as bytecode. Another version of Python
    may crash on it without an error.
    """
    flavor = description.flavors.get("python_function", {})
    version = ".".join(flavor.get("python_version", "").split(".")[:2])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version and version != running:
        raise MonitorError(
            f"The model was trained with Python {version}, and this is Python {running}:"
            f" train again with --set register=always, or score with Python {version}."
        )


def list_columns(description: Model) -> dict[str, pl.DataType]:
    """Return the columns that a saved model was trained with, from its signature.

    Raises MonitorError if the model has no signature.
    """
    if description.signature is None:
        raise MonitorError(
            "The model was saved without a signature, which names its columns: save it"
            " with save_model() of steps/train/train.py."
        )
    columns: list[dict[str, Any]] = description.signature.inputs.to_dict()
    return {column["name"]: TYPES[column["type"]] for column in columns}


def read_profile(folder: Path) -> Profile | None:
    """Return the profile in the folder of a saved model, or None if there is none.

    Raises MonitorError if the profile is damaged.
    """
    file = folder / PROFILE
    if not file.exists():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return parse_profile(json.loads(text))
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise MonitorError(
            f"The file {PROFILE} of the model is damaged ({error!r}): train again with"
            " --set register=always, or choose another version by"
            " scoring.model_version."
        ) from None
