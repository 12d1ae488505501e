"""Predict prepared Parquet parts: the entry script of the ParallelRunStep.

Each part's predictions are a Parquet file of the same name, with the key columns (or
`row`), `prediction`, and for a classification one `probability_<class>` a class.
"""

# Without `from __future__ import annotations`: where the module is not registered in
# sys.modules, as may be in Azure ML's driver, a dataclass could not look its types up.

import argparse
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn.pipeline import Pipeline

ROW = "row"  # the column that prep numbers rows by where there is no key
# The types of a model's signature in Arrow.
TYPES = {"double": pa.float64(), "datetime": pa.timestamp("us"), "string": pa.string()}


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
    uri = f"models:/{args.model_name}/{args.model_version}"
    try:
        folder = mlflow.artifacts.download_artifacts(uri)
    except MlflowException as error:
        raise ScoringError(
            f"The model {args.model_name}, version {args.model_version}, cannot be had:"
            f" run the training pipeline first, or pin a registered version. ({error})"
        ) from None
    scorer = Scorer(
        # As a URI, since MLflow takes a %20 in a path for a blank.
        model=mlflow.sklearn.load_model(Path(folder).absolute().as_uri()),
        columns=model_columns(folder),
        keys=args.keys or [ROW],
        predictions=args.predictions,
    )
    args.predictions.mkdir(parents=True, exist_ok=True)


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
    pq.write_table(scored, unfinished)
    os.replace(unfinished, scorer.predictions / part.name)
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
                f"the column '{name}' holds {values.type}"
                f" ({values.drop_null()[0].as_py()!r}), where the model needs {wanted}."
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
        tests = [is_a.is_integer, is_a.is_floating, is_a.is_boolean]
    return any(test(dtype) for test in tests)


def predict(model: Pipeline, features: Any, keys: pa.Table) -> pa.Table:
    """The keys of each row with its prediction and its probabilities, if any."""
    if not hasattr(model, "predict_proba"):
        return keys.append_column("prediction", pa.array(model.predict(features)))
    probabilities = model.predict_proba(features)
    best = model.classes_[probabilities.argmax(axis=1)]
    table = keys.append_column("prediction", pa.array(best))
    for i, name in enumerate(model.classes_):
        table = table.append_column(
            f"probability_{name}", pa.array(probabilities[:, i])
        )
    return table
