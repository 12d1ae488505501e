"""Predict prepared Parquet parts: the entry script of the ParallelRunStep.

Each part's predictions are a Parquet file of the same name, with the key columns (or
`row`), `prediction`, and for a classification one `probability_<class>` a class.
"""

# Without `from __future__ import annotations`: where the module is not registered in
# sys.modules, as may be in Azure ML's driver, a dataclass could not look its types up.

import argparse
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn.pipeline import Pipeline

ROW = "row"  # the column that prep numbers rows by where there is no key
# The types of a model's signature in Arrow.
TYPES = {"double": pa.float64(), "datetime": pa.timestamp("us"), "string": pa.string()}
WORDS = dict(zip(TYPES.values(), ("numbers", "dates", "text"), strict=True))
NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
DATE = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+)?\s*$"


class ScoringError(Exception):
    """A part cannot be scored; the message says why, and names the column at fault."""


@dataclass
class Scorer:
    """What a worker keeps from one mini-batch to the next."""

    model: Pipeline
    columns: dict[str, pa.DataType]
    keys: Sequence[str]
    predictions: Path


scorer: Scorer


def init() -> None:
    """Load the registered model, once in each worker."""
    # The driver adds options of its own, such as --model: no abbreviation of ours.
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-version", required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--keys", nargs="*", default=[])
    # The rest of the command line is for the ParallelRunStep itself.
    args, _ = parser.parse_known_args()
    global scorer
    folder = download(args.model_name, args.model_version)
    # A copy in a plain place, since MLflow takes a %20 in a path for a blank.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        scorer = Scorer(
            model=mlflow.sklearn.load_model(copy.as_uri()),
            columns=model_columns(str(copy)),
            keys=args.keys or [ROW],
            predictions=args.predictions,
        )
    try:
        args.predictions.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoringError(f"The predictions cannot be written: {error}") from None


def download(name: str, version: str) -> str:
    """The folder with the files of a registered model; `version` may be "latest"."""
    try:
        return str(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) or "No such artifact" in str(error):
            way = (
                "its files are gone: train again with --set register=always, or pin"
                " another version by scoring.model_version"
            )
        else:
            way = "run the training pipeline first, or pin a registered version"
        raise ScoringError(
            f"The model {name}, version {version}, cannot be had: {way}. ({error})"
        ) from None


def model_columns(folder: str) -> dict[str, pa.DataType]:
    """The columns that a saved model was trained with, from its signature."""
    inputs = Model.load(folder).signature.inputs.to_dict()
    return {column["name"]: TYPES[column["type"]] for column in inputs}


def run(mini_batch: list[str]) -> list[str]:
    """Predict each part of a mini-batch; returns the parts' names, one for each."""
    return [score_part(scorer, Path(part)) for part in mini_batch]


def score_part(scorer: Scorer, part: Path) -> str:
    """Write the predictions for one part, whole or not at all; returns its name."""
    table = pq.read_table(part)
    try:
        features = align(table, scorer.columns)
    except ScoringError as error:
        raise ScoringError(f"{part.name}: {error}") from None
    scored = predict(scorer.model, features, table.select(scorer.keys))
    # Written beside and renamed, so that a part tried again is replaced, never torn.
    unfinished = scorer.predictions / f".{part.name}.{uuid.uuid4().hex}"
    try:
        pq.write_table(scored, unfinished)
        os.replace(unfinished, scorer.predictions / part.name)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ScoringError(f"{part.name}: cannot be written: {error}") from None
    return part.name


def align(table: pa.Table, columns: dict[str, pa.DataType]) -> Any:
    """The columns that the model was trained with, in its types, as a pandas table.

    Other columns are left out. A column without a value fits every type; of the other
    types only integers pass as text, as they read the same.
    """
    aligned = {}
    for name, wanted in columns.items():
        if name not in table.column_names:
            raise ScoringError(f"the column '{name}' is missing; the model needs it.")
        values = table[name]
        if values.null_count < len(values) and not _fits(values.type, wanted):
            raise ScoringError(
                f"the column '{name}' holds {_odd(values, wanted)}, where the model needs"
                f" {WORDS[wanted]}: mend the data, or train again."
            )
        aligned[name] = values.cast(wanted, safe=False)
    return pa.table(aligned).to_pandas()


def _fits(dtype: pa.DataType, wanted: pa.DataType) -> bool:
    is_a = pa.types
    if is_a.is_string(wanted):
        tests = [is_a.is_string, is_a.is_large_string, is_a.is_integer]
    elif is_a.is_timestamp(wanted):
        tests = [is_a.is_date, is_a.is_timestamp]
    else:
        tests = [is_a.is_integer, is_a.is_floating, is_a.is_boolean, is_a.is_decimal]
    return any(test(dtype) for test in tests)


def _odd(values: pa.ChunkedArray, wanted: pa.DataType) -> str:
    """The first value that is not of the wanted type, in words."""
    values = values.drop_null()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        # One such value makes a whole column text: it is to be named, not its neighbour.
        form = {"numbers": NUMBER, "dates": DATE}[WORDS[wanted]]
        odd = values.filter(pc.invert(pc.match_substring_regex(values, form)))
        return f"the text {(odd or values)[0].as_py()!r}"
    first = values[0].as_py()
    return f"the {_word(values.type)} {first}"


def _word(dtype: pa.DataType) -> str:
    if pa.types.is_boolean(dtype):
        return "truth value"
    if pa.types.is_temporal(dtype):
        return "date"
    return "value" if pa.types.is_nested(dtype) else "number"


def predict(model: Pipeline, features: Any, keys: pa.Table) -> pa.Table:
    """The keys of each row with its prediction and its probabilities, if any.

    ScoringError if a key has the name of one of these.
    """
    if hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(features)
        found = {"prediction": model.classes_[probabilities.argmax(axis=1)]}
        for name, column in zip(model.classes_, probabilities.T, strict=True):
            found[f"probability_{name}"] = column
    else:
        found = {"prediction": model.predict(features)}
    for name, column in found.items():
        if name in keys.column_names:
            raise ScoringError(
                f"the key '{name}' has the name of a column of the predictions: rename it"
                " in the data and in data.keys."
            )
        keys = keys.append_column(name, pa.array(column))
    return keys
