"""Count new rows in the bins and categories of a profile, in one pass over the parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from profiles import ColumnProfile, DateProfile, NumberProfile, TextProfile

NUMBER = pl.Float64()
DATE = pl.Datetime("us")
TEXT = pl.String()
# The columns of the hash of each row, and of the number of different hashes.
ROW_HASH = "hash"
DISTINCT_ROWS = "distinct rows"


@dataclass(frozen=True)
class NumberCounts:
    """The new values of a column of numbers, counted in the bins of its profile.

    `smallest`, `largest` and `mean` are None if there is no value. `below` is the number of
    values below the smallest training value, and `above` the number of values above the
    largest training value.
    """

    missing: int
    counts: Sequence[int]
    smallest: float | None
    largest: float | None
    mean: float | None
    below: int
    above: int

    @property
    def filled(self) -> int:
        """Return the number of rows that have a number."""
        return sum(self.counts)


@dataclass(frozen=True)
class CategoryCounts:
    """The number of new rows of each category in a column."""

    missing: int
    categories: Mapping[str, int]

    @property
    def filled(self) -> int:
        """Return the number of rows that have a category."""
        return sum(self.categories.values())


@dataclass(frozen=True)
class DateCounts:
    """The number of new dates in a column, and the earliest and the latest new date.

    `earliest` and `latest` are None if there is no date. `before` is the number of dates
    before the earliest training date, and `after` the number of dates after the latest
    training date. `before` is 0 if the profile has no earliest date.
    """

    missing: int
    filled: int
    earliest: datetime | None
    latest: datetime | None
    before: int
    after: int


ColumnCounts = NumberCounts | CategoryCounts | DateCounts


@dataclass(frozen=True)
class NewRows:
    """The counts of all new rows by column, and a sample of the rows.

    `repeated` is the number of rows that repeat an earlier row.
    """

    rows: int
    columns: Mapping[str, ColumnCounts]
    repeated: int
    sample: pl.DataFrame


def scan_parts(prepared: Path) -> pl.LazyFrame:
    """Return the prepared parts in a folder as one table, in the order of their names."""
    return pl.scan_parquet(sorted(prepared.glob("*.parquet")), glob=False)


def count_rows(prepared: Path) -> int:
    """Return the number of rows in the prepared parts in a folder."""
    rows: int = scan_parts(prepared).select(pl.len()).collect().item()
    return rows


def count_new_rows(
    table: pl.LazyFrame,
    profiles: Mapping[str, ColumnProfile],
    repeat_columns: Sequence[str],
    sampled_columns: Sequence[str] = (),
    sampled_rows: int = 10_000,
) -> NewRows:
    """Count the rows of a table in the bins of each profile.

    A row repeats an earlier one if both have the same values in `repeat_columns`. The
    sample holds the `sampled_columns` of about `sampled_rows` evenly spaced rows. Only the
    counts, the sample, and a hash of each row are held in memory.
    """
    rows: int = table.select(pl.len()).collect().item()
    every_nth_row = math.ceil(rows / sampled_rows)

    statistics_by_column = {
        name: list_statistics(pl.col(name_value(number)), profile)
        for number, (name, profile) in enumerate(profiles.items())
    }
    aggregations = [pl.col(ROW_HASH).n_unique().alias(DISTINCT_ROWS)]
    for number, name in enumerate(profiles):
        for statistic, expression in statistics_by_column[name].items():
            aggregations.append(expression.alias(name_statistic(statistic, number)))
    for number in range(len(sampled_columns)):
        sampled = pl.col(name_sample(number)).gather_every(every_nth_row)
        # Each aggregation has a single value, so `implode` makes a list of the sample.
        aggregations.append(sampled.implode())

    typed_table = select_typed_columns(table, profiles, repeat_columns, sampled_columns)
    results = typed_table.select(aggregations).collect(engine="streaming")

    columns = {}
    for number, (name, profile) in enumerate(profiles.items()):
        value_by_statistic = {
            statistic: results[name_statistic(statistic, number)][0]
            for statistic in statistics_by_column[name]
        }
        columns[name] = read_statistics(value_by_statistic, profile)
    sample = {
        name: results[name_sample(number)][0].alias("")
        for number, name in enumerate(sampled_columns)
    }
    return NewRows(
        rows=rows,
        columns=columns,
        repeated=rows - results[DISTINCT_ROWS][0],
        sample=pl.DataFrame(sample),
    )


# The columns of a query must have different names. The names of the data can be any text and
# might be equal to others, so the columns of these queries are named by numbers.


def name_value(number: int) -> str:
    """Return the name of the column with the values for a profile."""
    return f"value {number}"


def name_sample(number: int) -> str:
    """Return the name of the column with the sample of a sampled column."""
    return f"sample {number}"


def name_statistic(statistic: str, number: int) -> str:
    """Return the name of the column with a statistic of the values for a profile."""
    return f"{statistic} {number}"


def select_typed_columns(
    table: pl.LazyFrame,
    profiles: Mapping[str, ColumnProfile],
    repeat_columns: Sequence[str],
    sampled_columns: Sequence[str],
) -> pl.LazyFrame:
    """Return a query for the columns that `count_new_rows` aggregates.

    The columns that `name_value` names hold the values for each of the `profiles`, in the
    type of the profile. Those that `name_sample` names hold the `sampled_columns`. One
    column of the data may be both. The column ROW_HASH holds a hash of the values in
    `repeat_columns`, by which repeated rows are found.

    The values are converted in this query, and aggregated in another one. In a single
    query, polars would convert each value once for every statistic.
    """
    typed_columns = [
        read_as_type(name, profile).alias(name_value(number))
        for number, (name, profile) in enumerate(profiles.items())
    ]
    samples = [
        cs.by_name(name).alias(name_sample(number))
        for number, name in enumerate(sampled_columns)
    ]
    row_hash = hash_rows(repeat_columns).alias(ROW_HASH)
    return table.select([*typed_columns, *samples, row_hash])


def hash_rows(columns: Sequence[str]) -> pl.Expr:
    """Return an expression for a hash of each row.

    Rows with the same values in `columns` have the same hash. The hash is the sum of the
    hashes of the values, which takes half the time of hashing a `pl.struct`.
    """
    hashes = [cs.by_name(name).hash(seed=number) for number, name in enumerate(columns)]
    return pl.sum_horizontal(hashes)


def read_as_type(name: str, profile: ColumnProfile) -> pl.Expr:
    """Return an expression for a column in the type of its profile: text, date or number.

    Values that cannot be converted to this type, and NaN, become missing values.
    """
    # `pl.col` would read a name such as `^a$` as a pattern.
    column = cs.by_name(name)
    if isinstance(profile, TextProfile):
        return column.cast(TEXT, strict=False)
    if isinstance(profile, DateProfile):
        dates = column.cast(DATE, strict=False)
        # A date that Python cannot represent, such as a day in the year 0, becomes the
        # nearest date that it can represent.
        return dates.clip(datetime.min, datetime.max)
    return column.cast(NUMBER, strict=False).fill_nan(None)


# Statistics: for each kind of column, a function lists their expressions by name, and
# another one reads their results by the same names.


def list_statistics(values: pl.Expr, profile: ColumnProfile) -> dict[str, pl.Expr]:
    """Return a polars expression for each statistic of a column, by the statistic's name.

    `values` is an expression for the column in the type of its profile. Each statistic is a
    single value, such as the number of missing values. `read_statistics` reads the computed
    values.
    """
    if isinstance(profile, TextProfile):
        return _list_text_statistics(values)
    if isinstance(profile, DateProfile):
        return _list_date_statistics(values, profile)
    return _list_number_statistics(values, profile)


def read_statistics(
    value_by_statistic: Mapping[str, Any], profile: ColumnProfile
) -> ColumnCounts:
    """Return the counts of a column, given the computed value of each statistic.

    The keys of `value_by_statistic` are those that `list_statistics` returns for this
    profile.
    """
    if isinstance(profile, TextProfile):
        return _read_text_statistics(value_by_statistic)
    if isinstance(profile, DateProfile):
        # Each statistic of a column of dates has the name of a field of DateCounts.
        return DateCounts(**value_by_statistic)
    return _read_number_statistics(value_by_statistic, profile)


def _list_text_statistics(values: pl.Expr) -> dict[str, pl.Expr]:
    """Return polars expressions that count missing values, and the rows of each text."""
    text_counts = values.drop_nulls().value_counts(name="rows")
    return {
        "missing": values.null_count(),
        # Each statistic has a single value, so `implode` makes a list of these counts.
        "texts": text_counts.implode(),
    }


def _read_text_statistics(value_by_statistic: Mapping[str, Any]) -> CategoryCounts:
    """Return the number of rows of each text.

    The value of "texts" has a row for each text, with two fields: the text, and its rows.
    """
    # polars names the first field like the column, so the fields are taken by position.
    texts, rows = value_by_statistic["texts"].struct.unnest().get_columns()
    return CategoryCounts(
        missing=value_by_statistic["missing"],
        categories=dict(zip(texts, rows, strict=True)),
    )


def _list_date_statistics(values: pl.Expr, profile: DateProfile) -> dict[str, pl.Expr]:
    """Return an expression for each field of DateCounts, by the name of the field."""
    before = pl.lit(0)
    if profile.earliest is not None:
        before = (values < profile.earliest).sum()
    return {
        "missing": values.null_count(),
        "filled": values.count(),
        "earliest": values.min(),
        "latest": values.max(),
        "before": before,
        "after": (values > profile.latest).sum(),
    }


def _list_number_statistics(
    values: pl.Expr, profile: NumberProfile
) -> dict[str, pl.Expr]:
    """Return expressions for the range, the mean and the counts of numbers.

    The counts are cumulative: "up to edge 0" is the number of values that are at most the
    first edge of the profile's bins.
    """
    statistics = {
        "missing": values.null_count(),
        "filled": values.count(),
        "smallest": values.min(),
        "largest": values.max(),
        "mean": values.mean(),
        "below": (values < profile.smallest).sum(),
        "above": (values > profile.largest).sum(),
    }
    for number, edge in enumerate(profile.edges):
        statistics[f"up to edge {number}"] = (values <= edge).sum()
    return statistics


def _read_number_statistics(
    value_by_statistic: Mapping[str, Any], profile: NumberProfile
) -> NumberCounts:
    """Return the range and the mean of numbers, and how many of them are in each bin."""
    up_to_edges = [
        value_by_statistic[f"up to edge {number}"]
        for number in range(len(profile.edges))
    ]
    # The counts are cumulative, so their differences are the numbers of values in each bin.
    counts = np.diff([0, *up_to_edges, value_by_statistic["filled"]])
    return NumberCounts(
        missing=value_by_statistic["missing"],
        counts=counts.tolist(),
        smallest=value_by_statistic["smallest"],
        largest=value_by_statistic["largest"],
        mean=value_by_statistic["mean"],
        below=value_by_statistic["below"],
        above=value_by_statistic["above"],
    )


def select_features(
    table: pl.DataFrame, columns: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Return the columns that a model needs, converted to the types of the training data.

    Values that cannot be converted become missing values, so that the other rows can still
    be compared. The step `score` refuses such a column.
    """
    features = {}
    for name, dtype in columns.items():
        # polars would read a name such as `^a$` as a pattern, so the series gets an empty
        # name. The key of the dictionary keeps the real one.
        features[name] = table[name].alias("").cast(dtype, strict=False)
    return pl.DataFrame(features)
