"""Note what may make the metrics of a model misleading: few rows, rare classes, dates.

Each function returns a list of notes, which is empty if there is nothing to note.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

import polars as pl
from split import DATE, Split, TimeSplit, get_column
from training_rows import (
    DividedRows,
    RowSettings,
    count_groups,
    list_excluded_columns,
    name_groups,
)

# If fewer groups of rows are held out, the step `evaluate` does not compare models.
FEWEST_HELD_OUT = 30
# In a smaller table, even measurements may differ in all rows by chance.
FEWEST_NUMBERED_ROWS = 30
# If there are fewer rows per class on average, the metrics are unreliable.
FEWEST_ROWS_PER_CLASS = 10
# A note names at most this many classes.
SHOWN_CLASSES = 5


# The held-out rows


def note_holdout(
    table: pl.DataFrame,
    divided: DividedRows,
    split: Split | TimeSplit,
    settings: RowSettings,
) -> list[str]:
    """Return notes on held-out rows that are few, or that lack dates or some classes.

    `table` has all rows, which `split` has divided.
    """
    notes = _note_few_groups(divided.holdout, split, settings)
    has_few_groups = bool(notes)
    if isinstance(split, TimeSplit):
        notes += _note_rows_without_date(table, split.column)
    elif not has_few_groups:
        # Few groups explain an unexpected share, so one of the two notes is enough.
        notes += _note_unexpected_share(table, divided.holdout, split, settings)
    if settings.task == "classification":
        training_classes = get_column(divided.training, settings.target).unique()
        held_out_classes = get_column(divided.holdout, settings.target).unique()
        notes += _note_new_classes(training_classes, held_out_classes)
        notes += _note_absent_classes(training_classes, held_out_classes)
    return notes


def _note_few_groups(
    holdout: pl.DataFrame, split: Split | TimeSplit, settings: RowSettings
) -> list[str]:
    """Return a note if fewer than FEWEST_HELD_OUT groups are held out."""
    rows = len(holdout)
    groups = count_groups(holdout, split)
    if groups >= FEWEST_HELD_OUT:
        return []
    each_row_is_a_group = groups == rows
    if each_row_is_a_group:
        note = (
            f"fewer than {FEWEST_HELD_OUT} rows are held out ({rows}): the metrics are"
            " unreliable, and later models cannot be compared with this one."
        )
        return [note]
    note = (
        f"fewer than {FEWEST_HELD_OUT} {name_groups(settings.keys, settings.group)} are"
        f" held out ({groups}, in {rows} rows): the metrics are unreliable, and later"
        " models cannot be compared with this one."
    )
    return [note]


def _note_unexpected_share(
    table: pl.DataFrame, holdout: pl.DataFrame, split: Split, settings: RowSettings
) -> list[str]:
    """Return a note if the share of held-out rows is far from training.test_fraction.

    It is far if the difference is more than a quarter of training.test_fraction. This
    happens if there are few groups, or some large groups.
    """
    share = len(holdout) / len(table)
    is_share_close = abs(share - split.fraction) <= split.fraction / 4
    if is_share_close:
        return []
    groups = count_groups(table, split)
    note = (
        f"{share:.0%} of the rows are held out instead of {split.fraction:.0%}: there are"
        f" {groups} {name_groups(settings.keys, settings.group)} in {len(table)} rows, and"
        " the rows of each of these groups are held out together."
    )
    return [note]


def _note_rows_without_date(table: pl.DataFrame, column: str) -> list[str]:
    """Return a note if some rows have no date, so that their time is unknown."""
    count = get_column(table, column).null_count()
    if not count:
        return []
    return [f"{count} rows have no date in '{column}', so they are trained on."]


def _note_new_classes(
    training_classes: pl.Series, held_out_classes: pl.Series
) -> list[str]:
    """Return a note if some classes occur only in held-out rows."""
    new_classes = sorted(set(held_out_classes) - set(training_classes))
    if not new_classes:
        return []
    note = (
        "some classes occur only in held-out rows, so the model cannot predict them:"
        f" {_list_first(new_classes)}."
    )
    return [note]


def _note_absent_classes(
    training_classes: pl.Series, held_out_classes: pl.Series
) -> list[str]:
    """Return a note if some classes do not occur in held-out rows."""
    absent_classes = sorted(set(training_classes) - set(held_out_classes))
    if not absent_classes:
        return []
    note = (
        "some classes do not occur in held-out rows, so the metrics say nothing about them:"
        f" {_list_first(absent_classes)}."
    )
    return [note]


def _list_first(classes: Sequence[object]) -> str:
    """Return a list of classes as text, such as "a, b, c, d, e and 3 more".

    Only the first SHOWN_CLASSES classes are named.
    """
    shown = ", ".join(str(label) for label in classes[:SHOWN_CLASSES])
    more = len(classes) - SHOWN_CLASSES
    return f"{shown} and {more} more" if more > 0 else shown


# The columns


def note_columns(
    table: pl.DataFrame, split: Split | TimeSplit, settings: RowSettings
) -> list[str]:
    """Return notes on columns that may make the metrics misleading, such as dates."""
    excluded = list_excluded_columns(settings)
    features = [name for name in table.columns if name not in excluded]
    notes = note_row_numbers(table, features)
    if settings.task == "classification":
        notes += note_many_classes(table, settings.target)

    # By default, rows are held out at random. If training.holdout is "random", the user has
    # chosen this, and needs no note about dates.
    has_user_chosen_random = settings.holdout_by == "random"
    if isinstance(split, TimeSplit):
        notes += _note_group_and_dates(settings)
    elif not has_user_chosen_random:
        notes += note_dates(table, features, settings.test_fraction)
    return notes


def note_row_numbers(table: pl.DataFrame, features: Sequence[str]) -> list[str]:
    """Return a note on each feature that seems to number the rows.

    Such a feature has a different whole number in every row. Measurements that are whole
    numbers usually repeat. If there are fewer than FEWEST_NUMBERED_ROWS rows, there are no
    notes.
    """
    rows = len(table)
    if rows < FEWEST_NUMBERED_ROWS:
        return []
    notes = []
    for name in features:
        values = get_column(table, name)
        if values.dtype.is_integer() and values.n_unique() == rows:
            notes.append(
                f"'{name}' has a different whole number in every row. If it only numbers"
                " the rows, list it under data.keys or data.ignore: a model learns nothing"
                " useful from it."
            )
    return notes


def note_many_classes(table: pl.DataFrame, target: str) -> list[str]:
    """Return a note if there are fewer than FEWEST_ROWS_PER_CLASS rows per class."""
    rows = len(table)
    classes = get_column(table, target).n_unique()
    rows_per_class = rows / classes
    if rows_per_class >= FEWEST_ROWS_PER_CLASS:
        return []
    note = (
        f"there are {classes} classes in {rows} rows, only {rows_per_class:.1f} rows per"
        " class on average, so the metrics are unreliable."
    )
    return [note]


def _note_group_and_dates(settings: RowSettings) -> list[str]:
    """Return a note if data.group has no effect, because rows are held out by date."""
    if settings.group is None:
        return []
    note = (
        "training.holdout holds out rows by date, and data.group does not change that: some"
        f" rows with the same '{settings.group}' may be trained on while others are held"
        " out."
    )
    return [note]


def note_dates(
    table: pl.DataFrame, features: Sequence[str], test_fraction: float
) -> list[str]:
    """Return a note if rows are held out at random although some features are dates.

    For each of these features, the note proposes a value of training.holdout, by which
    about the share `test_fraction` of the rows would be held out: the latest ones.
    """
    start_by_column = {}
    for name in features:
        start = _propose_holdout_start(get_column(table, name), test_fraction)
        if start is not None:
            start_by_column[name] = start
    if not start_by_column:
        return []

    columns = " and ".join(f"'{name}'" for name in start_by_column)
    holdouts = " or ".join(
        _format_holdout(name, start) for name, start in start_by_column.items()
    )
    note = (
        f"there are dates in {columns}, and rows are held out at random. If the model will"
        " predict rows that are later than all training rows, the metrics are too"
        " optimistic. In that case, hold out the latest rows: set training.holdout in"
        f" settings.yml to {holdouts}. The column should hold the date on which a row"
        " became known. Otherwise, set training.holdout to random, which hides this note."
    )
    return [note]


def _format_holdout(column: str, start: datetime.date) -> str:
    """Return a value of training.holdout, such as `{column: "day", from: 2025-04-25}`."""
    # A name in the quotes of JSON is also correct in YAML.
    quoted_column = json.dumps(column, ensure_ascii=False)
    return "{" + f"column: {quoted_column}, from: {start}" + "}"


def _propose_holdout_start(
    values: pl.Series, test_fraction: float
) -> datetime.date | None:
    """Return the day or time from which rows should be held out.

    About the share `test_fraction` of all dates is on this day or later. If so many dates
    are on this day that more than half of all dates would be held out, its time is
    returned, too. Returns None if the column does not hold dates, or fewer than two
    different ones.
    """
    if values.dtype not in (pl.Date, pl.Datetime):
        return None
    dates = values.drop_nulls().cast(DATE).sort()
    if dates.n_unique() < 2:
        return None
    dates_before_start = int(len(dates) * (1 - test_fraction))
    start: datetime.datetime = dates[dates_before_start]
    start_of_day = datetime.datetime.combine(start, datetime.time())
    dates_from_day = (dates >= start_of_day).sum()
    return start if dates_from_day > len(dates) / 2 else start.date()
