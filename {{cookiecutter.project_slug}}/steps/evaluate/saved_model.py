"""Load a saved model and the records of its training, and select its features."""

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

# The polars type for each name of a type in the signature of a model.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}


class RowSplit(Protocol):
    """The rule that decides which rows are held out from training.

    It is the class Split of steps/train/split.py, as it was saved with the model.
    """

    by: list[str]

    def groups(self, table: pl.DataFrame) -> npt.NDArray[np.uint64]:
        """Return the group of each row. Rows of one group are held out together."""

    def held_out(self, table: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return whether each row is held out."""


@dataclass(frozen=True)
class SavedModel:
    """A trained pipeline, and the records that were saved with it.

    If a model was not saved by the train step of this project, the values after `columns`
    may be empty or None.
    """

    pipeline: Pipeline
    #: The columns that the pipeline needs, and their types.
    columns: dict[str, pl.DataType]
    #: The distinct texts of the training data, for each column of text.
    categories: dict[str, set[str]]
    task: str
    target: str
    #: The rule that decides which rows are held out.
    split: RowSplit | None
    #: A model that predicts the target without features.
    baseline: Any = None
    #: The method of the baseline, such as "mean".
    baseline_name: str = ""
    #: The column of dates by which rows were held out, or "" if this was done at random.
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

    Raises ValueError if the model was saved with another version of Python, without a
    signature, or with columns of other types than the step train saves. May also raise any
    other error, because loading a model runs the model's own code.
    """
    # MLflow takes "%20" in a path for a space, so it could not find the files of a folder
    # with "%20" in its name. A copy in a temporary folder has no such name.
    with TemporaryDirectory() as temporary_folder:
        copy = shutil.copytree(folder, Path(temporary_folder) / "model")
        description = mlflow.models.Model.load(str(copy))
        _check_python(description)
        pipeline = mlflow.sklearn.load_model(copy.as_uri())
        split = _load_split(copy, pipeline)
        baseline = _load_pickle(copy / "baseline.pkl")
        schema = _read_schema(copy)

    columns = _read_columns(description)
    # A value that the model does not record stays empty.
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
    """Raise ValueError if a model was saved with another minor version of Python.

    A saved model holds functions of the train step as bytecode. Another version of Python
    may crash when it runs them, without an error message. If the model does not record its
    version of Python, nothing is checked. The message begins with "it", for the model.
    """
    flavor = description.flavors.get("python_function", {})
    version_of_model = ".".join(flavor.get("python_version", "").split(".")[:2])
    running_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version_of_model and version_of_model != running_version:
        raise ValueError(
            f"it was trained with Python {version_of_model}, and this is Python"
            f" {running_version}"
        )


def _read_columns(description: mlflow.models.Model) -> dict[str, pl.DataType]:
    """Return the columns that a model needs, and their types, from its signature.

    Raises ValueError if the model has no signature, or if a column has a type that the step
    train does not save. The message continues a sentence in which "it" is the model.
    """
    if description.signature is None or description.signature.inputs is None:
        raise ValueError("it was saved without a signature, so its columns are unknown")

    columns = {}
    for column in description.signature.inputs.to_dict():
        # A model that was trained on an array has a column without a name, of the type
        # tensor, which is refused below.
        name = column.get("name")
        type_name = column["type"]
        if type_name not in TYPES:
            raise ValueError(
                f"in its signature, the column '{name}' has the type {type_name}, which is"
                f" not one of {', '.join(TYPES)}"
            )
        columns[name] = TYPES[type_name]
    return columns


def _load_split(folder: Path, pipeline: Pipeline) -> Any:
    """Return the rule that decides which rows are held out, or None if it was not saved.

    Version 1 of this project saved the rule as an attribute of the pipeline.
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
    """Return the distinct texts of each column whose texts are listed in the schema."""
    return {
        name: set(column["categories"])
        for name, column in schema.get("columns", {}).items()
        if "categories" in column
    }


# The features of a table


def select_columns(
    table: pl.DataFrame, columns: dict[str, pl.DataType]
) -> pd.DataFrame:
    """Return the columns that a model needs, cast to the types that it was trained with.

    Raises a PolarsError if a column is missing or a value cannot be cast. Raises TypeError
    if dates would become numbers, or if numbers or texts would become dates.
    """
    selected = {}
    for name, dtype in columns.items():
        values = table[name]
        if values.null_count() == len(values):
            # A column without any values fits every type.
            selected[name] = pl.repeat(None, len(values), dtype=dtype, eager=True)
        elif not _can_be_cast(values.dtype, dtype):
            raise TypeError(
                f"the model was trained with '{name}' as {dtype}, but the column is now"
                f" {values.dtype}"
            )
        else:
            selected[name] = values.cast(dtype)
    return pl.DataFrame(selected).to_pandas()


def _can_be_cast(prepared: pl.DataType, needed: pl.DataType) -> bool:
    """Return whether a column of the type `prepared` may be cast to the type `needed`.

    Every type may become text. Numbers and dates may change their precision. Text may
    become a number. Dates never become numbers: polars would cast them, but such numbers
    have no meaning to a model.
    """
    if needed == pl.String:
        return True
    if prepared == pl.String:
        return not needed.is_temporal()
    return prepared.is_temporal() == needed.is_temporal()


def select_features(model: SavedModel, table: pl.DataFrame) -> pd.DataFrame:
    """Return the columns that a model needs, as its own step prep would have read them.

    `table` was read for another model. For example, prep may have turned the text "01" into
    the number 1, whereas this model was trained on the text.

    Raises ValueError if the original values cannot be recovered. Raises TypeError if the
    model needs dates where the table has other values, or other values where it has dates.
    Raises a PolarsError if a column is missing.
    """
    # These checks raise ValueError. The values are cast afterwards, by select_columns().
    for name, dtype in model.columns.items():
        values = table[name].drop_nulls()
        if values.is_empty():
            continue
        if dtype == pl.String:
            categories = model.categories.get(name, set())
            _check_text_can_be_recovered(name, values, categories)
        elif dtype == pl.Float64:
            _check_texts_are_numbers(name, values)
    return select_columns(table, model.columns)


def _check_text_can_be_recovered(
    name: str, values: pl.Series, categories: set[str]
) -> None:
    """Raise ValueError if it is unknown how values were spelled in the raw data.

    The model was trained on texts, and `categories` is the set of these texts. If the
    column `name` now holds numbers, "+1" and "01" may both have become 1. The spelling is
    certain only if every value, written as text, is one of the categories.
    """
    if values.dtype == pl.String:
        return
    texts = values.unique().cast(pl.String)
    if not categories.issuperset(texts):
        raise ValueError(
            f"the model was trained with '{name}' as text, but the column is now"
            f" {values.dtype}, so the original spelling of the values is lost"
        )


def _check_texts_are_numbers(name: str, values: pl.Series) -> None:
    """Raise ValueError if a column holds texts that are not numbers, such as "n/a".

    `name` is the name of a column that the model needs as numbers.
    """
    if values.dtype != pl.String:
        return
    is_number = values.cast(pl.Float64, strict=False).is_not_null()
    other_texts = values.filter(~is_number)
    if len(other_texts):
        raise ValueError(
            f"the model was trained with '{name}' as numbers, but the column now holds"
            f" text, such as '{other_texts[0]}'"
        )
