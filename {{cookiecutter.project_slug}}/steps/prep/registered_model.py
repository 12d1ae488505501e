"""The schema of the registered model that will score new data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schema import FILE_SETTINGS, Schema, parse_schema
from sources import ColumnRoles, DataError
from text_values import TextFormat


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model. `schema` is None if the model has none."""

    name: str
    version: str
    schema: Schema | None

    @property
    def label(self) -> str:
        """Return what messages call the model."""
        return f"the model {self.name}, version {self.version},"


def find_registered_model(name: str, version: str) -> RegisteredModel:
    """Look up a registered model, as score does; `version` may be "latest".

    Raises DataError if there is no such model, or its files are missing.
    """
    # MLflow takes long to import, and training's prep does not need it.
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if version == "latest":
            versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
            version = max((str(v.version) for v in versions), key=int, default=version)
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) or "No such artifact" in str(error):
            raise DataError(
                f"The model {name}, version {version}, cannot be loaded: its files are"
                " gone: train again with --set register=always, or pin another version"
                f" by scoring.model_version. ({error})"
            ) from None
        raise DataError(
            f"The model {name}, version {version}, cannot be loaded: run the training"
            f" pipeline first, or pin a registered version. ({error})"
        ) from None
    file = folder / "schema.json"
    if not file.exists():
        return RegisteredModel(name, version, None)
    return RegisteredModel(
        name, version, parse_schema(file.read_text("utf-8", errors="replace"))
    )


def choose_roles(
    model: RegisteredModel, keys: Sequence[str], ignore: Sequence[str]
) -> tuple[ColumnRoles, list[str]]:
    """Return which columns of new data are read for a model, and notes.

    They are those of the model's schema. `keys` and `ignore` are what settings.yml says:
    a note tells where that differs. They are used if the model has no schema.
    """
    if model.schema is None:
        note = (
            f"{model.label} has no schema, so the types of the columns are guessed from"
            " the new data: train again to have it read as the training data was."
        )
        return ColumnRoles(None, keys, ignore), [note]
    schema = model.schema
    notes = []
    if list(keys) != list(schema.keys):
        notes.append(
            f"data.keys in settings.yml is {list(keys)}, but {model.label} was trained"
            f" with {list(schema.keys)}, which are used: train again to change them."
        )
    needed = [name for name in ignore if name in schema.columns]
    if needed:
        notes.append(
            f"data.ignore in settings.yml names {', '.join(map(repr, needed))}, but"
            f" {model.label} was trained with it: train again to ignore it."
        )
    return ColumnRoles(None, schema.keys, (), schema.columns), notes


def choose_text_format(
    model: RegisteredModel, settings: Mapping[str, Any]
) -> tuple[TextFormat, list[str]]:
    """Return how the text of new files is read for a model, and notes.

    It is the format of the training data, but for what settings.yml says of new files.
    """
    written = TextFormat.from_json(json.dumps(settings))
    if model.schema is None:
        return written, []
    trained_with = model.schema.text_format
    changes = {}
    notes = []
    for name in settings:
        new = getattr(written, name)
        old = getattr(trained_with, name)
        if new == old:
            continue
        changes[name] = new
        if name in FILE_SETTINGS:
            continue
        if name in ("missing", "not_missing", "units"):
            # A missing value or a unit of the training data stays one.
            changes[name] = tuple(dict.fromkeys([*old, *new]))
        notes.append(
            f"data.{name} in settings.yml is {_show(new)}, but {model.label} was trained"
            f" with {_show(old)}: new files are read by the setting."
        )
    return replace(trained_with, **changes), notes


def _show(value: str | int | Sequence[str]) -> str:
    """Return a setting as it is written in settings.yml."""
    if not value:
        return "none"
    return repr(value) if isinstance(value, (str, int)) else str(list(value))
