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
from profiles import ColumnProfile, DateProfile, TextProfile

NUMBER = pl.Float64()
DATE = pl.Datetime("us")
TEXT = pl.String()


@dataclass(frozen=True)
class NumberCounts:
    """The new values of a column of numbers, counted in the bins of its profile.

    `smallest`, `largest` and `mean` are None if there is no value. `below` and `above`
    count the values outside the range of training.
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
    """The number of new rows of each category of a column."""

    missing: int
    categories: Mapping[str, int]

    @property
    def filled(self) -> int:
        """Return the number of rows that have a category."""
        return sum(self.categories.values())


@dataclass(frozen=True)
class DateCounts:
    """The number of new dates of a column, and the earliest and latest of them.

    `earliest` and `latest` are None if there is no date. `before` and `after` count the
    dates outside the range of training. `before` is 0 if the profile has no earliest date.
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

    `repeated` is the number of rows that repeat another one.
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
    repeat_by: Sequence[str],
    sampled: Sequence[str] = (),
    sampled_rows: int = 10_000,
) -> NewRows:
    """Count the rows of a table in the bins of each profile.

    A row repeats another one if both have the same values in the columns `repeat_by`. The
    sample holds the columns `sampled` of evenly spaced rows. Only the counts, the sample,
    and a hash of each row are held in memory.
    """
    rows: int = table.select(pl.len()).collect().item()
    rows_per_sampled_row = math.ceil(rows / sampled_rows)

    # Columns are named by numbers, because a column's own name can be any text, so it could
    # clash with the name of a result.
    typed_columns = [
        read_as_type(name, profile).alias(f"value {number}")
        for number, (name, profile) in enumerate(profiles.items())
    ]
    sampled_columns = [
        cs.by_name(name).alias(f"sample {number}")
        for number, name in enumerate(sampled)
    ]
    row_hash = hash_rows(repeat_by).alias("hash")
    # Each value is converted once, in a query of its own: within one query, polars would
    # convert it again for each of its statistics.
    typed_table = table.select([*typed_columns, *sampled_columns, row_hash])

    aggregations = [pl.col("hash").n_unique().alias("distinct rows")]
    for number in range(len(sampled)):
        column = pl.col(f"sample {number}")
        aggregations.append(column.gather_every(rows_per_sampled_row).implode())
    statistics = {
        name: column_statistics(pl.col(f"value {number}"), profile)
        for number, (name, profile) in enumerate(profiles.items())
    }
    for number, name in enumerate(profiles):
        for statistic, expression in statistics[name].items():
            aggregations.append(expression.alias(f"{statistic} {number}"))
    collected = typed_table.select(aggregations).collect(engine="streaming")

    columns = {}
    for number, (name, profile) in enumerate(profiles.items()):
        values_by_statistic = {
            statistic: collected[f"{statistic} {number}"][0]
            for statistic in statistics[name]
        }
        columns[name] = to_column_counts(values_by_statistic, profile)
    sample = {
        name: collected[f"sample {number}"][0].alias("")
        for number, name in enumerate(sampled)
    }
    return NewRows(
        rows=rows,
        columns=columns,
        repeated=rows - collected["distinct rows"][0],
        sample=pl.DataFrame(sample),
    )


def hash_rows(columns: Sequence[str]) -> pl.Expr:
    """Return a hash of each row. Rows with the same values in `columns` have the same hash.

    The hash is the sum of the hashes of the values, which takes half the time of hashing
    a `pl.struct`.
    """
    hashes = [cs.by_name(name).hash(seed=number) for number, name in enumerate(columns)]
    return pl.sum_horizontal(hashes)


def read_as_type(name: str, profile: ColumnProfile) -> pl.Expr:
    """Return the values of a column in the type of its profile: texts, dates or numbers.

    Values that are not of this type are missing values, and so is NaN.
    """
    column = cs.by_name(name)
    if isinstance(profile, TextProfile):
        return column.cast(TEXT, strict=False)
    if isinstance(profile, DateProfile):
        dates = column.cast(DATE, strict=False)
        # A file may hold years that Python's dates cannot represent, such as the year 0.
        return dates.clip(datetime.min, datetime.max)
    return column.cast(NUMBER, strict=False).fill_nan(None)


def column_statistics(values: pl.Expr, profile: ColumnProfile) -> dict[str, pl.Expr]:
    """Return the expressions of a column's statistics, which `to_column_counts` reads.

    `values` is an expression that `read_as_type` has returned.
    """
    if isinstance(profile, TextProfile):
        return {
            "missing": values.null_count(),
            "texts": values.drop_nulls().value_counts(name="rows").implode(),
        }
    if isinstance(profile, DateProfile):
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
    statistics = {
        "missing": values.null_count(),
        "smallest": values.min(),
        "largest": values.max(),
        "mean": values.mean(),
        "below": (values < profile.smallest).sum(),
        "above": (values > profile.largest).sum(),
        "filled": values.count(),
    }
    for number, edge in enumerate(profile.edges):
        statistics[f"up to edge {number}"] = (values <= edge).sum()
    return statistics


def to_column_counts(values: Mapping[str, Any], profile: ColumnProfile) -> ColumnCounts:
    """Return the counts of a column from the values of its statistics."""
    if isinstance(profile, TextProfile):
        # polars has named the first of the two fields like the column.
        texts, rows = values["texts"].struct.unnest().get_columns()
        categories = dict(zip(texts, rows, strict=True))
        return CategoryCounts(values["missing"], categories)
    if isinstance(profile, DateProfile):
        return DateCounts(
            missing=values["missing"],
            filled=values["filled"],
            earliest=values["earliest"],
            latest=values["latest"],
            before=values["before"],
            after=values["after"],
        )
    up_to_edges = [
        values[f"up to edge {number}"] for number in range(len(profile.edges))
    ]
    counts = np.diff([0, *up_to_edges, values["filled"]])
    return NumberCounts(
        missing=values["missing"],
        counts=counts.tolist(),
        smallest=values["smallest"],
        largest=values["largest"],
        mean=values["mean"],
        below=values["below"],
        above=values["above"],
    )


def select_features(
    table: pl.DataFrame, columns: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Return the columns that a model needs, in its types.

    Values of another type count as missing, as the step `score` reports them.
    """
    features = {}
    for name, dtype in columns.items():
        # polars would take a name such as `^a$` for a pattern, so the column has none.
        features[name] = table[name].alias("").cast(dtype, strict=False)
    return pl.DataFrame(features)
