"""Choose the rows and columns of the prepared data that a model is trained on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from split import DATE, NUMBER, TEXT, Split, TimeSplit, get_column

# Without keys, the predictions have a column of row numbers with this name.
ROW = "row"


class DataError(Exception):
    """No model can be trained on this data. The message gives the reason."""


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide which rows are trained on, and what the columns mean."""

    task: str
    target: str
    keys: Sequence[str] = ()
    #: The rows with the same value in this column are held out together.
    group: str | None = None
    seed: int = 42
    #: The share of the rows to hold out at random.
    test_fraction: float = 0.2
    #: The column of dates and the first date to hold out. If they are set, `test_fraction`
    #: is not used.
    holdout_column: str | None = None
    holdout_from: str | None = None
    #: "random" if the user has chosen to hold out rows at random although they have dates.
    holdout_by: str | None = None


# The table


def read_training_table(
    prepared: Path, *, target: str, keys: Sequence[str], task: str
) -> pl.DataFrame:
    """Return the prepared rows, with the target as classes or as numbers.

    Raises DataError if there are no rows, if no model can learn the target, or if the name
    of a column is reserved for the predictions.
    """
    parts = sorted(prepared.glob("*.parquet"))
    if not parts:
        raise DataError(
            f"There is no Parquet file in {prepared}, so there are no rows to learn from."
        )
    # Without `glob=False`, polars would read an asterisk in a name as a pattern.
    table = pl.read_parquet(parts, glob=False)
    prepared_target = prepare_target(get_column(table, target), target, task)

    prediction_columns = {"prediction"}
    if task == "classification":
        classes = prepared_target.unique()
        prediction_columns |= {f"probability_{label}" for label in classes}
    _check_column_names(table, keys, prediction_columns)
    return table.with_columns(prepared_target.alias(target))


def _check_column_names(
    table: pl.DataFrame, keys: Sequence[str], prediction_columns: set[str]
) -> None:
    """Raise DataError if the predictions would have two columns of the same name.

    The step `score` writes the keys and the `prediction_columns` into one table, so their
    names must differ. Without keys, it numbers the rows in the column ROW, so the data must
    not have a column of this name.
    """
    for key in keys:
        if key in prediction_columns:
            raise DataError(
                f"The key '{key}' has the same name as a column that holds predictions."
                " Rename it in the data and in data.keys."
            )
    if not keys and ROW in table.columns:
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions, so it"
            " cannot be a feature. Rename the column, or list it under data.keys or"
            " data.ignore in settings.yml."
        )


def prepare_target(values: pl.Series, name: str, task: str) -> pl.Series:
    """Return the target in the type that the task needs.

    The result has floats for a regression, and text, integers or booleans for a
    classification. `name` is the name of the target, for messages. Raises DataError if no
    model can learn the target.
    """
    if task == "regression":
        values = _prepare_numbers(values, name)
    else:
        values = _prepare_classes(values, name)

    rows = len(values)
    distinct_values = values.n_unique()
    if distinct_values < 2:
        raise DataError(
            f"The target '{name}' has the same value, {values[0]!r}, in all {rows} rows, so"
            " there is nothing to learn."
        )
    if task == "classification" and distinct_values > rows / 2:
        raise DataError(
            f"The target '{name}' has {distinct_values} classes in {rows} rows, which are"
            " fewer than two rows per class on average. Choose another target, or set task"
            " to regression in settings.yml."
        )
    return values


def _prepare_numbers(values: pl.Series, name: str) -> pl.Series:
    """Return the target of a regression as floats. Booleans become 1.0 and 0.0.

    Raises DataError if the target holds text or dates, or if a number is not finite.
    """
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        raise DataError(
            f"A regression needs numbers, but the target '{name}' holds"
            f" {str(values[0])!r}. If this is a number in a local format, such as 1.234,5,"
            " see the note that the step prep has printed: it names the setting to change."
            " Otherwise, convert the target to numbers, choose another target, or set task"
            " to classification in settings.yml. Then run the pipeline again."
        )
    values = values.cast(NUMBER)
    if not values.is_finite().all():
        raise DataError(
            f"The target '{name}' holds infinite values, which no model can learn."
            " Correct them in the data."
        )
    return values


def _prepare_classes(values: pl.Series, name: str) -> pl.Series:
    """Return the target of a classification as text, integers or booleans.

    Dates become text. Floats become integers: 1.0 is the class 1. Raises DataError if a
    number is infinite or not whole.
    """
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        return values.cast(TEXT)
    if not values.dtype.is_float():
        return values
    # This also finds infinite values: inf % 1 is NaN, which differs from 0.
    not_whole = values.filter(values % 1 != 0)
    if len(not_whole):
        raise DataError(
            f"A classification needs classes, but the target '{name}' holds numbers that"
            f" are not whole, such as {not_whole[0]}. Choose another target, or set task to"
            " regression in settings.yml."
        )
    return values.cast(pl.Int64)


