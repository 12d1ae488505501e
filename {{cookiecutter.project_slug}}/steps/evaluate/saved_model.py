"""Load a saved model, with what it says about its training."""

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

# The types of columns, by their names in the signature of a model.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}


class RowSplit(Protocol):
    """The rule by which rows were held out from training. See steps/train/split.py."""

    by: list[str]

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return the group of each row. Rows of one group are held out together."""

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""


@dataclass(frozen=True)
class SavedModel:
    """A trained pipeline, and what was saved with it.

    A model that was not saved by the train step of this project has fewer values: those
    after `columns` may be empty or None.
    """

    pipeline: Pipeline
    #: The columns that the pipeline needs, and their types.
    columns: dict[str, pl.DataType]
    #: The distinct texts of the training data, for each column of text.
    categories: dict[str, set[str]]
    task: str
    target: str
    #: The rule by which rows were held out.
    split: RowSplit | None
    #: A model that predicts the target without features, and how it does so.
    baseline: Any = None
    baseline_name: str = ""
    #: The column of dates by which rows were held out; empty if this was done at random.
    holdout_column: str = ""
    keys: tuple[str, ...] = ()
    training_rows: int | None = None
    #: The parameters of the training, as MLflow shows them.
    parameters: dict[str, str] = field(default_factory=dict)
    #: The notes that the train step printed.
    notes: tuple[str, ...] = ()
    #: How prep read the columns of the training data.
    schema: Mapping[str, Any] = field(default_factory=dict)


# Loading


def load_model(folder: Path) -> SavedModel:
    """Load the model in a folder.

    Raises ValueError if it was saved by another version of Python, without a signature, or
    with columns of other types than train saves. A model that cannot be loaded may raise
    any other error.
    """
    # MLflow reads "%20" in a path as a blank. The path of a temporary copy has none.
    with TemporaryDirectory() as temporary_folder:
        copy = shutil.copytree(folder, Path(temporary_folder) / "model")
        description = mlflow.models.Model.load(str(copy))
        _check_python(description)
        pipeline = mlflow.sklearn.load_model(copy.as_uri())
        split = _load_split(copy, pipeline)
        baseline = _load_pickle(copy / "baseline.pkl")
        schema = _read_schema(copy)

    columns = _read_columns(description)
    metadata = description.metadata or {}
    return SavedModel(
        pipeline=pipeline,
        columns=columns,
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

    A saved model holds functions of the train step as bytecode. Another version of Python
    may crash when it runs them, without an error message.
    """
    flavor = description.flavors.get("python_function", {})
    version = ".".join(flavor.get("python_version", "").split(".")[:2])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version and version != running:
        raise ValueError(f"it was trained with Python {version}, and this is {running}")


def _read_columns(description: mlflow.models.Model) -> dict[str, pl.DataType]:
    """Return the columns that a model needs, and their types.

    Raises ValueError if they are unknown.
    """
    if description.signature is None or description.signature.inputs is None:
        raise ValueError("it was saved without a signature, which names its columns")

    columns = {}
    for column in description.signature.inputs.to_dict():
        type_name = column["type"]
        if type_name not in TYPES:
            raise ValueError(
                f"in its signature, '{column.get('name')}' is of the type {type_name}, which"
                f" is none of {', '.join(TYPES)}"
            )
        columns[column["name"]] = TYPES[type_name]
    return columns


def _load_split(folder: Path, pipeline: Pipeline) -> Any:
    """Return the rule by which rows were held out, or None if it was not saved.

    Version 1 of this project saved it as an attribute of the pipeline.
    """
    split = _load_pickle(folder / "split.pkl")
    if split is None:
        return getattr(pipeline, "split", None)
    return split


def _load_pickle(file: Path) -> Any:
    """Return the object in a pickle file, or None if the file does not exist."""
    if not file.exists():
        return None
    return cloudpickle.loads(file.read_bytes())


def _read_schema(folder: Path) -> dict[str, Any]:
    """Return how prep read the training data, or an empty dict if it was not saved."""
    file = folder / "schema.json"
    if not file.exists():
        return {}
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def _list_categories(schema: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the distinct texts of each column whose texts are in the schema."""
    return {
        name: set(column["categories"])
        for name, column in schema.get("columns", {}).items()
        if "categories" in column
    }


# The features of a table


def select_columns(
    table: pl.DataFrame, columns: dict[str, pl.DataType]
) -> pd.DataFrame:
    """Return the columns that a model needs, in the types that it was trained with.

    Raises TypeError or a PolarsError if a column is missing or has another type.
    """
    selected = {}
    for name, dtype in columns.items():
        values = table[name]
        if values.null_count() == len(values):
            # A column without any value fits every type.
            selected[name] = pl.repeat(None, len(values), dtype=dtype, eager=True)
            continue

        is_read_from_text = values.dtype == pl.String and not dtype.is_temporal()
        becomes_text = dtype == pl.String
        have_same_kind = values.dtype.is_temporal() == dtype.is_temporal()
        if not (is_read_from_text or becomes_text or have_same_kind):
            raise TypeError(f"'{name}' was {dtype} to it and is {values.dtype} now")
        selected[name] = values.cast(dtype)
    return pl.DataFrame(selected).to_pandas()


def select_features(model: SavedModel, table: pl.DataFrame) -> pd.DataFrame:
    """Return the columns that a model needs, with the values that its own prep would read.

    The table may have been read by another schema than the training data of the model.
    Raises ValueError, TypeError or a PolarsError if the values of its own schema are
    unknown.
    """
    for name, dtype in model.columns.items():
        values = table[name].drop_nulls()
        if values.is_empty():
            continue
        if dtype == pl.String:
            _check_spelling(name, values, model.categories.get(name, set()))
        elif dtype == pl.Float64:
            _check_numbers(name, values)
    return select_columns(table, model.columns)


def _check_spelling(name: str, values: pl.Series, categories: set[str]) -> None:
    """Raise ValueError if the values were text to the model, and their spelling is lost.

    A column that holds numbers now may have held "+1" or "01" as text. Its spelling is only
    known if all numbers, as they are written now, are categories of the model.
    """
    if values.dtype == pl.String:
        return
    texts = values.unique().cast(pl.String)
    if not categories.issuperset(texts):
        raise ValueError(
            f"'{name}' was text to it and is {values.dtype} now, which does not tell how"
            " the values were spelled"
        )


def _check_numbers(name: str, values: pl.Series) -> None:
    """Raise ValueError if the values were numbers to the model, and some are text now."""
    if values.dtype != pl.String:
        return
    is_number = values.cast(pl.Float64, strict=False).is_not_null()
    odd_values = values.filter(~is_number)
    if len(odd_values):
        raise ValueError(
            f"'{name}' was numbers to it and is text now, such as '{odd_values[0]}'"
        )
