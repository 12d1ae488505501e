"""Train a model on prepared data, and hold some rows out for its evaluation.

Gradient-boosted trees that take a table as it is: numbers, categories, booleans, dates
and missing values. Whatever is learned from the data is part of the saved model.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

MOST_CATEGORIES = 254  # of a column: the trees' 255 bins, less one for missing values
RARE = 5  # a category with fewer rows is put together with the other rare ones
REQUIREMENTS = ("cloudpickle", "mlflow", "numpy", "pandas", "scikit-learn")


class DataError(Exception):
    """No model can be trained on this data; the message says why."""


def read(
    prepared: Path, target: str, keys: Sequence[str]
) -> tuple[pd.DataFrame, pd.Series]:
    """The features and the target of the prepared parts.

    A feature is of float (numbers and booleans), datetime or text; one without any
    value is left out. Where keys tell rows apart, a row that repeats another in every
    column is the same record delivered twice, and counts once.
    """
    table = ds.dataset(prepared, format="parquet").to_table()
    fields = [
        field if field.name == target else field.with_type(_feature_type(field.type))
        for field in table.schema
    ]
    frame = table.cast(pa.schema(fields), safe=False).to_pandas()
    if keys:
        frame = frame.drop_duplicates(ignore_index=True)
    features = frame.drop(columns=[target, *keys]).dropna(axis="columns", how="all")
    if features.empty:
        raise DataError("No column is left to learn from: see data.* in settings.yml.")
    return features, frame[target]


def _feature_type(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(dtype):
        return pa.timestamp("us")
    is_text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    return pa.string() if is_text else pa.float64()


def check_target(target: pd.Series, task: str) -> None:
    """DataError if the target cannot be predicted as a class or as a number."""
    if task == "regression" and not pd.api.types.is_numeric_dtype(target):
        raise DataError(
            f"The target '{target.name}' holds {target.iloc[0]!r}, not numbers:"
            " name another, or set task to classification in settings.yml."
        )
    if task == "classification" and pd.api.types.is_float_dtype(target):
        raise DataError(
            f"The target '{target.name}' holds fractions such as {target.iloc[0]}, not"
            " classes: name another, or set task to regression in settings.yml."
        )
    if target.nunique() < 2:
        kind = "class" if task == "classification" else "value"
        raise DataError(
            f"The target '{target.name}' has one {kind}, {target.iloc[0]!r}, in all"
            f" {len(target)} rows: there is nothing to learn."
        )


def split(
    features: pd.DataFrame, target: pd.Series, task: str, fraction: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]:
    """Features to train on and to hold out, and the target of both.

    The held-out `fraction` has the classes in proportion. A class with one row can only
    be trained on, and tables with fewer held-out rows than classes are not stratified.
    """
    if task == "regression":
        parts = train_test_split(
            features, target, test_size=fraction, random_state=seed
        )
        return tuple(parts)
    single = target.map(target.value_counts()) == 1
    rest = target[~single]
    stratify = rest if fraction * len(rest) >= rest.nunique() else None
    train, test = train_test_split(
        rest.index, test_size=fraction, random_state=seed, stratify=stratify
    )
    train = train.append(target.index[single])
    return features.loc[train], features.loc[test], target[train], target[test]


def build_model(
    features: pd.DataFrame,
    task: str,
    seed: int,
    learning_rate: float,
    max_iterations: int,
) -> Pipeline:
    """An untrained pipeline for features of float, datetime and text."""
    numbers = list(features.select_dtypes("number").columns)
    dates = list(features.select_dtypes("datetime").columns)
    categories = list(features.select_dtypes("object").columns)
    encode = ColumnTransformer(
        [
            # Categories first: the trees are told of them by position.
            (
                "categories",
                OrdinalEncoder(
                    handle_unknown="use_encoded_value",
                    unknown_value=np.nan,  # an unseen category counts as missing
                    min_frequency=RARE,
                    max_categories=MOST_CATEGORIES,
                ),
                categories,
            ),
            ("numbers", "passthrough", numbers),
            ("dates", FunctionTransformer(date_parts), dates),
        ]
    )
    trees = {
        "classification": HistGradientBoostingClassifier,
        "regression": HistGradientBoostingRegressor,
    }
    boost = trees[task](
        learning_rate=learning_rate,
        max_iter=max_iterations,
        categorical_features=range(len(categories)) if categories else None,
        random_state=seed,
    )
    return Pipeline([("encode", encode), ("boost", boost)])


def fit(model: Pipeline, features: pd.DataFrame, target: pd.Series) -> Pipeline:
    """The pipeline, trained."""
    is_classifier = isinstance(model["boost"], HistGradientBoostingClassifier)
    if is_classifier and target.value_counts().min() < 2:
        # Stopping early holds rows of every class out once more.
        model.set_params(boost__early_stopping=False)
    return model.fit(features, target)


def date_parts(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Day since 1970 (with its fraction), month and day of the week, for each column."""
    parts = []
    for name in dates:
        column = dates[name]
        days = (column - pd.Timestamp(0)) / pd.Timedelta(days=1)
        parts += [days, column.dt.month, column.dt.dayofweek]
    return np.column_stack(parts)


def signature(features: pd.DataFrame) -> ModelSignature:
    """The columns that the model asks for, by which batch scoring checks its data."""
    types = {"f": "double", "M": "datetime", "O": "string"}
    return ModelSignature(
        Schema(
            [
                ColSpec(types[dtype.kind], str(name), required=False)
                for name, dtype in features.dtypes.items()
            ]
        )
    )


def save(model: Pipeline, features: pd.DataFrame, folder: Path) -> None:
    """Save a trained pipeline as an MLflow model."""
    # cloudpickle is chosen with open eyes: its models load on Azure ML, whatever they hold.
    logger = logging.getLogger("mlflow.sklearn")
    logger.addFilter(lambda record: "cloudpickle" not in record.getMessage())
    mlflow.sklearn.save_model(
        model,
        folder,
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        signature=signature(features),
    )


def main() -> None:
    """Train as the command line says; parameters and metrics go to MLflow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument(
        "--task", choices=["classification", "regression"], required=True
    )
    parser.add_argument("--target", required=True)
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--test-fraction", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--max-iterations", type=int, default=200)
    args = parser.parse_args()
    try:
        features, target = read(args.prepared, args.target, args.keys)
        check_target(target, args.task)
        x, x_holdout, y, y_holdout = split(
            features, target, args.task, args.test_fraction, args.seed
        )
    except DataError as error:
        sys.exit(f"train: {error}")
    model = build_model(
        x, args.task, args.seed, args.learning_rate, args.max_iterations
    )
    fit(model, x, y)
    with mlflow.start_run():
        names = ("task", "target", "test_fraction", "seed", "learning_rate")
        mlflow.log_params({name: getattr(args, name) for name in names})
        mlflow.log_param("max_iterations", args.max_iterations)
        metrics = {
            "features": x.shape[1],
            "training_rows": len(x),
            "holdout_rows": len(x_holdout),
            "iterations": model["boost"].n_iter_,
            "training_score": model.score(x, y),
        }
        mlflow.log_metrics(metrics)
    save(model, x, args.model)
    args.holdout.mkdir(parents=True, exist_ok=True)
    x_holdout.assign(**{args.target: y_holdout}).to_parquet(
        args.holdout / "holdout.parquet", index=False
    )
    print(
        f"{len(x)} rows with {x.shape[1]} features trained on, {len(x_holdout)} held out"
    )


if __name__ == "__main__":
    main()
