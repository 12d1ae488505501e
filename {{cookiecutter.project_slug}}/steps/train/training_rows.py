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

# With fewer held-out rows, the evaluation does not compare models.
FEWEST_HELD_OUT = 30
# A note says so if the classes have fewer rows than this on average.
FEWEST_ROWS_PER_CLASS = 10
# A note names at most this many classes.
SHOWN_CLASSES = 5
# If the data has no keys, this column of the predictions has the numbers of the rows.
ROW = "row"


class DataError(Exception):
    """No model can be trained on this data. The message says why."""


def read_training_table(
    prepared: Path, *, target: str, keys: Sequence[str], task: str
) -> pl.DataFrame:
    """Return the prepared rows, with the target as classes or as numbers.

    Raises DataError if there are no rows, if the target cannot be learned, or if a column
    has a name that the predictions will need for a column of their own, such as
    `prediction`.
    """
    parts = sorted(prepared.glob("*.parquet"))
    if not parts:
        raise DataError(
            f"There is no Parquet file in {prepared}, so there are no rows to learn from."
        )

    table = pl.read_parquet(parts, glob=False)
    prepared_target = prepare_target(get_column(table, target), target, task)

    # Score writes the keys and the predictions into one table, where names are unique.
    prediction_columns = {"prediction"}
    if task == "classification":
        classes = prepared_target.unique()
        prediction_columns |= {f"probability_{name}" for name in classes}
    for key in keys:
        if key in prediction_columns:
            raise DataError(
                f"The key '{key}' has the same name as a column that holds predictions."
                " Rename it in the data and in data.keys."
            )
    if not keys and ROW in table.columns:
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions. List"
            " it under data.keys or data.ignore in settings.yml."
        )
    return table.with_columns(prepared_target.alias(target))


def prepare_target(values: pl.Series, name: str, task: str) -> pl.Series:
    """Return the values of the target in the type that the task needs.

    For a regression these are floats. For a classification they are text, integers or
    booleans. `name` is the target's name, for messages. Raises DataError if no model can
    learn the target.
    """
    if task == "regression":
        values = _prepare_numbers(values, name)
    else:
        values = _prepare_classes(values, name)

    rows = len(values)
    distinct_values = values.n_unique()
    if distinct_values < 2:
        kind = "class" if task == "classification" else "value"
        raise DataError(
            f"The target '{name}' has one {kind}, {values[0]!r}, in all {rows} rows, so"
            " there is nothing to learn."
        )
    if task == "classification" and distinct_values > rows / 2:
        raise DataError(
            f"The target '{name}' has {distinct_values} classes in {rows} rows, which is"
            " less than two rows for each class. Choose another target, or set task to"
            " regression in settings.yml."
        )
    return values


def _prepare_numbers(values: pl.Series, name: str) -> pl.Series:
    """Return the target as floats. Raises DataError if it is text or infinite."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        raise DataError(
            f"A regression needs numbers, but the target '{name}' holds"
            f" {str(values[0])!r}. Convert the target to numbers, choose another target,"
            " or set task to classification in settings.yml."
        )
    values = values.cast(NUMBER)
    if not values.is_finite().all():
        raise DataError(
            f"The target '{name}' holds infinite values, which no model can learn."
            " Correct them in the data."
        )
    return values


def _prepare_classes(values: pl.Series, name: str) -> pl.Series:
    """Return the target as classes. Raises DataError if it is a number with fractions."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        # Dates become classes too, each named by the date as text.
        return values.cast(TEXT)
    if not values.dtype.is_float():
        return values
    # inf % 1 is NaN, which is not 0, so infinities count as fractions here.
    fractions = values.filter(values % 1 != 0)
    if len(fractions):
        raise DataError(
            f"A classification needs classes, but the target '{name}' holds fractions"
            f" such as {fractions[0]}. Choose another target, or set task to regression in"
            " settings.yml."
        )
    return values.cast(pl.Int64)


