"""Loading a model that train saved, with what it says about itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import cloudpickle
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from sklearn.pipeline import Pipeline

# The types of a model's signature as polars has them.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}


class RowSplit(Protocol):
    """The rule by which a model's training held rows out, see steps/train/split.py."""

    by: list[str]

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return a number for each row, the same for rows that stay together."""

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""


@dataclass(frozen=True)
class SavedModel:
    """A trained pipeline, the columns that it asks for, and what it was trained for.

    `categories` are the texts in each column of text of its training data, as far as they
    are known. `baseline` predicts the same without features: from class shares, a mean or
    a last value, as `baseline_name` says. `task` and `target` are empty, and `split` and
    `baseline` are None, if the model does not say, because it was not saved by this
    project's train step. `holdout_column` has the dates from which on rows were held out;
    it is empty if they were held out at random. `keys`, `training_rows`, `parameters` and
    `notes` are those of the training. `schema` says how prep has read the training data,
    and is empty if that is unknown.
    """

    pipeline: Pipeline
    columns: dict[str, pl.DataType]
    categories: dict[str, set[str]]
    task: str
    target: str
    split: RowSplit | None
    baseline: Any = None
    baseline_name: str = ""
    holdout_column: str = ""
    keys: tuple[str, ...] = ()
    training_rows: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)


def load_model(folder: Path) -> SavedModel:
    """Load the model in a folder. Raises an error of any kind if there is none."""
    # MLflow takes a %20 in a path for a blank, so it is given a copy at a plain path.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        description = mlflow.models.Model.load(str(copy))
        _check_python(description)
        pipeline = mlflow.sklearn.load_model(copy.as_uri())
        split = _load_split(copy, pipeline)
        schema = _read_schema(copy)
        baseline = _load_baseline(copy)
    if description.signature is None:
        raise ValueError("it was saved without a signature, which names its columns")
    metadata = description.metadata or {}
    return SavedModel(
        pipeline=pipeline,
        columns={
            column["name"]: TYPES[column["type"]]
            for column in description.signature.inputs.to_dict()
        },
        categories=_list_categories(schema),
        task=metadata.get("task", ""),
        target=metadata.get("target", ""),
        split=split,
        baseline=baseline,
        baseline_name=metadata.get("baseline", ""),
        holdout_column=metadata.get("holdout_column", ""),
        keys=tuple(metadata.get("keys", [])),
        training_rows=metadata.get("training_rows"),
        parameters=metadata.get("parameters", {}),
        notes=tuple(metadata.get("notes", [])),
        schema=schema,
    )


def _check_python(description: mlflow.models.Model) -> None:
    """Raise ValueError if a model was saved by another minor version of Python.

    It holds the functions of its train step as bytecode, on which another version may
    crash without an error.
    """
    saved_by = description.flavors.get("python_function", {}).get("python_version", "")
    version = ".".join(saved_by.split(".")[:2])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version and version != running:
        raise ValueError(f"it was trained with Python {version}, and this is {running}")


def _load_split(folder: Path, pipeline: Pipeline) -> Any:
    """Return the rule by which rows were held out, or None if the model has none.

    Version 1 of the project kept it as an attribute of the pipeline, not in a file.
    """
    file = folder / "split.pkl"
    if file.exists():
        return cloudpickle.loads(file.read_bytes())
    return getattr(pipeline, "split", None)


def _read_schema(folder: Path) -> dict[str, Any]:
    """Return how prep has read the training data of a model; empty if it is unknown."""
    file = folder / "schema.json"
    if not file.exists():
        return {}
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def _list_categories(schema: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the texts in each column of text, as the model's schema names them."""
    return {
        name: set(column["categories"])
        for name, column in schema.get("columns", {}).items()
        if "categories" in column
    }


def select_features(model: SavedModel, table: pl.DataFrame) -> pd.DataFrame:
    """Return the columns that a model asks for, as its own scoring would read them.

    Raises ValueError, TypeError or a PolarsError if the prepared table does not tell,
    because it was read by another schema than the model's training data.
    """
    for name, dtype in model.columns.items():
        values = table[name].drop_nulls()
        if len(values):
            _check_spelling(name, values, dtype, model.categories.get(name, set()))
    return select_columns(table, model.columns)


def _check_spelling(
    name: str, values: pl.Series, dtype: pl.DataType, categories: set[str]
) -> None:
    """Raise ValueError if values were text to a model, and their spelling is lost.

    A column that was text and holds numbers now has lost the + of +1. Its spelling is
    known only if all values are categories of the model as they stand.
    """
    if dtype == pl.String and values.dtype != pl.String:
        texts = values.unique().cast(pl.String)
        if not categories.issuperset(texts):
            raise ValueError(
                f"'{name}' was text to it and is {values.dtype} now, which does not tell"
                " how the values were spelled"
            )
    if dtype == pl.Float64 and values.dtype == pl.String:
        odd = values.filter(values.cast(pl.Float64, strict=False).is_null())
        if len(odd):
            raise ValueError(
                f"'{name}' was numbers to it and is text now, such as '{odd[0]}'"
            )


def _load_baseline(folder: Path) -> Any:
    """Return the baseline that was saved with the model, or None if there is none."""
    file = folder / "baseline.pkl"
    return cloudpickle.loads(file.read_bytes()) if file.exists() else None


def select_columns(
    table: pl.DataFrame, columns: dict[str, pl.DataType]
) -> pd.DataFrame:
    """Return the columns that a model asks for, in its types.

    Raises TypeError or a PolarsError if a column is missing or of another kind.
    """
    selected = {}
    for name, dtype in columns.items():
        values = table[name]
        if values.null_count() == len(values):
            # A column without a value fits every type.
            selected[name] = pl.repeat(None, len(values), dtype=dtype, eager=True)
            continue
        reads_as_text = values.dtype == pl.String and not dtype.is_temporal()
        is_text = reads_as_text or dtype == pl.String
        if not is_text and values.dtype.is_temporal() != dtype.is_temporal():
            raise TypeError(f"'{name}' was {dtype} to it and is {values.dtype} now")
        selected[name] = values.cast(dtype)
    return pl.DataFrame(selected).to_pandas()
