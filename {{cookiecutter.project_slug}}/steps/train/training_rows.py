"""The rows and columns to train on: what of the prepared data can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from split import DATE, NUMBER, TEXT, Split, get_column

# With fewer held-out rows, evaluate compares no models.
FEWEST_HELD_OUT = 30
SHOWN_CLASSES = 5  # in a note
ROW = "row"  # numbers the rows to score where there are no keys


class DataError(Exception):
    """No model can be trained on this data; the message says why."""


def read_training_table(
    prepared: Path, *, target: str, keys: Sequence[str], task: str
) -> pl.DataFrame:
    """Return the prepared rows, with the target as classes or as numbers.

    Raises DataError if there are no rows, if the target cannot be learned, or if a key or
    a feature has the name of a column of the predictions.
    """
    parts = sorted(prepared.glob("*.parquet"))
    if not parts:
        raise DataError(
            f"There is no Parquet file in {prepared}, so no row to learn from."
        )
    table = pl.read_parquet(parts, glob=False)
    prepared_target = prepare_target(get_column(table, target), target, task)
    taken_names = {"prediction"}
    if task == "classification":
        taken_names |= {f"probability_{name}" for name in prepared_target.unique()}
    for key in keys:
        if key in taken_names:
            raise DataError(
                f"The key '{key}' has the name of a column of the predictions: rename it"
                " in the data and in data.keys."
            )
    if not keys and ROW in table.columns:
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions:"
            " list it under data.keys or data.ignore in settings.yml."
        )
    return table.with_columns(prepared_target.alias(target))


def prepare_target(values: pl.Series, name: str, task: str) -> pl.Series:
    """Return the target as text, integers or booleans (classes), or as floats (numbers).

    Raises DataError if no model can learn it.
    """
    if task == "regression":
        values = _prepare_numbers(values, name)
    else:
        values = _prepare_classes(values, name)
    rows = len(values)
    different = values.n_unique()
    if different < 2:
        kind = "class" if task == "classification" else "value"
        raise DataError(
            f"The target '{name}' has one {kind}, {values[0]!r}, in all {rows} rows:"
            " there is nothing to learn."
        )
    if task == "classification" and different > rows / 2:
        raise DataError(
            f"The target '{name}' has {different} classes in {rows} rows, hardly two rows"
            " of one: name another, or set task to regression in settings.yml."
        )
    return values


def _prepare_numbers(values: pl.Series, name: str) -> pl.Series:
    """Return the target as floats. Raises DataError if it is text or infinite."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        raise DataError(
            f"The target '{name}' holds {str(values[0])!r}, not numbers: make it numbers,"
            " name another, or set task to classification in settings.yml."
        )
    values = values.cast(NUMBER)
    if not values.is_finite().all():
        raise DataError(
            f"The target '{name}' holds infinite values: no model can learn them."
        )
    return values


