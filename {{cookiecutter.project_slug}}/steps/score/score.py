"""Predict prepared Parquet parts: the entry script of the parallel step.

Prep has written two facts into the metadata of each part: the names of its key columns,
and the version of the registered model whose schema it has used to read the data.

The predictions for a part are a file of the same name, in Parquet or CSV. Its columns are
the keys (or `row`, if there are none), `prediction`, and for a classification
`probability_<class>` for each class.
"""

# This module does not import annotations from __future__. With them, a dataclass looks up
# its types in sys.modules, where Azure ML's driver may not have registered this module.

import argparse
import json
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from trees import UnsupportedModel, use_lookup_tables

# Prep numbers the rows in this column if the data has no key.
ROW = "row"
# The types of columns that a model can have, by their names in the model's signature.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}
NUMBER, DATE, TEXT = TYPES.values()
TYPE_NAMES = {NUMBER: "numbers", DATE: "dates", TEXT: "text"}
# Text that matches such a pattern can be read as a value of the type.
PATTERNS = {
    NUMBER: r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$",
    DATE: r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+)?\s*$",
}


class ScoringError(Exception):
    """A part cannot be scored. The message says why, and names the column at fault."""


@dataclass
class Scorer:
    """A loaded model, which a worker keeps from one mini-batch to the next."""

    name: str
    version: str
    model: Pipeline
    #: The columns that the model was trained with, and their types.
    columns: dict[str, pl.DataType]
    #: The folder to write the predictions into.
    predictions: Path
    #: The format of their files: parquet or csv.
    predictions_format: str = "parquet"


scorer: Scorer


def init() -> None:
    """Load the registered model. The driver calls this function once in each worker."""
    # The driver adds options of its own to the command line, and one of them is --model.
    # With abbreviations allowed, argparse would read it as --model-name.
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-version", required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument(
        "--predictions-format", choices=["parquet", "csv"], default="parquet"
    )
    args, _ = parser.parse_known_args()

    global scorer
    scorer = load_scorer(
        args.model_name,
        args.model_version,
        predictions=args.predictions,
        predictions_format=args.predictions_format,
    )


def run(mini_batch: list[str]) -> list[str]:
    """Predict each part of a mini-batch, and return the names of the files."""
    return [score_part(choose_scorer(part), part) for part in map(Path, mini_batch)]


def choose_scorer(part: Path) -> Scorer:
    """Return a scorer with the version of the model that prep has used for a part.

    This is the worker's scorer, unless another version of the model was registered after
    prep had read the data. Then the version that prep has used is loaded, and replaces the
    worker's.
    """
    global scorer
    version = read_part_metadata(part).get("model_version", scorer.version)
    if version != scorer.version:
        scorer = load_scorer(
            scorer.name,
            version,
            predictions=scorer.predictions,
            predictions_format=scorer.predictions_format,
        )
    return scorer


def load_scorer(
    model_name: str,
    model_version: str,
    *,
    predictions: Path,
    predictions_format: str = "parquet",
) -> Scorer:
    """Load a registered model, speed it up if possible, and create its output folder.

    `model_version` may be "latest". Raises ScoringError if there is no such model, if it
    was trained with another version of Python, or if the folder cannot be made.
    """
    version = find_version(model_name, model_version)
    folder = download_model(model_name, version)
    # MLflow reads "%20" in a path as a space. The path of a temporary copy has no "%20".
    with TemporaryDirectory() as temporary_folder:
        copy = shutil.copytree(folder, Path(temporary_folder) / "model")
        description = Model.load(str(copy))
        check_python(description)
        model = mlflow.sklearn.load_model(copy.as_uri())
    columns = list_model_columns(description)

    try:
        # The predictions stay the same, and are computed several times faster.
        use_lookup_tables(model)
    except UnsupportedModel as reason:
        print(f"note: the model predicts without the faster table lookup: {reason}.")

    try:
        predictions.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoringError(f"The predictions cannot be written: {error}") from None
    return Scorer(model_name, version, model, columns, predictions, predictions_format)


def find_version(name: str, version: str) -> str:
    """Return a version of a registered model, with "latest" replaced by its number.

    Returns "latest" itself if no model of this name is registered.
    """
    if version != "latest":
        return version
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    numbers = [str(version.version) for version in versions]
    return max(numbers, key=int, default="latest")


