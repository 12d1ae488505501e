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
# If the classes have fewer rows than this on average, a note says so.
FEWEST_ROWS_PER_CLASS = 10
# A note names at most this many classes.
SHOWN_CLASSES = 5
# If the data has no keys, this column of the predictions has the numbers of the rows.
ROW = "row"


class DataError(Exception):
    """No model can be trained on this data. The message says why."""


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide which rows are trained on, and what they are used for."""

    task: str
    target: str
    keys: Sequence[str] = ()
    #: The rows with the same value in this column are held out together.
    group: str | None = None
    seed: int = 42
    #: The share of the rows to hold out at random.
    test_fraction: float = 0.2
    #: The column of dates and the first date to hold out. They replace the share.
    holdout_column: str | None = None
    holdout_from: str | None = None
    #: Whether the user has decided to hold out rows at random although they have dates.
    is_date_note_hidden: bool = False


# The table


def read_training_table(
    prepared: Path, *, target: str, keys: Sequence[str], task: str
) -> pl.DataFrame:
    """Return the prepared rows, with the target as classes or as numbers.

    Raises DataError if there are no rows, if no model can learn the target, or if a column
    has the name of a column that the predictions will have.
    """
    parts = sorted(prepared.glob("*.parquet"))
    if not parts:
        raise DataError(
            f"There is no Parquet file in {prepared}, so there are no rows to learn from."
        )
    table = pl.read_parquet(parts, glob=False)
    prepared_target = prepare_target(get_column(table, target), target, task)

    prediction_columns = {"prediction"}
    if task == "classification":
        classes = prepared_target.unique()
        prediction_columns |= {f"probability_{name}" for name in classes}
    _check_column_names(table, keys, prediction_columns)
    return table.with_columns(prepared_target.alias(target))


def _check_column_names(
    table: pl.DataFrame, keys: Sequence[str], prediction_columns: set[str]
) -> None:
    """Raise DataError if a column has the name of a column of the predictions.

    The step `score` writes the keys and the predictions into one table, so their names must
    differ. Without keys, it writes the numbers of the rows.
    """
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


def prepare_target(values: pl.Series, name: str, task: str) -> pl.Series:
    """Return the target in the type that the task needs.

    This is floats for a regression, and text, integers or booleans for a classification.
    `name` is the name of the target. Raises DataError if no model can learn it.
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
    """Return the target as floats. Raises DataError if it has text or infinite values."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        raise DataError(
            f"A regression needs numbers, but the target '{name}' holds"
            f" {str(values[0])!r}. If this is a number, a note of the step prep names the"
            " setting that reads it. Otherwise, convert the target to numbers, choose"
            " another target, or set task to classification in settings.yml. After a change"
            " in settings.yml, run the whole pipeline: unchanged steps are reused."
        )
    values = values.cast(NUMBER)
    if not values.is_finite().all():
        raise DataError(
            f"The target '{name}' holds infinite values, which no model can learn."
            " Correct them in the data."
        )
    return values


def _prepare_classes(values: pl.Series, name: str) -> pl.Series:
    """Return the target as classes. Raises DataError if it has fractions."""
    is_number = values.dtype.is_numeric() or values.dtype == pl.Boolean
    if not is_number:
        # A date becomes a class, whose name is the date as text.
        return values.cast(TEXT)
    if not values.dtype.is_float():
        return values
    # inf % 1 is NaN, which differs from 0, so infinite values count as fractions.
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

    Rows that are equal in every column are taken for one record only if the keys identify
    records in this table: no two different rows may have the same keys, and at least half
    of the rows must remain. Without keys, nothing is dropped.
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
            f"the keys ({', '.join(keys)}) do not tell rows apart: {rows} rows have"
            f" {distinct_keys} different keys. Unless data.group is set, rows of one key"
            " are trained on or held out together."
        )
        return table, [note]

    repeated = rows - len(distinct_rows)
    note = (
        f"{repeated} of {rows} rows repeat another in every column, keys included, and are"
        " left out as records delivered twice."
    )
    return distinct_rows, [note]


# The rule by which rows are held out


def choose_split(table: pl.DataFrame, settings: RowSettings) -> Split | TimeSplit:
    """Return the rule by which rows are held out: by date, or at random.

    Raises DataError if the column of the group or of the dates cannot be used.
    """
    group_columns = _choose_group_columns(table, settings)
    column = settings.holdout_column
    start = settings.holdout_from
    if column is not None and start is not None:
        _check_date_column(table, column)
        return TimeSplit(group_columns, settings.seed, column, start)

    split = Split(group_columns, settings.seed, settings.test_fraction)
    if settings.task == "classification":
        return divide_rare_classes(split, table, settings.target)
    return split


def _choose_group_columns(table: pl.DataFrame, settings: RowSettings) -> list[str]:
    """Return the columns in which the rows of one group are equal.

    They are the column of `data.group`, or else the keys, or else all columns except the
    target. Raises DataError if the column of `data.group` does not exist.
    """
    group = settings.group
    if group is not None and group not in table.columns:
        raise DataError(
            f"There is no column '{group}', which data.group names: correct the name, or"
            " take it out of data.ignore in settings.yml, if it is listed there."
            f"{_suggest_similar_name(group, table.columns)}"
        )
    if group:
        return [group]
    if settings.keys:
        return list(settings.keys)
    return [name for name in table.columns if name != settings.target]


def _check_date_column(table: pl.DataFrame, column: str) -> None:
    """Raise DataError if the column of `training.holdout` is missing or has no dates."""
    if column not in table.columns:
        raise DataError(
            f"There is no column '{column}', which training.holdout names: correct the"
            " name, or take it out of data.ignore in settings.yml, if it is listed there."
            f"{_suggest_similar_name(column, table.columns)}"
        )
    dates = get_column(table, column)
    if not dates.dtype.is_temporal():
        # Columns in data.keys are read as text, so even a column of dates has none there.
        raise DataError(
            f"The column '{column}', which training.holdout names, holds"
            f" {str(dates.drop_nulls().first())!r}, not dates: name another column, take it"
            " out of data.keys, or set data.date_format in settings.yml."
        )


def _suggest_similar_name(name: str, columns: Sequence[str]) -> str:
    """Return a question that names the most similar column, or "" if none is similar."""
    by_folded_name = {column.casefold(): column for column in columns}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, n=1)
    if not similar:
        return ""
    return f" Did you mean '{by_folded_name[similar[0]]}'?"


def divide_rare_classes(split: Split, table: pl.DataFrame, target: str) -> Split:
    """Return a rule that trains on rows of each class, and holds out rows of each class.

    The rule may hold out all groups of a rare class, or none. Such a class gets a fraction
    of its own, by which exactly one of its groups is on the other side. A class with a
    single group gets none.

    If a group has rows of several classes, the rule is returned unchanged, because
    fractions of classes would divide the group.
    """
    classes = get_column(table, target).cast(TEXT)
    groups = pl.DataFrame(
        {"position": split.positions(table), "class": classes}
    ).unique()
    has_mixed_groups = groups["position"].n_unique() < len(groups)
    if has_mixed_groups:
        return split

    class_fractions = {}
    for (name,), groups_of_class in groups.sort("position").group_by("class"):
        positions = groups_of_class["position"].to_list()
        if len(positions) < 2:
            continue
        # A group is held out if its position is below the fraction.
        if positions[0] >= split.fraction:
            # No group would be held out. This fraction holds out the first one.
            class_fractions[str(name)] = (positions[0] + positions[1]) / 2
        elif positions[-1] < split.fraction:
            # All groups would be held out. This fraction leaves the last one to train on.
            class_fractions[str(name)] = (positions[-2] + positions[-1]) / 2
    return replace(split, target=target, class_fractions=class_fractions)


# Training rows and held-out rows


@dataclass
class DividedRows:
    """The rows to train on, the held-out rows, and notes about the division."""

    training: pl.DataFrame
    holdout: pl.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class Counts:
    """The numbers of rows and of groups, in total and held out.

    `group_name` is what the groups are called in messages, in the plural.
    """

    rows: int
    groups: int
    held_out_rows: int
    held_out_groups: int
    group_name: str


def divide_rows(
    table: pl.DataFrame,
    split: Split | TimeSplit,
    target: str,
    keys: Sequence[str],
    group: str | None = None,
) -> DividedRows:
    """Divide the rows into those to train on and those to hold out.

    Raises DataError if no row is held out, or if the rows to train on have fewer than two
    different values of the target.
    """
    is_held_out = split.held_out(table)
    training = table.filter(~is_held_out)
    holdout = table.filter(is_held_out)
    learned = get_column(training, target).unique()

    groups = split.groups(table)
    counts = Counts(
        rows=len(table),
        groups=len(np.unique(groups)),
        held_out_rows=len(holdout),
        held_out_groups=len(np.unique(groups[is_held_out])),
        group_name=_name_groups(keys, group),
    )
    all_rows = f"{counts.rows} rows"
    if keys or group:
        all_rows += f", with {counts.groups} {counts.group_name},"
    if holdout.is_empty():
        raise DataError(
            f"None of the {all_rows} is held out for the evaluation:"
            f" {_advise_larger_holdout(split)}."
        )
    if len(learned) < 2:
        values_left = f"only {learned[0]}" if len(learned) else "nothing"
        raise DataError(
            f"{len(holdout)} of the {all_rows} are held out, and {values_left} is left to"
            f" learn in '{target}': {_advise_smaller_holdout(split)}."
        )

    notes = _note_few_groups(counts)
    if isinstance(split, TimeSplit):
        notes += _note_rows_without_date(table, split.column)
    elif not notes:
        notes += _note_unexpected_share(counts, split.fraction)
    is_classification = learned.dtype != NUMBER
    if is_classification:
        held_out_classes = get_column(holdout, target).unique()
        notes += _note_new_classes(learned, held_out_classes)
        notes += _note_absent_classes(learned, held_out_classes)
    return DividedRows(training, holdout, notes)


def _name_groups(keys: Sequence[str], group: str | None) -> str:
    """Return what groups are called in messages, in the plural."""
    if group:
        return f"different values of '{group}'"
    if keys:
        return "different keys"
    return "different rows"


def _advise_larger_holdout(split: Split | TimeSplit) -> str:
    """Return what a user can do to hold out more rows."""
    if isinstance(split, TimeSplit):
        return f"choose an earlier date than {split.start} for training.holdout.from"
    return (
        f"raise training.test_fraction (it is {split.fraction:g}), or choose another"
        " training.seed in settings.yml"
    )


def _advise_smaller_holdout(split: Split | TimeSplit) -> str:
    """Return what a user can do to hold out fewer rows."""
    if isinstance(split, TimeSplit):
        return f"choose a later date than {split.start} for training.holdout.from"
    return (
        f"lower training.test_fraction (it is {split.fraction:g}), or choose another"
        " training.seed in settings.yml"
    )


def _note_few_groups(counts: Counts) -> list[str]:
    """Return a note if few groups are held out."""
    groups = counts.held_out_groups
    rows = counts.held_out_rows
    if groups >= FEWEST_HELD_OUT:
        return []
    held_out = f"rows are held out ({rows})"
    if rows != groups:
        held_out = f"{counts.group_name} are held out ({groups}, in {rows} rows)"
    note = (
        f"fewer than {FEWEST_HELD_OUT} {held_out}: the figures say little, and later models"
        " cannot be compared with this one."
    )
    return [note]


def _note_unexpected_share(counts: Counts, fraction: float) -> list[str]:
    """Return a note if the share of held-out rows is far from `training.test_fraction`."""
    share = counts.held_out_rows / counts.rows
    if abs(share - fraction) <= fraction / 4:
        return []
    note = (
        f"{share:.0%} of the rows are held out, not {fraction:.0%}, as there are only"
        f" {counts.groups} {counts.group_name} in {counts.rows} rows, and equal rows stay"
        " together."
    )
    return [note]


def _note_rows_without_date(table: pl.DataFrame, column: str) -> list[str]:
    """Return a note if some rows have no date, so that their time is unknown."""
    count = get_column(table, column).null_count()
    if not count:
        return []
    return [f"{count} rows have no date in '{column}', and are trained on."]


def _note_new_classes(learned: pl.Series, held_out: pl.Series) -> list[str]:
    """Return a note if some classes occur in held-out rows only."""
    new_classes = sorted(set(held_out) - set(learned))
    if not new_classes:
        return []
    note = (
        "classes only in held-out rows, which the model does not know:"
        f" {len(new_classes)} ({_list_some(new_classes)})."
    )
    return [note]


def _note_absent_classes(learned: pl.Series, held_out: pl.Series) -> list[str]:
    """Return a note if some classes do not occur in held-out rows."""
    absent_classes = sorted(set(learned) - set(held_out))
    if not absent_classes:
        return []
    note = (
        f"no held-out row is of {len(absent_classes)} of the classes"
        f" ({_list_some(absent_classes)}): the figures say nothing about them."
    )
    return [note]


def _list_some(names: Sequence[object]) -> str:
    """Return the first few names as text."""
    listed = ", ".join(str(name) for name in names[:SHOWN_CLASSES])
    return f"{listed}, …" if len(names) > SHOWN_CLASSES else listed


# Columns


def note_columns(
    table: pl.DataFrame, split: Split | TimeSplit, settings: RowSettings
) -> list[str]:
    """Return notes on columns that may make the metrics worthless."""
    target = settings.target
    excluded = list_excluded_columns(settings)
    notes = note_odd_columns(
        table, target=target, excluded=excluded, task=settings.task
    )
    if isinstance(split, TimeSplit):
        return notes + _note_group_and_dates(settings)
    if settings.is_date_note_hidden:
        return notes
    notes += note_dates(
        table, target=target, excluded=excluded, fraction=settings.test_fraction
    )
    return notes


def _note_group_and_dates(settings: RowSettings) -> list[str]:
    """Return a note if there is a group, which a hold-out by date does not keep together."""
    if settings.group is None:
        return []
    note = (
        "training.holdout decides by date which rows are held out, and data.group does"
        f" not: rows with the same '{settings.group}' may be on both sides."
    )
    return [note]


def list_excluded_columns(settings: RowSettings) -> list[str]:
    """Return the columns that are not features: the target, the keys and the group."""
    excluded = [settings.target, *settings.keys]
    if settings.group is not None:
        excluded.append(settings.group)
    return excluded


def note_odd_columns(
    table: pl.DataFrame, *, target: str, excluded: Sequence[str], task: str
) -> list[str]:
    """Return notes on row numbers among the features, and on a target of many classes."""
    notes = []
    rows = len(table)
    for name in table.columns:
        values = get_column(table, name)
        if name in (target, *excluded) or not values.dtype.is_integer():
            continue
        # Measured whole numbers repeat, but the numbers of rows do not.
        if rows >= FEWEST_HELD_OUT and values.n_unique() == rows:
            notes.append(
                f"'{name}' is a whole number of its own in every row. If it numbers the"
                " rows, list it in data.keys or data.ignore, as a model learns nothing"
                " useful from it."
            )

    if task == "classification":
        classes = table[target].n_unique()
        rows_per_class = rows / classes
        if rows_per_class < FEWEST_ROWS_PER_CLASS:
            notes.append(
                f"there are {classes} classes in {rows} rows, which is"
                f" {rows_per_class:.1f} rows of a class: the figures say little."
            )
    return notes


def note_dates(
    table: pl.DataFrame, *, target: str, excluded: Sequence[str], fraction: float
) -> list[str]:
    """Return a note if rows are held out at random although a column has dates.

    `fraction` is the share of held-out rows. The note proposes a date with which about the
    same share would be held out.
    """
    columns = []
    holdouts = []
    for name in table.columns:
        dates = get_column(table, name)
        if name in (target, *excluded) or dates.dtype not in (pl.Date, pl.Datetime):
            continue
        days = dates.drop_nulls().cast(DATE).sort()
        if days.n_unique() < 2:
            continue
        start = days[int(len(days) * (1 - fraction))].date()
        columns.append(f"'{name}'")
        holdouts.append(f"column: {name} and from: {start}")
    if not columns:
        return []
    if len(columns) == 1:
        note = (
            f"{columns[0]} has dates, and rows are held out at random. If you predict rows"
            " that are later than all training rows, the figures are too good: hold out the"
            f" last ones by training.holdout, with {holdouts[0]}, in settings.yml."
            " Otherwise, turn this note off there by holdout: random."
        )
        return [note]
    note = (
        f"{', '.join(columns[:-1])} and {columns[-1]} have dates, and rows are held out at"
        " random. If you predict rows that are later than all training rows, the figures"
        " are too good: hold out the last ones by training.holdout in settings.yml, with"
        " the column that says when a row became known, such as"
        f" {', or '.join(holdouts)}. Otherwise, turn this note off there by holdout:"
        " random."
    )
    return [note]


def select_features(table: pl.DataFrame, excluded: Sequence[str]) -> pd.DataFrame:
    """Return the features: all columns that have values and are not excluded.

    Numbers and booleans become floats, and dates become timestamps. Text stays text.
    Raises DataError if there are no features.
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
