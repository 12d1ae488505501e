"""Train a model on prepared data, and hold some rows out for its evaluation.

Gradient-boosted trees that take a table as it is. Whatever is learned from the data is
part of the saved model, and so is what it predicts and which rows it has never seen.
"""

from __future__ import annotations

import argparse
import ast
import logging
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from mlflow.types import ColSpec, Schema
from sklearn import ensemble
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder
from split import DATE, NUMBER, TEXT, Split, column

SCORED = 10_000  # rows, about, that the score on the training rows is taken from
FEW = 30  # held-out rows: with fewer, evaluate compares no models
ROW = "row"  # numbers the rows to score where there are no keys
REQUIREMENTS = ("cloudpickle", "mlflow", "numpy", "pandas", "polars", "scikit-learn")


class DataError(Exception):
    """No model can be trained on this data; the message says why."""


def build_model(
    features: pd.DataFrame, task: str, seed: int, max_iterations: int = 200, **more: Any
) -> Pipeline:
    """An untrained pipeline for features that are numbers, dates and texts.

    `max_iterations` and all other hyperparameters are what `training.hyperparameters`
    in settings.yml names: those of scikit-learn's HistGradientBoosting models.
    """
    numbers = list(features.select_dtypes("number"))
    dates = list(features.select_dtypes("datetime"))
    texts = list(features.select_dtypes("object"))
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,  # an unseen category counts as missing
        min_frequency=5,  # rarer ones are put together
        max_categories=254,  # the trees' 255 bins, less one for missing values
    )
    columns = [
        ("categories", categories, texts),  # first: the trees know them by position
        ("numbers", "passthrough", numbers),
        ("dates", FunctionTransformer(date_parts), dates),
    ]
    trees = {
        "classification": ensemble.HistGradientBoostingClassifier,
        "regression": ensemble.HistGradientBoostingRegressor,
    }
    # Stopping early holds rows out once more, which a class of one row does not survive.
    more = {"max_iter": max_iterations, "early_stopping": False, **more}
    model = trees[task](
        categorical_features=range(len(texts)), random_state=seed, **more
    )
    return Pipeline([("encode", ColumnTransformer(columns)), ("model", model)])


