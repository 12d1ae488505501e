"""Train a model on prepared data, and hold some rows out for its evaluation.

Gradient-boosted trees that take a table as it is: numbers, categories, booleans, dates
and missing values. Whatever is learned from the data is part of the saved model, and so
is what it predicts and which rows it has never seen.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

MOST_CATEGORIES = 254  # of a column: the trees' 255 bins, less one for missing values
RARE = 5  # a category with fewer rows is put together with the other rare ones
FEW = 30  # held-out rows: with fewer, evaluate compares no models
ROW = "row"  # numbers the rows to score where there are no keys
REQUIREMENTS = ("cloudpickle", "mlflow", "numpy", "pandas", "pyarrow", "scikit-learn")


class DataError(Exception):
    """No model can be trained on this data; the message says why."""


def build_model(
    features: pd.DataFrame,
    task: str,
    seed: int,
    max_iterations: int = 200,
    **hyperparameters: Any,
) -> Pipeline:
    """An untrained pipeline for features of float, datetime and text.

    `max_iterations` and all other hyperparameters are what `training.hyperparameters`
    in settings.yml names: those of scikit-learn's HistGradientBoosting models.
    """
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
    # Stopping early holds rows out once more, which a class of one row does not survive.
    options = {"early_stopping": False, **hyperparameters}
    model = trees[task](
        max_iter=max_iterations,
        categorical_features=range(len(categories)) if categories else None,
        random_state=seed,
        **options,
    )
    return Pipeline([("encode", encode), ("model", model)])


def date_parts(dates: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Day since 1970 (with its fraction), month and day of the week, for each column."""
    parts = []
    for name in dates:
        column = dates[name]
        # In microseconds, as nanoseconds end in the year 2262.
        days = column.to_numpy("datetime64[us]").astype("timedelta64[us]")
        parts += [
            days / np.timedelta64(1, "D"),
            column.dt.month,
            column.dt.dayofweek,
        ]
    return np.column_stack(parts)