def download_model(name: str, version: str) -> Path:
    """Return the folder with the files of a registered model.

    Raises ScoringError if the model or its files are missing.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) or "No such artifact" in str(error):
            raise ScoringError(
                f"The model {name}, version {version}, cannot be loaded, as its files are"
                " gone. Train again with --set register=always, or pin another version"
                f" by scoring.model_version. ({error})"
            ) from None
        raise ScoringError(
            f"The model {name}, version {version}, cannot be loaded. Run the training"
            f" pipeline first, or pin a registered version. ({error})"
        ) from None


def check_python(description: Model) -> None:
    """Raise ScoringError if a model was saved by another minor version of Python.

    A saved model holds functions of the train step as bytecode. Another version of Python
    may crash when it runs them, without an error message.
    """
    flavor = description.flavors.get("python_function", {})
    version = ".".join(flavor.get("python_version", "").split(".")[:2])
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version and version != running:
        raise ScoringError(
            f"The model was trained with Python {version}, and this is Python {running}."
            f" Train again with --set register=always, or score with Python {version}."
        )


def list_model_columns(description: Model) -> dict[str, pl.DataType]:
    """Return the columns that a saved model was trained with, and their types.

    They are in the model's signature. Raises ScoringError if the model has none.
    """
    if description.signature is None:
        raise ScoringError(
            "The model was saved without a signature, which would name its columns. Save"
            " it with save_model() of steps/train/train.py."
        )
    return {
        column["name"]: TYPES[column["type"]]
        for column in description.signature.inputs.to_dict()
    }


def read_part_metadata(part: Path) -> dict[str, str]:
    """Return the metadata that prep has written into a part.

    Raises ScoringError if the part cannot be read.
    """
    try:
        return pl.read_parquet_metadata(part)
    except OSError as error:
        raise ScoringError(f"{part.name} cannot be read: {error}") from None


def score_part(scorer: Scorer, part: Path) -> str:
    """Write the predictions for one part, and return the name of their file.

    Their file appears under its name only when it is complete. Raises ScoringError if the
    part cannot be read or scored, or if the predictions cannot be written.
    """
    try:
        table = pl.read_parquet(part, glob=False)
    except OSError as error:
        raise ScoringError(f"{part.name} cannot be read: {error}") from None
    try:
        features = select_features(table, scorer.columns)
    except ScoringError as error:
        raise ScoringError(f"{part.name}: {error}") from None

    key_names = json.loads(read_part_metadata(part).get("keys", "[]")) or [ROW]
    keys = pl.DataFrame([table[name] for name in key_names])
    scored = predict(scorer.model, features, keys)

    # The file is written under another name first, so no predictions are ever half
    # written. If the driver tries a part again, the new file replaces the first one.
    finished = scorer.predictions / f"{part.stem}.{scorer.predictions_format}"
    unfinished = scorer.predictions / f".{part.name}.{uuid.uuid4().hex}"
    try:
        if scorer.predictions_format == "csv":
            scored.write_csv(unfinished)
        else:
            scored.write_parquet(unfinished)
        os.replace(unfinished, finished)
    except (OSError, pl.exceptions.PolarsError) as error:
        unfinished.unlink(missing_ok=True)
        raise ScoringError(f"{finished.name} cannot be written: {error}") from None
    return finished.name


def select_features(
    table: pl.DataFrame, columns: dict[str, pl.DataType]
) -> pd.DataFrame:
    """Return the columns that the model was trained with, in its types.

    Raises ScoringError if a column is missing, or if its values are of another type.
    """
    features = {}
    for name, dtype in columns.items():
        if name not in table.columns:
            raise ScoringError(
                f"the column '{name}' is missing, and the model needs it."
            )
        # polars reads a name such as `^a$` as a pattern, so the column is left unnamed.
        values = table[name].alias("")
        filled = values.drop_nulls()
        # A column without any value fits every type.
        if len(filled) and not accepts_type(dtype, filled.dtype):
            raise ScoringError(
                f"the column '{name}' holds {describe_odd_value(filled, dtype)}, where"
                f" the model needs {TYPE_NAMES[dtype]}. Correct the data, or train again."
            )
        features[name] = values.cast(dtype)
    return pl.DataFrame(features).to_pandas()


def accepts_type(needed: pl.DataType, prepared: pl.DataType) -> bool:
    """Return whether values of the prepared type can be cast to what the model needs."""
    if needed == NUMBER:
        return prepared.is_numeric() or prepared == pl.Boolean
    if needed == DATE:
        return prepared in (pl.Date, pl.Datetime)
    # An integer has only one form as text, so it can be compared with other text.
    return prepared == pl.String or prepared.is_integer()


def describe_odd_value(values: pl.Series, dtype: pl.DataType) -> str:
    """Describe the first of the values that is not of the type that the model needs.

    The description continues the sentence "the column holds ...".
    """
    if values.dtype == TEXT:
        # A single text among numbers makes the whole column text. It is the odd value.
        odd_values = values.filter(~values.str.contains(PATTERNS[dtype]))
        first = odd_values[0] if len(odd_values) else values[0]
        return f"the text {first!r}"
    if values.dtype == pl.Boolean:
        return f"the truth value {values[0]}"
    if values.dtype in (pl.Date, pl.Datetime):
        return f"the date {values[0]}"
    if values.dtype.is_numeric():
        return f"the number {values[0]}"
    return f"the value {values[0]}"


def predict(
    model: Pipeline, features: pd.DataFrame, keys: pl.DataFrame
) -> pl.DataFrame:
    """Return a table of each row's keys and prediction, and probabilities if there are any.

    Raises ScoringError if a key has the same name as one of the other columns.
    """
    columns: dict[str, Any] = {}
    rows = len(features)
    if rows == 1:
        # For a table with a single row, scikit-learn adds up the classes in another order,
        # which may change the last bit of a probability. So the row is predicted twice,
        # and the second prediction is dropped below.
        features = pd.concat([features, features])
    if hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(features)
        last_step = model[-1] if isinstance(model, Pipeline) else model
        if isinstance(last_step, HistGradientBoostingClassifier):
            # These predict the class of the largest probability, which is here already.
            predicted = model.classes_[probabilities.argmax(axis=1)]
        else:
            # Others may decide in another way, such as by a threshold.
            predicted = model.predict(features)
        columns["prediction"] = predicted
        for name, column in zip(model.classes_, probabilities.T, strict=True):
            columns[f"probability_{name}"] = column
    else:
        columns["prediction"] = model.predict(features)

    for name in columns:
        if name in keys.columns:
            raise ScoringError(
                f"the key '{name}' has the same name as a column that holds predictions."
                " Rename it in the data and in data.keys."
            )
    predictions = {name: column[:rows] for name, column in columns.items()}
    return pl.DataFrame(keys.to_dict() | predictions)