def drop_repeated_rows(
    table: pl.DataFrame, keys: Sequence[str]
) -> tuple[pl.DataFrame, list[str]]:
    """Return the table without records that were delivered twice, and notes about them.

    Two rows that are equal in every column may be two records that happen to be equal, or
    one record that was delivered twice. They count as one record, and are dropped, only
    if the keys identify records in this table: if no two different rows have the same
    keys, and at least half of the rows remain. Without keys nothing is dropped.
    """
    if not keys:
        return table, []
    rows = len(table)
    different_keys = table[list(keys)].n_unique()
    if different_keys == rows:
        return table, []

    distinct = table.unique(maintain_order=True)
    different_rows_share_keys = different_keys < len(distinct)
    most_rows_repeat = len(distinct) < rows / 2
    if different_rows_share_keys or most_rows_repeat:
        note = (
            f"the keys ({', '.join(keys)}) do not tell rows apart: {rows} rows have"
            f" {different_keys} different keys. Unless data.group is set, rows of one key"
            " are trained on or held out together."
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
    """The rows to train on, the held-out rows, and notes on anything odd about them."""

    training: pl.DataFrame
    holdout: pl.DataFrame
    notes: list[str]


def choose_split(
    table: pl.DataFrame,
    *,
    target: str,
    task: str,
    keys: Sequence[str],
    group: str | None,
    seed: int,
    fraction: float,
    holdout_column: str | None = None,
    holdout_from: str | None = None,
) -> Split | TimeSplit:
    """Return the rule by which rows are held out: from a date on, or at random.

    Rows of one group stay together; without a group, those of the same keys, or else
    equal rows. Raises DataError if the column of the group or of the dates cannot be used.
    """
    if group is not None and group not in table.columns:
        raise DataError(
            f"There is no column '{group}', which data.group names: correct the name, or"
            " take it out of data.ignore in settings.yml."
            f"{_suggest_similar_name(group, table.columns)}"
        )
    by = [group] if group else list(keys)
    by = by or [name for name in table.columns if name != target]
    if holdout_column is None or holdout_from is None:
        split = Split(by, seed, fraction)
        if task == "regression":
            return split
        return divide_rare_classes(split, table, target)

    if holdout_column not in table.columns:
        raise DataError(
            f"There is no column '{holdout_column}', which training.holdout names: correct"
            " the name, or take it out of data.ignore in settings.yml."
            f"{_suggest_similar_name(holdout_column, table.columns)}"
        )
    dates = get_column(table, holdout_column)
    if not dates.dtype.is_temporal():
        raise DataError(
            f"The column '{holdout_column}', which training.holdout names, holds"
            f" {str(dates.drop_nulls().first())!r}, not dates: name another column, take it"
            " out of data.keys, or set data.date_format in settings.yml."
        )
    return TimeSplit(by, seed, holdout_column, holdout_from)


def _suggest_similar_name(name: str, columns: Sequence[str]) -> str:
    """Ask whether the most similar column is meant; return "" if none is similar."""
    by_folded_name = {column.casefold(): column for column in columns}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, n=1)
    if not similar:
        return ""
    return f" Did you mean '{by_folded_name[similar[0]]}'?"


def divide_rare_classes(split: Split, table: pl.DataFrame, target: str) -> Split:
    """Return a rule by which each class has rows on both sides, if it has two groups.

    A class of which no group would be held out, or all of them, gets a fraction of its
    own. If a group has rows of several classes, the split is returned as it is, as such
    fractions would tear the group apart.
    """
    classes = get_column(table, target).cast(TEXT)
    rows = pl.DataFrame({"position": split.positions(table), "class": classes}).unique()
    if rows["position"].n_unique() < len(rows):
        return split
    class_fractions = {}
    for name, positions in rows.sort("position").group_by("class"):
        numbers = positions["position"].to_list()
        if len(numbers) < 2:
            continue
        if numbers[0] >= split.fraction:
            class_fractions[str(name[0])] = (numbers[0] + numbers[1]) / 2
        elif numbers[-1] < split.fraction:
            class_fractions[str(name[0])] = (numbers[-2] + numbers[-1]) / 2
    return replace(split, target=target, class_fractions=class_fractions)


def divide_rows(
    table: pl.DataFrame,
    split: Split | TimeSplit,
    target: str,
    keys: Sequence[str],
    group: str | None = None,
) -> DividedRows:
    """Divide the rows into those to train on and those to hold out, as `split` says.

    Raises DataError if no row is held out, or if the rows to train on have fewer than two
    different values of the target.
    """
    is_held_out = split.held_out(table)
    training = table.filter(~is_held_out)
    holdout = table.filter(is_held_out)
    rows = len(table)
    unit = "different rows"
    if group:
        unit = f"different values of '{group}'"
    elif keys:
        unit = "different keys"
    groups = len(np.unique(split.groups(table)))
    counted = f"{rows} rows, with {groups} {unit}," if group or keys else f"{rows} rows"

    if holdout.is_empty():
        raise DataError(
            f"None of the {counted} is held out for the evaluation: {split.advise_more()}."
        )

    learned = get_column(training, target).unique()
    if len(learned) < 2:
        values_left = f"only {learned[0]}" if len(learned) else "nothing"
        raise DataError(
            f"{len(holdout)} of the {counted} are held out, and {values_left} is left to"
            f" learn in '{target}': {split.advise_fewer()}."
        )

    held_out_groups = len(np.unique(split.groups(holdout)))
    notes = _note_few_groups(len(holdout), held_out_groups, unit)
    if isinstance(split, Split) and not notes:
        notes = _note_odd_share(len(holdout), rows, groups, split, unit)
    if isinstance(split, TimeSplit):
        notes += _note_rows_without_date(table, split.column)
    if learned.dtype != NUMBER:
        held_out_classes = get_column(holdout, target).unique()
        notes += _note_new_classes(learned, held_out_classes)
        notes += _note_absent_classes(learned, held_out_classes)
    return DividedRows(training, holdout, notes)