@dataclass(frozen=True)
class Split:
    """Which rows a model is judged on, and never sees: decided by each row alone.

    A row is told by its values in the columns `by`. Neither its place, nor other rows,
    nor the form of its file counts, nor a column without a value in it; and as a column
    can change its type when data is added, 1, 1.0, true and the text "1" are the same.
    So rows that are equal in `by` are on one side, for good.
    """

    by: list[str]
    seed: int
    fraction: float

    def groups(self, table: pa.Table) -> npt.NDArray[np.uint64]:
        """A number for each row, the same for rows that are equal in `by`.

        Evenly distributed, and the same on every machine. KeyError for a missing column.
        """
        total = np.zeros(len(table), np.uint64)
        for name in self.by:
            column = table[name]
            values = _mix(_bits(column) + np.uint64(_digest(name)))
            total += np.where(column.is_null(nan_is_null=True), np.uint64(0), values)
        return _mix(total + np.uint64(_digest(f"seed {self.seed}")))

    def held_out(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Whether each row is held out: about `fraction` of all different ones."""
        # The 53 bits that a float holds exactly.
        is_below: npt.NDArray[np.bool_] = (
            self.groups(table) >> np.uint64(11)
        ) * 2.0**-53 < self.fraction
        return is_below


def _bits(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits for each value of a column, whatever they are where one is missing."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        coded = pc.dictionary_encode(column.combine_chunks())
        texts = coded.dictionary.to_pylist()
        bits = np.array([*map(_text_bits, texts), 0], np.uint64)
        codes: npt.NDArray[np.int32] = coded.indices.fill_null(len(texts)).to_numpy()
        return bits[codes]
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    as_float = column.cast(pa.float64(), safe=False).fill_null(0)
    numbers: npt.NDArray[np.float64] = as_float.to_numpy()
    bits = (numbers + 0.0).view(np.uint64)  # + 0.0, as -0.0 equals 0.0
    if pa.types.is_integer(column.type):
        # Beyond 2^53, floats are too coarse: what they leave of the integer counts too.
        rounded = np.where(numbers >= 2.0**63, numbers - 2.0**64, numbers)
        exact = column.fill_null(0).to_numpy().astype(np.uint64)
        bits = bits + (exact - rounded.astype(np.int64).astype(np.uint64))
    return bits


def _text_bits(text: str) -> int:
    """The bits of a text: those of the number, boolean or date that it reads as."""
    number: float | None = {"true": 1.0, "false": 0.0}.get(text.lower())
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        whole = int(text)
        rest = whole - int(float(whole))  # beyond 2^53, as above
        return (int(np.float64(whole).view(np.uint64)) + rest) % 2**64
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        number = float(text)
    elif re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?", text):
        with suppress(ValueError):  # the 31st of February
            number = float(np.datetime64(text, "us").astype(np.int64))
    if number is None:
        return _digest(text)
    return int(np.float64(number + 0.0).view(np.uint64))


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scatter numbers: the finaliser of SplitMix64, in which every bit sways all."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def read(prepared: Path, target: str, keys: Sequence[str], task: str) -> pa.Table:
    """The prepared rows, with the target as classes or numbers.

    DataError if it cannot be learned, or a name is that of a column of the predictions.
    """
    table = ds.dataset(prepared, format="parquet").to_table()
    column = _learnable(table[target], target, task)
    taken = {"prediction"}
    if task == "classification":
        taken |= {f"probability_{name}" for name in column.unique().to_pylist()}
    for name in keys:
        if name in taken:
            raise DataError(
                f"The key '{name}' has the name of a column of the predictions: rename"
                " it in the data and in data.keys."
            )
    if not keys and ROW in table.column_names:
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions:"
            " list it under data.keys or data.ignore in settings.yml."
        )
    return table.set_column(table.column_names.index(target), target, column)


def _learnable(target: pa.ChunkedArray, name: str, task: str) -> pa.ChunkedArray:
    """The target as text, integers or booleans (classes), or as floats (regression)."""
    is_text = not (pa.types.is_primitive(target.type)) or pa.types.is_temporal(
        target.type
    )
    first = target[0].as_py()
    if task == "regression":
        if is_text:
            raise DataError(
                f"The target '{name}' holds {str(first)!r}, not numbers: make it numbers,"
                " name another, or set task to classification in settings.yml."
            )
        target = target.cast(pa.float64(), safe=False)
        if not pc.all(pc.is_finite(target)).as_py():
            raise DataError(
                f"The target '{name}' holds infinite values: no model can learn them."
            )
    elif is_text:
        target = target.cast(pa.string())  # dates too, as they are written
    elif pa.types.is_floating(target.type):
        is_whole = pc.equal(target, pc.round(target))
        odd = target.filter(pc.invert(pc.and_(is_whole, pc.is_finite(target))))
        if len(odd):
            raise DataError(
                f"The target '{name}' holds fractions such as {odd[0]}, not classes:"
                " name another, or set task to regression in settings.yml."
            )
        target = target.cast(pa.int64())
    kind = "class" if task == "classification" else "value"
    count = len(target.unique())
    if count < 2:
        raise DataError(
            f"The target '{name}' has one {kind}, {first!r}, in all"
            f" {len(target)} rows: there is nothing to learn."
        )
    if task == "classification" and count > len(target) / 2:
        raise DataError(
            f"The target '{name}' has {count} classes in {len(target)} rows, hardly two"
            " rows of one: name another, or set task to regression in settings.yml."
        )
    return target


def drop_repeats(table: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """The table without records delivered twice, and notes on repeated rows and keys.

    A row that repeats another in every column is dropped only where that is certain to
    be the same record: if the keys then tell all rows apart, and no more than half are
    lost. Without keys nothing is.
    """
    if not keys:
        return table, []
    once = pl.DataFrame(table).unique(maintain_order=True)
    count = pl.DataFrame(table.select(keys)).n_unique()
    repeated = len(table) - len(once)
    if count == len(once) and repeated <= len(table) / 2:
        note = f"{repeated} of {len(table)} rows repeat another in every column, keys"
        note += " included, and are left out as records delivered twice."
        return once.to_arrow(), [note] if repeated else []
    note = (
        f"the keys ({', '.join(keys)}) do not tell rows apart: {len(table)} rows have"
    )
    note += (
        f" {count} different keys. Rows of one key are trained on or held out together."
    )
    return table, [note]


def divide(
    table: pa.Table, split: Split, target: str, keys: Sequence[str]
) -> tuple[pa.Table, pa.Table, list[str]]:
    """The rows to train on, those to hold out, and notes on what they are too few for.

    DataError if there is nothing to learn in the first, or no row in the others.
    """
    is_held_out = split.held_out(table)
    training, holdout = table.filter(~is_held_out), table.filter(is_held_out)
    different = len(np.unique(split.groups(table)))
    rows = f"{different} different ones" if keys else f"{len(table)}"
    of = f"of the {len(table)} rows" + (f", with {different} keys," if keys else "")
    seed = "choose another training.seed in settings.yml"
    if not len(holdout):
        raise DataError(
            f"None {of} is held out for the evaluation: raise training.test_fraction"
            f" (it is {split.fraction:g}), or {seed}."
        )
    learned = training[target].unique()
    if len(learned) < 2:
        what = f"only {learned[0]}" if len(learned) else "nothing"
        raise DataError(
            f"{len(holdout)} {of} are held out, and {what} is left to learn in"
            f" '{target}': lower training.test_fraction (it is {split.fraction:g}), or"
            f" {seed}."
        )
    notes = []
    if len(holdout) < FEW:
        notes.append(
            f"only {len(holdout)} rows are held out: the figures say little, and later"
            " models cannot be compared with this one."
        )
    share = len(holdout) / len(table)
    if len(holdout) >= FEW and abs(share - split.fraction) > split.fraction / 4:
        notes.append(
            f"{share:.0%} of the rows are held out, not {split.fraction:.0%}, as"
            f" there are only {rows} and equal rows stay together."
        )
    if not pa.types.is_floating(training[target].type):
        new = (
            holdout[target]
            .unique()
            .filter(pc.invert(pc.is_in(holdout[target].unique(), value_set=learned)))
        )
        names = ", ".join(map(str, new[:5].to_pylist()))
        if len(new):
            notes.append(
                f"{len(new)} of the classes are only in held-out rows, so that the model"
                f" does not know them: {names}{', …' if len(new) > 5 else ''}."
            )
    return training, holdout, notes


def feature_table(table: pa.Table, but: Sequence[str]) -> pd.DataFrame:
    """The columns to learn from: all with a value, `but` the target and the keys.

    Numbers and booleans as float, dates as datetime, all else as text.
    """
    columns = {
        name: table[name].cast(_feature_type(table[name].type), safe=False)
        for name in table.column_names
        if name not in but and table[name].null_count < len(table)
    }
    if not columns:
        raise DataError("No column is left to learn from: see data.* in settings.yml.")
    return pa.table(columns).to_pandas()


def _feature_type(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(dtype):
        return pa.timestamp("us")
    is_text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    return pa.string() if is_text else pa.float64()


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


def save(
    model: Pipeline, features: pd.DataFrame, about: dict[str, Any], folder: Path
) -> None:
    """Save a trained pipeline as an MLflow model.

    `about` it: `task`, `target` and `split`, by which evaluate knows what it may be
    asked. They are attributes of the pipeline, and stand in the model's metadata.
    """
    vars(model).update(about)
    # The split is saved with its code, so that it needs no file of this project.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # cloudpickle is chosen with open eyes: its models load on Azure ML, whatever they hold.
    logger = logging.getLogger("mlflow.sklearn")
    logger.addFilter(lambda record: "cloudpickle" not in record.getMessage())
    mlflow.sklearn.save_model(
        model,
        folder,
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        signature=signature(features),
        metadata={**about, "split": asdict(about["split"])},
    )


def options(pairs: Sequence[str]) -> dict[str, Any]:
    """Hyperparameters of `NAME VALUE NAME VALUE ...`: a value as Python reads it, or text."""
    found: dict[str, Any] = {}
    for name, text in zip(pairs[::2], pairs[1::2], strict=True):
        try:
            found[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            found[name] = text
    return found


def train(args: argparse.Namespace) -> None:
    """Train as the command line says; parameters and metrics go to MLflow."""
    table = read(args.prepared, args.target, args.keys, args.task)
    table, notes = drop_repeats(table, args.keys)
    others = [name for name in table.column_names if name != args.target]
    split = Split(args.keys or others, args.seed, args.test_fraction)
    training, holdout, more = divide(table, split, args.target, args.keys)
    for note in notes + more:
        print("note:", note)

    x, y = feature_table(training, [args.target, *args.keys]), training[args.target]
    hyperparameters = options(args.hyperparameters)
    try:
        model = build_model(x, args.task, args.seed, **hyperparameters)
        model.fit(x, y.to_pandas())
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}") from None  # scikit-learn's and Python's words
    with mlflow.start_run():
        names = ("task", "target", "test_fraction", "seed")
        mlflow.log_params({name: getattr(args, name) for name in names})
        mlflow.log_params(hyperparameters)
        mlflow.log_metrics(
            {
                "features": x.shape[1],
                "training_rows": len(training),
                "holdout_rows": len(holdout),
                "training_score": model.score(x, y.to_pandas()),
            }
        )
    about = {"task": args.task, "target": args.target, "split": split}
    save(model, x, about, args.model)
    args.holdout.mkdir(parents=True, exist_ok=True)
    pq.write_table(holdout, args.holdout / "holdout.parquet")
    print(
        f"{len(x)} rows with {x.shape[1]} features trained on, {len(holdout)} held out"
    )


def main() -> None:
    """Read the command line, and end with one sentence where no model can be trained."""
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
    # The last one, as it takes all that follows: a value may begin with a hyphen.
    parser.add_argument("--hyperparameters", nargs=argparse.REMAINDER, default=[])
    try:
        train(parser.parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
