"""Predict prepared Parquet parts: the entry script of the parallel step.

Each part's predictions are a Parquet file of the same name, with the key columns (or
`row`), `prediction`, and for a classification one `probability_<class>` a class.
"""

# Without `from __future__ import annotations`: where the module is not registered in
# sys.modules, as may be in Azure ML's driver, a dataclass could not look its types up.

import argparse
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import mlflow
import pandas as pd
import polars as pl
import polars.selectors as cs
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn.pipeline import Pipeline
from trees import UnknownModel, quicken

ROW = "row"  # the column that prep numbers rows by where there is no key
# To a model every column is one of these, named so in its signature.
TYPES = {"double": pl.Float64(), "datetime": pl.Datetime("us"), "string": pl.String()}
NUMBER, DATE, TEXT = TYPES.values()
WORDS = {NUMBER: "numbers", DATE: "dates", TEXT: "text"}
TAKEN = {
    NUMBER: cs.numeric() | cs.boolean(),
    DATE: cs.date() | cs.datetime(),
    TEXT: cs.string() | cs.integer(),  # which reads the same
}
FORMS = {  # of a text that reads as one
    NUMBER: r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$",
    DATE: r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+)?\s*$",
}


class ScoringError(Exception):
    """A part cannot be scored; the message says why, and names the column at fault."""


@dataclass
class Scorer:
    """What a worker keeps from one mini-batch to the next."""

    model: Pipeline
    columns: dict[str, pl.DataType]
    keys: list[str]
    predictions: Path


scorer: Scorer


def init() -> None:
    """Load the registered model, once in each worker."""
    # The driver adds options of its own, such as --model: no abbreviation of ours.
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-version", required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    # Quoted, as Azure ML splits the arguments of a parallel job at each space.
    parser.add_argument("--keys", nargs="*", type=unquote, default=[])
    args, _ = (
        parser.parse_known_args()
    )  # the rest is for the driver of the parallel step
    global scorer
    folder = download(args.model_name, args.model_version)
    # A copy in a plain place, since MLflow takes a %20 in a path for a blank.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        model = mlflow.sklearn.load_model(copy.as_uri())
        columns = model_columns(str(copy))
    try:
        quicken(model)
    except UnknownModel as reason:
        print(f"note: the model predicts at scikit-learn's own pace: {reason}.")
    scorer = Scorer(model, columns, args.keys or [ROW], args.predictions)
    try:
        args.predictions.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoringError(f"The predictions cannot be written: {error}") from None


def download(name: str, version: str) -> str:
    """The folder with the files of a registered model; `version` may be "latest"."""
    try:
        return str(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        way = "run the training pipeline first, or pin a registered version"
        if isinstance(error, OSError) or "No such artifact" in str(error):
            way = "its files are gone: train again with --set register=always, or pin"
            way += " another version by scoring.model_version"
        what = f"The model {name}, version {version}, cannot be had"
        raise ScoringError(f"{what}: {way}. ({error})") from None


def model_columns(folder: str) -> dict[str, pl.DataType]:
    """The columns that a saved model was trained with, from its signature."""
    inputs = Model.load(folder).signature.inputs.to_dict()
    return {column["name"]: TYPES[column["type"]] for column in inputs}


def run(mini_batch: list[str]) -> list[str]:
    """Predict each part of a mini-batch; returns the parts' names, one for each."""
    return [score_part(scorer, Path(part)) for part in mini_batch]


def score_part(scorer: Scorer, part: Path) -> str:
    """Write the predictions for one part, whole or not at all; returns its name."""
    table = pl.read_parquet(part, glob=False)
    try:
        features = align(table, scorer.columns)
    except ScoringError as error:
        raise ScoringError(f"{part.name}: {error}") from None
    keys = pl.DataFrame([table[name] for name in scorer.keys])
    scored = predict(scorer.model, features, keys)
    # Written beside and renamed, so that a part tried again is replaced, never torn.
    unfinished = scorer.predictions / f".{part.name}.{uuid.uuid4().hex}"
    try:
        scored.write_parquet(unfinished)
        os.replace(unfinished, scorer.predictions / part.name)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ScoringError(f"{part.name}: cannot be written: {error}") from None
    return part.name


def align(table: pl.DataFrame, columns: dict[str, pl.DataType]) -> pd.DataFrame:
    """The columns that the model was trained with, in its types; others are left out."""
    aligned = {}
    for name, wanted in columns.items():
        if name not in table.columns:
            raise ScoringError(f"the column '{name}' is missing; the model needs it.")
        # Without its name, as polars would take one like `^a$` for a pattern.
        values = table[name].alias("")
        filled = values.drop_nulls()  # a column without a value fits every type
        if len(filled) and not filled.to_frame().select(TAKEN[wanted]).width:
            what = f"the column '{name}' holds {odd_value(filled, wanted)}, where the"
            way = f"model needs {WORDS[wanted]}: mend the data, or train again."
            raise ScoringError(f"{what} {way}")
        aligned[name] = values.cast(wanted)
    return pl.DataFrame(aligned).to_pandas()


def odd_value(values: pl.Series, wanted: pl.DataType) -> str:
    """The first value that is not of the wanted type, in words."""
    if values.dtype == TEXT:
        # One such value makes a whole column text: it is to be named, not its neighbour.
        odd = values.filter(~values.str.contains(FORMS[wanted]))
        return f"the text {(odd if len(odd) else values)[0]!r}"
    words = {pl.Boolean: "truth value", pl.Date: "date", pl.Datetime: "date"}
    other = "number" if values.dtype.is_numeric() else "value"
    return f"the {words.get(values.dtype.base_type(), other)} {values[0]}"


def predict(
    model: Pipeline, features: pd.DataFrame, keys: pl.DataFrame
) -> pl.DataFrame:
    """The keys of each row with its prediction and its probabilities, if any."""
    if hasattr(model, "predict_proba"):
        shares = model.predict_proba(features)
        found = {"prediction": model.classes_[shares.argmax(axis=1)]}
        for name, column in zip(model.classes_, shares.T, strict=True):
            found[f"probability_{name}"] = column
    else:
        found = {"prediction": model.predict(features)}
    for name in found:
        if name in keys.columns:
            what = f"the key '{name}' has the name of a column of the predictions"
            raise ScoringError(f"{what}: rename it in the data and in data.keys.")
    return pl.DataFrame(keys.to_dict() | found)
