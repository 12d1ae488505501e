"""Look up the registered model that will score new data, and choose how to read the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schema import FILE_SETTINGS, ModelSchema, parse_schema
from sources import ColumnRoles, DataError
from text_values import TextFormat, format_setting


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model. `schema` is None if the model has none."""

    name: str
    version: str
    schema: ModelSchema | None

    @property
    def label(self) -> str:
        """Return the name and version of the model for messages."""
        return f"version {self.version} of the model {self.name}"


def find_registered_model(name: str, version: str) -> RegisteredModel:
    """Look up the version of a model that the score step will use.

    `version` is a number or "latest". Raises DataError if there is no such version, or
    if its files are missing.
    """
    # MLflow is slow to import, and is not needed to prepare training data.
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if version == "latest":
            # Without any version, MLflow reports below that "latest" does not exist.
            version = _find_latest_version(name) or version
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        # MLflow has no error code for files that are gone, only this text.
        files_are_gone = isinstance(error, OSError) or "No such artifact" in str(error)
        if files_are_gone:
            raise DataError(
                f"The model {name}, version {version}, cannot be loaded: its files are"
                " gone. Train again with --set register=always, or pin another version"
                f" by scoring.model_version. ({error})"
            ) from None
        newest = _find_newest_version(name, error)
        if newest is not None:
            raise DataError(
                f"There is no version {version} of the model {name}: the newest one is"
                f" version {newest}. Choose another scoring.model_version in settings.yml."
            ) from None
        raise DataError(
            f"The model {name}, version {version}, cannot be loaded: run the training"
            f" pipeline first, or pin a registered version. ({error})"
        ) from None

    file = folder / "schema.json"
    if not file.exists():
        return RegisteredModel(name, version, schema=None)
    schema = parse_schema(file.read_text("utf-8", errors="replace"))
    return RegisteredModel(name, version, schema)


def _find_latest_version(name: str) -> str | None:
    """Return the highest version of a registered model, or None if it has none."""
    import mlflow

    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    numbers = [str(version.version) for version in versions]
    return max(numbers, key=int, default=None)


def _find_newest_version(name: str, error: Exception) -> str | None:
    """Return the newest version of a model, of which a version could not be found.

    Returns None if no version is registered, or if the `error` has another cause.
    """
    if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
        return None
    return _find_latest_version(name)


def choose_roles(
    model: RegisteredModel, keys: Sequence[str], ignore: Sequence[str]
) -> tuple[ColumnRoles, list[str]]:
    """Return the roles of the columns of new data for a model, and notes.

    The roles follow the model's schema. `keys` and `ignore` of settings.yml are only used
    if the model has no schema. Otherwise, notes name the differences.
    """
    if model.schema is None:
        note = (
            f"{model.label} has no schema, so the types of the columns are guessed from"
            " the new data: train again to have it read as the training data was."
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
    needed = [name for name in ignore if name in schema.columns]
    if needed:
        notes.append(
            f"data.ignore in settings.yml names {', '.join(map(repr, needed))}, but"
            f" {model.label} was trained with it: train again to ignore it."
        )
    roles = ColumnRoles(keys=schema.keys, model_columns=schema.columns)
    return roles, notes


def choose_text_format(
    model: RegisteredModel, settings: Mapping[str, Any]
) -> tuple[TextFormat, list[str]]:
    """Return the text format of new files for a model, and notes.

    It is the format of the training data, except where `settings` of settings.yml differ
    from it. Notes name these differences.
    """
    new_format = TextFormat.from_settings(dict(settings))
    if model.schema is None:
        return new_format, []

    training_format = model.schema.text_format
    changes = {}
    notes = []
    for name in settings:
        new = getattr(new_format, name)
        old = getattr(training_format, name)
        if new == old:
            continue
        changes[name] = new
        if name in FILE_SETTINGS:
            continue
        if name in ("missing", "not_missing", "units"):
            # The words and units of the training data keep their meaning.
            changes[name] = tuple(dict.fromkeys([*old, *new]))
        notes.append(
            f"data.{name} in settings.yml is {_format_or_none(new)}, but {model.label} was"
            f" trained with {_format_or_none(old)}: new files are read with the new setting."
        )
    return replace(training_format, **changes), notes


def _format_or_none(value: str | int | tuple[str, ...]) -> str:
    """Return a setting as settings.yml spells it, or "none" if it is empty."""
    if not value:
        return "none"
    return format_setting(value)