def _prepare_classes(values: pl.Series, name: str) -> pl.Series:
    """Return the target as classes. Raises DataError if it is a number with fractions."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        # A date is a class by the way it is written.
        return values.cast(TEXT)
    if not values.dtype.is_float():
        return values
    # inf % 1 is NaN, so infinities count as fractions here.
    fractions = values.filter(values % 1 != 0)
    if len(fractions):
        raise DataError(
            f"The target '{name}' holds fractions such as {fractions[0]}, not classes:"
            " name another, or set task to regression in settings.yml."
        )
    return values.cast(pl.Int64)


def drop_repeated_rows(
    table: pl.DataFrame, keys: Sequence[str]
) -> tuple[pl.DataFrame, list[str]]:
    """Return the table without records that were delivered twice, and notes on them.

    Rows that are equal in every column are certainly one record only if the keys tell all
    other rows apart, and no more than half of the rows are lost. Without keys nothing is
    dropped.
    """
    if not keys:
        return table, []
    rows = len(table)
    different_keys = table[list(keys)].n_unique()
    if different_keys == rows:
        return table, []
    distinct = table.unique(maintain_order=True)
    if different_keys < len(distinct) or len(distinct) < rows / 2:
        note = (
            f"the keys ({', '.join(keys)}) do not tell rows apart: {rows} rows have"
            f" {different_keys} different keys. Rows of one key are trained on or held"
            " out together."
        )
        return table, [note]
    if len(distinct) == rows:
        return distinct, []
    note = (
        f"{rows - len(distinct)} of {rows} rows repeat another in every column, keys"
        " included, and are left out as records delivered twice."
    )
    return distinct, [note]


@dataclass
class DividedRows:
    """The rows to train on, those held out, and notes on what is odd about them."""

    training: pl.DataFrame
    holdout: pl.DataFrame
    notes: list[str]


def divide_rows(
    table: pl.DataFrame, split: Split, target: str, keys: Sequence[str]
) -> DividedRows:
    """Divide the rows by the split.

    Raises DataError if no row is held out, or fewer than two classes are left to learn.
    """
    is_held_out = split.held_out(table)
    training = table.filter(~is_held_out)
    holdout = table.filter(is_held_out)
    rows = len(table)
    groups = len(np.unique(split.groups(table)))
    counted_keys = f", with {groups} keys," if keys else ""
    if holdout.is_empty():
        raise DataError(
            f"None of the {rows} rows{counted_keys} is held out for the evaluation: raise"
            f" training.test_fraction (it is {split.fraction:g}), or choose another"
            " training.seed in settings.yml."
        )
    learned = get_column(training, target).unique()
    if len(learned) < 2:
        left = f"only {learned[0]}" if len(learned) else "nothing"
        raise DataError(
            f"{len(holdout)} of the {rows} rows{counted_keys} are held out, and {left} is"
            f" left to learn in '{target}': lower training.test_fraction (it is"
            f" {split.fraction:g}), or choose another training.seed in settings.yml."
        )
    notes = _note_odd_share(len(holdout), rows, groups, split, has_keys=bool(keys))
    if learned.dtype != NUMBER:
        notes += _note_new_classes(learned, get_column(holdout, target).unique())
    return DividedRows(training, holdout, notes)


def _note_odd_share(
    held_out: int, rows: int, groups: int, split: Split, *, has_keys: bool
) -> list[str]:
    """Return a note if few rows are held out, or a share that is far from the setting."""
    share = held_out / rows
    if held_out < FEWEST_HELD_OUT:
        note = (
            f"fewer than {FEWEST_HELD_OUT} rows are held out ({held_out}): the figures"
            " say little, and later models cannot be compared with this one."
        )
        return [note]
    if abs(share - split.fraction) > split.fraction / 4:
        counted = f"{groups} different keys" if has_keys else f"{rows} rows"
        note = (
            f"{share:.0%} of the rows are held out, not {split.fraction:.0%}, as there"
            f" are only {counted} and equal rows stay together."
        )
        return [note]
    return []


def _note_new_classes(learned: pl.Series, held_out: pl.Series) -> list[str]:
    """Return a note on the classes that only held-out rows have, if there are any."""
    new_classes = sorted(set(held_out) - set(learned))
    if not new_classes:
        return []
    names = ", ".join(str(name) for name in new_classes[:SHOWN_CLASSES])
    if len(new_classes) > SHOWN_CLASSES:
        names += ", …"
    note = (
        "classes only in held-out rows, which the model does not know:"
        f" {len(new_classes)} ({names})."
    )
    return [note]


def select_features(table: pl.DataFrame, excluded: Sequence[str]) -> pd.DataFrame:
    """Return the columns to learn from: all that hold a value, but the excluded ones.

    They are numbers (booleans too), timestamps and texts. Raises DataError if none is
    left.
    """
    features = {}
    for name in table.columns:
        values = get_column(table, name)
        if name in excluded or values.null_count() == len(values):
            continue
        if values.dtype == TEXT:
            features[name] = values
        elif values.dtype.is_temporal():
            features[name] = values.cast(DATE)
        else:
            features[name] = values.cast(NUMBER)
    if not features:
        raise DataError("No column is left to learn from: see data.* in settings.yml.")
    return pl.DataFrame(features).to_pandas()