def drop_repeated_rows(
    table: pl.DataFrame, keys: Sequence[str]
) -> tuple[pl.DataFrame, list[str]]:
    """Return the table with each record only once, and notes on repeated rows.

    If the keys identify records, two rows that are equal in every column are the same
    record, which was probably delivered twice. So the second row is dropped.

    Nothing is dropped if there are no keys, or if different rows have the same keys, so
    that the keys do not identify records. Nothing is dropped either if fewer than half of
    the rows would remain, because so many repeats are hardly mistakes.
    """
    if not keys:
        return table, []
    rows = len(table)
    distinct_keys = table[list(keys)].n_unique()
    if distinct_keys == rows:
        return table, []

    distinct_rows = table.unique(maintain_order=True)
    different_rows_share_keys = distinct_keys < len(distinct_rows)
    most_rows_repeat = len(distinct_rows) < rows / 2
    if different_rows_share_keys or most_rows_repeat:
        note = (
            f"the keys ({', '.join(keys)}) do not identify rows: {rows} rows have only"
            f" {distinct_keys} different keys. Unless data.group is set, or rows are held"
            " out by date, rows with the same keys stay together: all of them are trained"
            " on, or all are held out."
        )
        return table, [note]

    repeated = rows - len(distinct_rows)
    note = (
        f"{repeated} of {rows} rows repeat another row in every column, keys included. They"
        " are left out as records that were delivered twice."
    )
    return distinct_rows, [note]


# The rule by which rows are held out


def choose_split(table: pl.DataFrame, settings: RowSettings) -> Split | TimeSplit:
    """Return the rule by which rows are held out: by date, or at random.

    In a classification, a random split holds out rows of every class, if that is possible.
    Raises DataError if a column that data.group or training.holdout names cannot be used.
    """
    group_columns = _choose_group_columns(table, settings)
    date_column = settings.holdout_column
    start = settings.holdout_from
    if date_column is not None and start is not None:
        _check_date_column(table, date_column)
        return TimeSplit(group_columns, settings.seed, date_column, start)

    split = Split(group_columns, settings.seed, settings.test_fraction)
    if settings.task == "classification":
        return divide_rare_classes(split, table, settings.target)
    return split


def _choose_group_columns(table: pl.DataFrame, settings: RowSettings) -> list[str]:
    """Return the columns that define the groups: rows that are equal in them stay together.

    The groups are defined by the column that data.group names. Without data.group, they are
    defined by the keys, and without keys, by all columns except the target.

    Raises DataError if the column that data.group names does not exist.
    """
    group = settings.group
    if group is not None:
        if group not in table.columns:
            raise DataError(
                f"data.group names the column '{group}', which does not exist. Correct the"
                " name or, if the column is listed under data.ignore in settings.yml,"
                f" remove it there.{_suggest_similar_name(group, table.columns)}"
            )
        return [group]
    if settings.keys:
        return list(settings.keys)
    return [name for name in table.columns if name != settings.target]


def _check_date_column(table: pl.DataFrame, name: str) -> None:
    """Raise DataError if the column of training.holdout is missing, or holds no dates."""
    if name not in table.columns:
        raise DataError(
            f"training.holdout names the column '{name}', which does not exist. Correct the"
            " name or, if the column is listed under data.ignore in settings.yml, remove it"
            f" there.{_suggest_similar_name(name, table.columns)}"
        )
    values = get_column(table, name)
    if not values.dtype.is_temporal():
        # Prep reads the columns of data.keys as text, even if they hold dates.
        raise DataError(
            f"training.holdout names the column '{name}', which holds"
            f" {str(values.drop_nulls().first())!r} and not dates. Name another column,"
            " remove this one from data.keys, or set data.date_format in settings.yml."
        )


def _suggest_similar_name(name: str, columns: Sequence[str]) -> str:
    """Return a question such as " Did you mean 'age'?", or "" if no column is similar."""
    column_by_folded_name = {column.casefold(): column for column in columns}
    similar = difflib.get_close_matches(name.casefold(), column_by_folded_name, n=1)
    if not similar:
        return ""
    return f" Did you mean '{column_by_folded_name[similar[0]]}'?"


def divide_rare_classes(split: Split, table: pl.DataFrame, target: str) -> Split:
    """Return the split, changed so that each class has training rows and held-out rows.

    Rows that are held out together form a group. `split` gives each group a position from 0
    to 1, and holds it out if the position is below its fraction. If all groups of a rare
    class are held out, or none of them, the class gets a fraction of its own, which moves
    one group to the other side. A class with a single group cannot be divided, so nothing
    changes for it.

    If the rows of a group are of several classes, `split` is returned unchanged, because
    different fractions for the classes would divide the group.
    """
    classes = get_column(table, target).cast(TEXT)
    groups = pl.DataFrame(
        {"position": split.positions(table), "class": classes}
    ).unique()
    has_mixed_groups = groups["position"].n_unique() < len(groups)
    if has_mixed_groups:
        return split

    class_fractions = {}
    for (label,), groups_of_class in groups.sort("position").group_by("class"):
        positions = groups_of_class["position"].to_list()
        class_fraction = _choose_class_fraction(positions, split.fraction)
        if class_fraction != split.fraction:
            class_fractions[str(label)] = class_fraction
    return replace(split, target=target, class_fractions=class_fractions)