def date_parts(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Day since 1970 (with its fraction), month and day of the week, for each column."""
    parts = []
    for name in dates:
        column = dates[name]
        # In microseconds, as nanoseconds end in the year 2262.
        times = column.to_numpy("datetime64[us]").astype("timedelta64[us]")
        days = times / np.timedelta64(1, "D")
        parts += [days, column.dt.month, column.dt.dayofweek]
    return np.column_stack(parts)


def train(args: argparse.Namespace) -> None:
    """Train as the command line says; parameters and metrics go to MLflow."""
    table = read(args.prepared, args.target, args.keys, args.task)
    table, notes = drop_repeats(table, args.keys)
    others = [name for name in table.columns if name != args.target]
    split = Split(args.keys or others, args.seed, args.test_fraction)
    training, holdout, more = divide(table, split, args.target, args.keys)
    for note in notes + more:
        print("note:", note)

    x = feature_table(training, [args.target, *args.keys])
    y = training[args.target].to_pandas()
    rows, features = x.shape
    del table, training  # whose memory the fit needs
    hyperparameters = options(args.hyperparameters)
    try:
        model = build_model(x, args.task, args.seed, **hyperparameters)
        every = slice(None, None, -(-rows // SCORED))
        score = model.fit(x, y).score(x[every], y[every])
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}") from None  # scikit-learn's and Python's words
    with mlflow.start_run():
        names = ("task", "target", "test_fraction", "seed")
        mlflow.log_params({name: getattr(args, name) for name in names})
        mlflow.log_params(hyperparameters)
        mlflow.log_metrics({"features": features, "training_rows": rows})
        mlflow.log_metrics({"holdout_rows": len(holdout), "training_score": score})
    about = {"task": args.task, "target": args.target, "split": split}
    save(model, x, about, args.model)
    args.holdout.mkdir(parents=True, exist_ok=True)
    holdout.write_parquet(args.holdout / "holdout.parquet")
    print(f"{rows} rows with {features} features trained on, {len(holdout)} held out")


def read(prepared: Path, target: str, keys: list[str], task: str) -> pl.DataFrame:
    """The prepared rows, with the target as classes or numbers.

    DataError if it cannot be learned, or a name is that of a column of the predictions.
    """
    table = pl.read_parquet(sorted(prepared.glob("*.parquet")), glob=False)
    try:
        learned = learnable(column(table, target), task)
    except DataError as error:
        raise DataError(f"The target '{target}' {error}") from None
    taken = {"prediction"}
    if task == "classification":
        taken |= {f"probability_{name}" for name in learned.unique()}
    for name in taken.intersection(keys):
        what = f"The key '{name}' has the name of a column of the predictions"
        raise DataError(f"{what}: rename it in the data and in data.keys.")
    if not keys and ROW in table.columns:
        what = f"The column '{ROW}' has the name of the row numbers in the predictions"
        way = "list it under data.keys or data.ignore in settings.yml."
        raise DataError(f"{what}: {way}")
    return table.with_columns(learned.alias(target))


def learnable(target: pl.Series, task: str) -> pl.Series:
    """The target as text, integers or booleans (classes), or as floats (regression).

    DataError if it cannot be learned: what is wrong with it, to be read after its name.
    """
    is_number = target.dtype.is_numeric() or target.dtype == pl.Boolean
    way = "name another, or set task to regression in settings.yml."
    if task == "regression" and not is_number:
        way = f"make it numbers, {way.replace('regression', 'classification')}"
        raise DataError(f"holds {str(target[0])!r}, not numbers: {way}")
    if task == "regression":
        target = target.cast(NUMBER)
        if not target.is_finite().all():
            raise DataError("holds infinite values: no model can learn them.")
    elif not is_number:
        target = target.cast(TEXT)  # dates too, as they are written
    elif target.dtype.is_float():
        odd = target.filter(target % 1 != 0)  # which infinity is, too
        if len(odd):
            raise DataError(f"holds fractions such as {odd[0]}, not classes: {way}")
        target = target.cast(pl.Int64)
    rows, different = len(target), target.n_unique()
    if different < 2:
        what = "class" if task == "classification" else "value"
        what = f"has one {what}, {target[0]!r}, in all {rows} rows"
        raise DataError(f"{what}: there is nothing to learn.")
    if task == "classification" and different > rows / 2:
        what = f"has {different} classes in {rows} rows, hardly two rows of one"
        raise DataError(f"{what}: {way}")
    return target


def drop_repeats(
    table: pl.DataFrame, keys: list[str]
) -> tuple[pl.DataFrame, list[str]]:
    """The table without records delivered twice, and notes on repeated rows and keys.

    Rows equal in every column are certainly one record only if the keys tell all others
    apart, and no more than half are lost. Without keys nothing is dropped.
    """
    rows, different = len(table), table[keys].n_unique() if keys else 0
    if not keys or different == rows:
        return table, []
    once = table.unique(maintain_order=True)
    if different < len(once) or len(once) < rows / 2:
        note = f"the keys ({', '.join(keys)}) do not tell rows apart: {rows} rows have"
        note += f" {different} different keys. Rows of one key are trained on or held"
        return table, [f"{note} out together."]
    note = f"{rows - len(once)} of {rows} rows repeat another in every column, keys"
    note += " included, and are left out as records delivered twice."
    return once, [note] if len(once) < rows else []


def divide(
    table: pl.DataFrame, split: Split, target: str, keys: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The rows to train on, those to hold out, and notes on what is odd about them.

    DataError if there is nothing to learn in the first, or no row in the others.
    """
    is_held_out = split.held_out(table)
    training, holdout = table.filter(~is_held_out), table.filter(is_held_out)
    learned, asked = (column(one, target).unique() for one in (training, holdout))
    different = len(np.unique(split.groups(table)))
    some = f"{len(holdout) or 'None'} of the {len(table)} rows"
    some += f", with {different} keys," if keys else ""
    way = f"training.test_fraction (it is {split.fraction:g}), or choose another"
    way += " training.seed in settings.yml."
    if not len(holdout):
        raise DataError(f"{some} is held out for the evaluation: raise {way}")
    if len(learned) < 2:
        left = f"only {learned[0]}" if len(learned) else "nothing"
        what = f"{some} are held out, and {left} is left to learn in '{target}'"
        raise DataError(f"{what}: lower {way}")
    notes = []
    share = len(holdout) / len(table)
    if len(holdout) < FEW:
        note = f"fewer than {FEW} rows are held out ({len(holdout)}): the figures say"
        why = "little, and later models cannot be compared with this one."
        notes.append(f"{note} {why}")
    elif abs(share - split.fraction) > split.fraction / 4:
        count = f"{different} different ones" if keys else f"{len(table)}"
        note = f"{share:.0%} of the rows are held out, not {split.fraction:.0%}, as"
        notes.append(f"{note} there are only {count} and equal rows stay together.")
    new = [] if learned.dtype == NUMBER else sorted(set(asked) - set(learned))
    if new:
        names = ", ".join(map(str, new[:5])) + (", …" if len(new) > 5 else "")
        note = "classes only in held-out rows, which the model does not know"
        notes.append(f"{note}: {len(new)} ({names}).")
    return training, holdout, notes


def feature_table(table: pl.DataFrame, but: list[str]) -> pd.DataFrame:
    """The columns to learn from: all with a value, `but` the target and the keys."""
    found = {}
    for name in table.columns:
        values = column(table, name)
        other = DATE if values.dtype.is_temporal() else NUMBER
        if name not in but and values.null_count() < len(values):
            found[name] = values.cast(TEXT if values.dtype == TEXT else other)
    if not found:
        raise DataError("No column is left to learn from: see data.* in settings.yml.")
    return pl.DataFrame(found).to_pandas()


def save(
    model: Pipeline, features: pd.DataFrame, about: dict[str, Any], folder: Path
) -> None:
    """Save a trained pipeline as an MLflow model, whose signature names the features.

    `about` it: `task`, `target` and `split`, by which evaluate knows what it may ask.
    """
    vars(model).update(about)
    words = {"f": "double", "M": "datetime", "O": "string"}  # for NumPy's kinds
    kinds = {name: words[dtype.kind] for name, dtype in features.dtypes.items()}
    schema = Schema([ColSpec(kinds[name], name, required=False) for name in kinds])
    # Saved with this code, and the split's, so that it needs no file of this project.
    for module in (__name__, Split.__module__):
        cloudpickle.register_pickle_by_value(sys.modules[module])
    # cloudpickle is chosen with open eyes: its models load on Azure ML, whatever they hold.
    logger = logging.getLogger("mlflow.sklearn")
    logger.addFilter(lambda record: "cloudpickle" not in record.getMessage())
    mlflow.sklearn.save_model(
        model,
        folder,
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        signature=mlflow.models.ModelSignature(schema),
        metadata={**about, "split": asdict(about["split"])},
    )


def options(pairs: list[str]) -> dict[str, Any]:
    """Hyperparameters of `NAME VALUE NAME VALUE ...`: a value as Python reads it, or text."""
    found: dict[str, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
    for name, text in found.items():
        with suppress(SyntaxError, ValueError):
            found[name] = ast.literal_eval(text)
    return found


def main() -> None:
    """Read the command line, and end with one sentence where no model can be trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    for folder in ("--prepared", "--model", "--holdout"):
        add(folder, type=Path, required=True)
    add("--task", choices=["classification", "regression"], required=True)
    add("--target", required=True)
    add("--keys", nargs="*", default=[])
    add("--test-fraction", type=float, default=0.2)
    add("--seed", type=int, default=42)
    # The last one, as it takes all that follows: a value may begin with a hyphen.
    add("--hyperparameters", nargs=argparse.REMAINDER, default=[])
    try:
        train(parser.parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
