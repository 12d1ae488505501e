"""Load the registered model that will score new data, and choose how to read the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schema import ADDED_SETTINGS, FILE_SETTINGS, ModelSchema, parse_schema
from sources import ColumnRoles, DataError
from text_values import TextFormat, format_setting


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model, and how its training data was read.

    `schema` is None if the model has none, because an older version of this project trained
    it.
    """

    name: str
    version: str
    schema: ModelSchema | None

    @property
    def label(self) -> str:
        """Return the name and version of the model for messages."""
        return f"version {self.version} of the model {self.name}"


def load_registered_model(name: str, version: str) -> RegisteredModel:
    """Download the model that the score step will use, and read its schema.

    `version` is a number or "latest". The schema is None if the model has no file
    schema.json, because an older version of this project trained it. Raises DataError if
    there is no such version, if its files are gone, or if the schema is damaged.
    """
    # MLflow is slow to import, and is not needed to prepare training data.
    from mlflow.exceptions import MlflowException

    try:
        if version == "latest":
            # If the model has no version, "latest" is kept. Then the download fails, and
            # its error is explained.
            version = _find_latest_version(name) or version
        folder = _download_model(name, version)
    except (MlflowException, OSError) as error:
        raise _explain_missing_model(name, version, error) from None

    file = folder / "schema.json"
    if not file.exists():
        return RegisteredModel(name, version, schema=None)
    schema = parse_schema(file.read_text("utf-8", errors="replace"))
    return RegisteredModel(name, version, schema)


def _download_model(name: str, version: str) -> Path:
    """Return the folder with the files of a model, which MLflow downloads if necessary."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))


def _explain_missing_model(name: str, version: str, error: Exception) -> DataError:
    """Return an error with the reason why a model cannot be downloaded, and the fix.

    `error` is what MLflow or the operating system raised.
    """
    # If the files of a model are gone, a local store raises OSError. MLflow has no error
    # code for this case, so its error is recognized by its text.
    files_are_gone = isinstance(error, OSError) or "No such artifact" in str(error)
    if files_are_gone:
        return DataError(
            f"The model {name}, version {version}, cannot be loaded: its files are gone."
            " Train again with --set register=always, or pin another version with"
            f" scoring.model_version. ({error})"
        )
    error_code = getattr(error, "error_code", None)
    if error_code == "RESOURCE_DOES_NOT_EXIST":
        latest_version = _find_latest_version(name)
        if latest_version is not None:
            return DataError(
                f"There is no version {version} of the model {name}: the newest one is"
                f" version {latest_version}. Choose another scoring.model_version in"
                " settings.yml."
            )
    return DataError(
        f"The model {name}, version {version}, cannot be loaded: run the training pipeline"
        f" first, or pin a registered version. ({error})"
    )


def _find_latest_version(name: str) -> str | None:
    """Return the highest version of a registered model, or None if it has none."""
    import mlflow

    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    numbers = [str(version.version) for version in versions]
    return max(numbers, key=int, default=None)


def choose_roles(
    model: RegisteredModel, keys: Sequence[str], ignore: Sequence[str]
) -> tuple[ColumnRoles, list[str]]:
    """Return the roles of the columns of new data for a model, and notes.

    The roles follow the model's schema, and the notes say where settings.yml differs from
    it. If the model has no schema, the roles follow `keys` and `ignore` of settings.yml.
    """
    if model.schema is None:
        note = (
            f"{model.label} has no schema, so the types of the columns are guessed from the"
            " new data. Train the model again, so that new data is read in the same way as"
            " the training data."
        )
        return ColumnRoles(keys=keys, ignore=ignore), [note]

    schema = model.schema
    notes = []
    if list(keys) != list(schema.keys):
        notes.append(
            f"data.keys in settings.yml is {list(keys)}, but {model.label} was trained"
            f" with {list(schema.keys)}. The keys of the model are used: train again to"
            " change them."
        )
    for name in ignore:
        if name in schema.columns:
            notes.append(
                f"data.ignore in settings.yml names '{name}', but {model.label} was trained"
                " with this column: train again to ignore it."
            )
    # `ignore` is not needed here: columns that are not in the schema are not read.
    roles = ColumnRoles(keys=schema.keys, model_columns=schema.columns)
    return roles, notes


def choose_text_format(
    model: RegisteredModel, settings: Mapping[str, Any]
) -> tuple[TextFormat, list[str]]:
    """Return the text format of new files for a model, and notes.

    The format is that of the training data, with these changes by the `settings` under
    `data` in settings.yml:

    - Settings on single files, such as `encoding`, replace those of the training, without a
      note.
    - Units and markers for missing values are added to those of the training, with a note.
    - All other settings replace those of the training, with a note.

    If the model has no schema, the format is that of settings.yml.
    """
    new_format = TextFormat.from_settings(dict(settings))
    if model.schema is None:
        return new_format, []

    training_format = model.schema.text_format
    changes = {}
    notes = []
    for name in settings:
        new_value = getattr(new_format, name)
        training_value = getattr(training_format, name)
        if new_value == training_value:
            continue
        difference = (
            f"data.{name} in settings.yml is {_format_or_none(new_value)}, but"
            f" {model.label} was trained with {_format_or_none(training_value)}"
        )
        if name in FILE_SETTINGS:
            changes[name] = new_value
        elif name in ADDED_SETTINGS:
            # A dictionary keeps the order, and each item only once.
            both_values = tuple(dict.fromkeys([*training_value, *new_value]))
            changes[name] = both_values
            notes.append(f"{difference}: new files are read with both.")
        else:
            changes[name] = new_value
            notes.append(f"{difference}: new files are read with the new setting.")
    return replace(training_format, **changes), notes


def _format_or_none(value: str | int | tuple[str, ...]) -> str:
    """Write the value of a setting as settings.yml has it, or "none" if it is empty."""
    if not value:
        return "none"
    return format_setting(value)