def _choose_class_fraction(positions: Sequence[float], fraction: float) -> float:
    """Return a fraction that holds out some groups of a class, but not all of them.

    `positions` has the position of each group of the class, in ascending order. A group is
    held out if its position is below the fraction. For example, the fraction 0.2 would hold
    out none of the groups at 0.3, 0.5 and 0.9. The fraction 0.4 holds out the first group.

    Returns `fraction` itself if it already divides the groups, or if there is only one
    group.
    """
    if len(positions) < 2:
        return fraction
    is_none_held_out = positions[0] >= fraction
    if is_none_held_out:
        return (positions[0] + positions[1]) / 2
    are_all_held_out = positions[-1] < fraction
    if are_all_held_out:
        return (positions[-2] + positions[-1]) / 2
    return fraction


# Training rows and held-out rows


@dataclass(frozen=True)
class DividedRows:
    """The rows to train on, and the held-out rows."""

    training: pl.DataFrame
    holdout: pl.DataFrame


def divide_rows(
    table: pl.DataFrame,
    split: Split | TimeSplit,
    target: str,
    keys: Sequence[str],
    group: str | None = None,
) -> DividedRows:
    """Divide the rows into those to train on and those to hold out.

    `keys` and `group` are the columns of data.keys and data.group, for messages.

    Raises DataError if no row is held out, or if the target has fewer than two different
    values in the rows to train on.
    """
    is_held_out = split.held_out(table)
    training = table.filter(~is_held_out)
    holdout = table.filter(is_held_out)

    if holdout.is_empty():
        raise DataError(
            f"None of the {_count_rows_and_groups(table, split, keys, group)} is held out"
            f" for the evaluation. {_advise_larger_holdout(split)}"
        )
    if get_column(training, target).n_unique() < 2:
        raise DataError(
            f"{len(holdout)} of the {_count_rows_and_groups(table, split, keys, group)} are"
            " held out. The other rows have fewer than two different values of the target"
            f" '{target}', so there is nothing to learn. {_advise_smaller_holdout(split)}"
        )
    return DividedRows(training, holdout)


def _count_rows_and_groups(
    table: pl.DataFrame,
    split: Split | TimeSplit,
    keys: Sequence[str],
    group: str | None,
) -> str:
    """Return a text such as "60 rows (3 different keys)", or "60 rows" without any keys."""
    rows = f"{len(table)} rows"
    if not keys and not group:
        return rows
    return f"{rows} ({count_groups(table, split)} {name_groups(keys, group)})"


def count_groups(table: pl.DataFrame, split: Split | TimeSplit) -> int:
    """Return the number of groups that the rows of a table belong to."""
    return len(np.unique(split.groups(table)))


def name_groups(keys: Sequence[str], group: str | None) -> str:
    """Return what groups are called in messages, such as "different keys"."""
    if group:
        return f"different values of '{group}'"
    if keys:
        return "different keys"
    return "different rows"


def _advise_larger_holdout(split: Split | TimeSplit) -> str:
    """Return a sentence on which setting holds out more rows."""
    if isinstance(split, TimeSplit):
        return (
            f"In settings.yml, choose an earlier date than {split.start} for"
            " training.holdout.from."
        )
    return (
        f"In settings.yml, raise training.test_fraction, which is {split.fraction:g}, or"
        " choose another training.seed."
    )


def _advise_smaller_holdout(split: Split | TimeSplit) -> str:
    """Return a sentence on which setting holds out fewer rows."""
    if isinstance(split, TimeSplit):
        return (
            f"In settings.yml, choose a later date than {split.start} for"
            " training.holdout.from."
        )
    return (
        f"In settings.yml, lower training.test_fraction, which is {split.fraction:g}, or"
        " choose another training.seed."
    )


# Features


def list_excluded_columns(settings: RowSettings) -> list[str]:
    """Return the columns that are not features: the target, the keys and the group."""
    excluded = [settings.target, *settings.keys]
    if settings.group is not None:
        excluded.append(settings.group)
    return excluded


def select_features(table: pl.DataFrame, excluded: Sequence[str]) -> pd.DataFrame:
    """Return the features: all columns that have values and are not excluded.

    Numbers and booleans become floats, and dates become timestamps. Text is not changed.
    Raises DataError if there are no features.
    """
    features = {}
    for name in table.columns:
        values = get_column(table, name)
        is_empty = values.null_count() == len(values)
        if name in excluded or is_empty:
            continue
        if values.dtype == TEXT:
            features[name] = values
        elif values.dtype.is_temporal():
            features[name] = values.cast(DATE)
        else:
            features[name] = values.cast(NUMBER)
    if not features:
        raise DataError(
            "No column is left to learn from, because each one is empty or ignored, or is"
            " the target, a key or the group. List fewer columns under data.ignore or"
            " data.keys in settings.yml."
        )
    return pl.DataFrame(features).to_pandas()
