"""Predict prepared Parquet parts: the entry script of the parallel step.

A part is a Parquet file of prepared rows. The step prep has written two facts into its
metadata: the names of the key columns, and the version of the registered model whose schema
was used to read the data.

The predictions for a part are a file of the same name, in Parquet or CSV. Its columns are
the keys (or `row`, if there are none), `prediction`, and in a classification
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
# A message names at most this many versions of a model.
SHOWN_VERSIONS = 5
# The types of columns that a model can have, by their names in the model's signature.
TYPES: dict[str, pl.DataType] = {
    "double": pl.Float64(),
    "datetime": pl.Datetime("us"),
    "string": pl.String(),
}
NUMBER, DATE, TEXT = TYPES.values()
# The types as messages name them.
TYPE_NAMES = {NUMBER: "numbers", DATE: "dates", TEXT: "text"}
# Text that matches a pattern can be read as a value of the type: "-1.5e3" as a number, and
# "2024-02-29 12:30" as a date.
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
    #: The folder for the predictions.
    predictions: Path
    #: The format of the files with predictions: parquet or csv.
    predictions_format: str = "parquet"


# The scorer of this worker process.
scorer: Scorer


def init() -> None:
    """Load the registered model. The driver calls this function once in each worker."""
    # The driver adds further options to the command line, such as --model. If abbreviations
    # were allowed, argparse would take --model for --model-name.
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
    """Write the predictions for each part of a mini-batch, and return their file names."""
    file_names = []
    for path in mini_batch:
        part = Path(path)
        switch_scorer_if_needed(part)
        file_names.append(score_part(scorer, part))
    return file_names


def switch_scorer_if_needed(part: Path) -> None:
    """Make sure that the worker's scorer has the model version that a part names.

    The step prep records in each part which version it used. Usually, the worker's scorer
    has this version already, and nothing happens. If another version was registered after
    prep had read the data, the version of the part is loaded and replaces the worker's
    scorer. A part that names no version is scored with the worker's scorer.
    """
    global scorer
    version_of_part = read_part_metadata(part).get("model_version", scorer.version)
    if version_of_part != scorer.version:
        scorer = load_scorer(
            scorer.name,
            version_of_part,
            predictions=scorer.predictions,
            predictions_format=scorer.predictions_format,
        )


# Loading the model


def load_scorer(
    model_name: str,
    model_version: str,
    *,
    predictions: Path,
    predictions_format: str = "parquet",
) -> Scorer:
    """Load a registered model for scoring, and create the folder `predictions`.

    `model_version` may be "latest". The model predicts by table lookup if it can, which is
    faster. Raises ScoringError if there is no such model, if it was trained with another
    version of Python, or if the folder cannot be created.
    """
    version = find_version(model_name, model_version)
    folder = download_model(model_name, version)
    model, columns = load_model(folder)
    try:
        # Lookup tables give the same predictions several times faster.
        use_lookup_tables(model)
    except UnsupportedModel as reason:
        print(f"note: the model predicts without the faster table lookup: {reason}.")

    try:
        predictions.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoringError(
            f"The folder for the predictions cannot be created: {error}"
        ) from None
    return Scorer(model_name, version, model, columns, predictions, predictions_format)


def load_model(folder: Path) -> tuple[Pipeline, dict[str, pl.DataType]]:
    """Load the model in a folder, and the columns that it was trained with.

    Raises ScoringError if it was trained with another version of Python, or if it does not
    say which columns it was trained with.
    """
    # MLflow takes "%20" in a path for a space, so it could not find the files of a folder
    # with "%20" in its name. A copy in a temporary folder has no such name.
    with TemporaryDirectory() as temporary_folder:
        copy = shutil.copytree(folder, Path(temporary_folder) / "model")
        description = Model.load(str(copy))
        # The model must not be loaded before this check, as it may crash Python.
        check_python(description)
        model = mlflow.sklearn.load_model(copy.as_uri())
    return model, list_model_columns(description)


def find_version(name: str, version: str) -> str:
    """Return a version of a registered model, with "latest" replaced by its number.

    Returns "latest" itself if no model of this name is registered.
    """
    if version != "latest":
        return version
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

    Raises ScoringError if the model, the version or its files do not exist, or if they
    cannot be downloaded.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        raise ScoringError(explain_failed_download(name, version, error)) from None


def explain_failed_download(
    name: str, version: str, error: MlflowException | OSError
) -> str:
    """Return a message that says why a model cannot be downloaded, and what to do.

    `error` is the error that the download raised. There are three messages: the files of
    the model are gone, only other versions of the model are registered, or (in all other
    cases) the training pipeline must be run first.
    """
    # MLflow has no error code for missing files. It raises either an OSError or an
    # MlflowException with this text.
    if isinstance(error, OSError) or "No such artifact" in str(error):
        return (
            f"The model {name}, version {version}, cannot be loaded: its files are gone."
            " Train again with --set register=always, or choose another version with"
            f" scoring.model_version. ({error})"
        )

    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        registered_versions = list_versions(name)
        if registered_versions:
            newest_versions = ", ".join(registered_versions[-SHOWN_VERSIONS:])
            return (
                f"There is no version {version} of the model {name}. The newest versions"
                f" are: {newest_versions}. Choose another scoring.model_version in"
                " settings.yml."
            )

    return (
        f"The model {name}, version {version}, cannot be loaded: run the training pipeline"
        f" first. ({error})"
    )


def check_python(description: Model) -> None:
    """Raise ScoringError if a model was saved with another minor version of Python.

    A saved model holds functions of the train step as bytecode. Another version of Python
    may crash when it runs them, without an error message. If the model does not record its
    version of Python, nothing is checked.
    """
    flavor = description.flavors.get("python_function", {})
    version_of_model = ".".join(flavor.get("python_version", "").split(".")[:2])
    running_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version_of_model and version_of_model != running_version:
        raise ScoringError(
            f"The model was trained with Python {version_of_model}, and this is Python"
            f" {running_version}. Train again with --set register=always, or score with"
            f" Python {version_of_model}."
        )


def list_model_columns(description: Model) -> dict[str, pl.DataType]:
    """Return the columns that a saved model was trained with, and their types.

    The model's signature lists these columns. Raises ScoringError if the model has no
    signature, or if a column has a type that the step train does not save.
    """
    if description.signature is None:
        raise ScoringError(
            "The model was saved without a signature, so its columns are unknown. Save it"
            " with save_model() of steps/train/model_files.py."
        )
    columns = {}
    for column in description.signature.inputs.to_dict():
        name = column["name"]
        type_name = column["type"]
        if type_name not in TYPES:
            raise ScoringError(
                f"In the model's signature, the column '{name}' has the type {type_name},"
                f" which is not one of {', '.join(TYPES)}. Save the model with"
                " save_model() of steps/train/model_files.py."
            )
        columns[name] = TYPES[type_name]
    return columns


# Scoring a part


def read_part_metadata(part: Path) -> dict[str, str]:
    """Return the metadata that the step prep has written into a part, a Parquet file.

    Raises ScoringError if the part cannot be read.
    """
    try:
        return pl.read_parquet_metadata(part)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ScoringError(f"{part.name} cannot be read: {error}") from None


def read_key_names(part: Path) -> list[str]:
    """Return the names of the columns that identify a row of a part.

    Without key columns, this is the column `row`, in which prep has numbered the rows.
    Raises ScoringError if the part cannot be read.
    """
    names_as_json = read_part_metadata(part).get("keys", "[]")
    key_names: list[str] = json.loads(names_as_json)
    return key_names or [ROW]


def score_part(scorer: Scorer, part: Path) -> str:
    """Write the predictions for a part, and return the name of the file with them.

    Raises ScoringError if the part cannot be read or scored, or if the predictions cannot
    be written.
    """
    try:
        table = pl.read_parquet(part, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ScoringError(f"{part.name} cannot be read: {error}") from None
    try:
        features = select_features(table, scorer.columns)
    except ScoringError as error:
        raise ScoringError(f"{part.name}: {error}") from None

    keys = pl.DataFrame([table[name] for name in read_key_names(part)])
    predictions = predict(scorer.model, features, keys)
    file = scorer.predictions / f"{part.stem}.{scorer.predictions_format}"
    write_table(predictions, file, scorer.predictions_format)
    return file.name


def write_table(table: pl.DataFrame, file: Path, file_format: str) -> None:
    """Write a table as a Parquet or CSV file. Raises ScoringError if this fails.

    The file gets its final name only when it is complete, so that a half-written file never
    looks finished. A file of this name from an earlier attempt is replaced.
    """
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        if file_format == "csv":
            table.write_csv(unfinished)
        else:
            table.write_parquet(unfinished)
        os.replace(unfinished, file)
    except (OSError, pl.exceptions.PolarsError) as error:
        unfinished.unlink(missing_ok=True)
        raise ScoringError(f"{file.name} cannot be written: {error}") from None


def select_features(
    table: pl.DataFrame, columns: dict[str, pl.DataType]
) -> pd.DataFrame:
    """Return the columns that a model was trained with, cast to the types in `columns`.

    Raises ScoringError if a column is missing, or if its values have another type. The
    message begins in lower case, because the caller puts the name of the file before it.
    """
    features = {}
    for name, dtype in columns.items():
        if name not in table.columns:
            raise ScoringError(
                f"the column '{name}' is missing, and the model cannot predict without it."
            )
        # Some methods of polars, which are called here and in the functions below, would
        # read a column name such as `^a$` as a pattern. So the name is removed.
        values = table[name].alias("")
        present_values = values.drop_nulls()
        # A column without any values fits every type.
        if len(present_values) and not accepts_type(dtype, present_values.dtype):
            unexpected = describe_unexpected_value(present_values, dtype)
            raise ScoringError(
                f"the column '{name}' holds {unexpected}, where the model needs"
                f" {TYPE_NAMES[dtype]}. Correct the data, or train again."
            )
        features[name] = values.cast(dtype)
    return pl.DataFrame(features).to_pandas()


def accepts_type(needed: pl.DataType, prepared: pl.DataType) -> bool:
    """Return whether values of the type `prepared` can be cast to the type `needed`.

    `needed` is the type with which the model was trained: NUMBER, DATE or TEXT.
    """
    if needed == NUMBER:
        return prepared.is_numeric() or prepared == pl.Boolean
    if needed == DATE:
        return prepared in (pl.Date, pl.Datetime)
    # The model needs text. An integer can be written as text in only one way, so the result
    # can be compared with the texts of the training data. A fraction or a date can be
    # written in several ways, such as 0.5 and .5.
    return prepared == pl.String or prepared.is_integer()


def describe_unexpected_value(values: pl.Series, dtype: pl.DataType) -> str:
    """Describe the first value that does not have the type `dtype`, for a message.

    For example, the result is "the text 'n/a'" if the model needs numbers and the values
    are the texts "1", "n/a" and "2". If every text can be read as `dtype` (such as "1" and
    "2"), the first text is described, because the model does not accept numbers as text.
    """
    if values.dtype == TEXT:
        # A single text among numbers turns the whole column into text, so only texts that
        # are not numbers (or dates) are unexpected.
        unexpected_texts = values.filter(~values.str.contains(PATTERNS[dtype]))
        first_text = unexpected_texts[0] if len(unexpected_texts) else values[0]
        return f"the text {first_text!r}"
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
    """Return a table with the keys and the prediction of each row.

    The columns after the keys are `prediction` and, if the model gives probabilities,
    `probability_<class>` for each class. Raises ScoringError if a key has the same name as
    one of these columns.
    """
    row_count = len(features)
    if row_count == 1:
        # For a table with a single row, scikit-learn adds up exponentials in another order,
        # which may change the last bit of a probability. So the row is predicted twice, and
        # the second prediction is dropped below.
        features = pd.concat([features, features])
    predictions = {
        name: values[:row_count]
        for name, values in predict_columns(model, features).items()
    }

    for name in predictions:
        if name in keys.columns:
            raise ScoringError(
                f"the key '{name}' has the same name as a column that holds predictions."
                " Rename it in the data and in data.keys."
            )
    return pl.DataFrame(keys.to_dict() | predictions)


def predict_columns(model: Pipeline, features: pd.DataFrame) -> dict[str, Any]:
    """Return the predicted values and the probabilities by their column names.

    The names are `prediction`, and `probability_<class>` for each class. If the model
    predicts no probabilities, there is only the column `prediction`.
    """
    if not hasattr(model, "predict_proba"):
        return {"prediction": model.predict(features)}

    probabilities = model.predict_proba(features)
    last_step = model[-1] if isinstance(model, Pipeline) else model
    if isinstance(last_step, HistGradientBoostingClassifier):
        # This classifier predicts the most probable class, so a second pass over the
        # trees is not needed.
        predicted_classes = model.classes_[probabilities.argmax(axis=1)]
    else:
        # Other classifiers may decide in another way, such as by a threshold.
        predicted_classes = model.predict(features)
    columns = {"prediction": predicted_classes}
    for name, values in zip(model.classes_, probabilities.T, strict=True):
        columns[f"probability_{name}"] = values
    return columns