def _note_few_groups(rows: int, groups: int, unit: str) -> list[str]:
    """Return a note if few groups of rows are held out."""
    if groups >= FEWEST_HELD_OUT:
        return []
    held_out = f"{rows}" if rows == groups else f"{groups} {unit}, in {rows} rows"
    note = (
        f"fewer than {FEWEST_HELD_OUT} rows are held out ({held_out}): the figures say"
        " little, and later models cannot be compared with this one."
    )
    return [note]


def _note_odd_share(
    held_out: int, rows: int, groups: int, split: Split, unit: str
) -> list[str]:
    """Return a note if the share of held-out rows is far from the setting.

    `held_out` and `rows` are numbers of rows. `groups` is the number of groups of rows
    that stay together, and `unit` is what such a group has in common, in the plural.
    """
    share = held_out / rows
    if abs(share - split.fraction) <= split.fraction / 4:
        return []
    note = (
        f"{share:.0%} of the rows are held out, not {split.fraction:.0%}, as there are only"
        f" {groups} {unit} in {rows} rows, and equal rows stay together."
    )
    return [note]


def _note_rows_without_date(table: pl.DataFrame, column: str) -> list[str]:
    """Return a note if rows have no date, so that nothing says when they are from."""
    count = get_column(table, column).null_count()
    if not count:
        return []
    return [f"{count} rows have no date in '{column}', and are trained on."]


def _note_new_classes(learned: pl.Series, held_out: pl.Series) -> list[str]:
    """Return a note if some classes occur in held-out rows only.

    `learned` and `held_out` are the classes of the rows to train on, and of the held-out
    rows.
    """
    new_classes = sorted(set(held_out) - set(learned))
    if not new_classes:
        return []
    note = (
        "classes only in held-out rows, which the model does not know:"
        f" {len(new_classes)} ({_list_some(new_classes)})."
    )
    return [note]


def _note_absent_classes(learned: pl.Series, held_out: pl.Series) -> list[str]:
    """Return a note on the classes that no held-out row has, if there are any."""
    absent = sorted(set(learned) - set(held_out))
    if not absent:
        return []
    note = (
        f"no held-out row is of {len(absent)} of the classes ({_list_some(absent)}): the"
        " figures say nothing about them."
    )
    return [note]


def _list_some(names: Sequence[object]) -> str:
    """Return the first few names as text."""
    listed = ", ".join(str(name) for name in names[:SHOWN_CLASSES])
    return f"{listed}, …" if len(names) > SHOWN_CLASSES else listed


def note_odd_columns(
    table: pl.DataFrame, *, target: str, excluded: Sequence[str], task: str
) -> list[str]:
    """Return notes on columns that may make the figures worthless."""
    notes = []
    rows = len(table)
    for name in table.columns:
        values = get_column(table, name)
        # Measured whole numbers repeat. Numbers of rows do not, and fill their range.
        if name in (target, *excluded) or not values.dtype.is_integer():
            continue
        if rows >= FEWEST_HELD_OUT and values.n_unique() == rows:
            notes.append(
                f"'{name}' is a whole number of its own in every row. If it numbers the"
                " rows, list it in data.keys or data.ignore, as a model learns nothing"
                " useful from it."
            )
    if task == "classification":
        classes = table[target].n_unique()
        if rows / classes < FEWEST_ROWS_PER_CLASS:
            notes.append(
                f"there are {classes} classes in {rows} rows, which is"
                f" {rows / classes:.1f} rows of a class: the figures say little."
            )
    return notes


def note_dates(
    table: pl.DataFrame, *, target: str, excluded: Sequence[str], fraction: float
) -> list[str]:
    """Return a note if rows are held out at random, though a column has their dates."""
    for name in table.columns:
        dates = get_column(table, name)
        if name in (target, *excluded) or dates.dtype not in (pl.Date, pl.Datetime):
            continue
        days = dates.drop_nulls().cast(DATE).sort()
        if days.n_unique() < 2:
            continue
        start = days[int(len(days) * (1 - fraction))].date()
        note = (
            f"'{name}' has dates, and rows are held out at random. If you predict rows"
            " that are later than all training rows, the figures are too good: hold out the"
            f" last ones by training.holdout, with column: {name} and from: {start}, in"
            " settings.yml."
        )
        return [note]
    return []


def select_features(table: pl.DataFrame, excluded: Sequence[str]) -> pd.DataFrame:
    """Return the columns to learn from: all columns with a value that are not excluded.

    Numbers and booleans become floats, and dates become timestamps. Text stays text.
    Raises DataError if no column is left.
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
        raise DataError(
            "No column is left to learn from. Take columns out of data.ignore or data.keys"
            " in settings.yml."
        )
    return pl.DataFrame(features).to_pandas()
