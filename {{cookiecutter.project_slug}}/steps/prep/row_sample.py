"""Describe a sample of the prepared rows: how the values of each column are distributed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

SAMPLED_ROWS = 10_000
SAMPLED_PARTS = 20
SHOWN_ROWS = 5
SHOWN_VALUES = 3
BINS = 24
LONGEST_VALUE = 80  # characters
# A column of text with more distinct values than this does not hold categories.
MOST_CATEGORIES = 1_000


def describe_sample(sample: pl.DataFrame) -> dict[str, Any]:
    """Describe a sample of the prepared rows for the report.

    Returns the number of `rows` in the sample, its `first_rows` as texts, and `columns`
    with the result of `describe_distribution` for each column.
    """
    first_rows = [
        [shorten_value(value) for value in row]
        for row in sample.head(SHOWN_ROWS).iter_rows()
    ]
    columns = {name: describe_distribution(sample[name]) for name in sample.columns}
    return {"rows": len(sample), "first_rows": first_rows, "columns": columns}


def describe_distribution(column: pl.Series) -> dict[str, Any]:
    """Describe how the values of a column are distributed.

    Returns a `histogram` of numbers and dates, as the number of values in each range. For
    other columns, returns the most `frequent` values with their shares, and the categories
    that are `same_but_for_case`.
    """
    # polars reads a name such as `^a$` as a pattern, so the values get another name.
    values = column.alias("value").drop_nulls()
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        return {"histogram": count_ranges(values)}
    return {
        "frequent": find_frequent_values(values),
        "same_but_for_case": find_same_but_for_case(values),
    }


def read_sample(prepared: Path) -> pl.DataFrame:
    """Read the first rows of parts that are spread evenly over all prepared parts."""
    parts = sorted(prepared.iterdir())
    step = math.ceil(len(parts) / SAMPLED_PARTS)
    sampled_parts = parts[::step]
    rows_per_part = SAMPLED_ROWS // len(sampled_parts)
    tables = [
        pl.read_parquet(part, n_rows=rows_per_part, glob=False)
        for part in sampled_parts
    ]
    return pl.concat(tables)


def shorten_value(value: object) -> str:
    """Return a value as text, cut to the length that the report shows."""
    if value is None:
        return ""
    text = str(value)
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 1]}…"


def count_ranges(values: pl.Series) -> list[int]:
    """Count the values in BINS ranges of equal width between the smallest and the largest.

    The list is empty if there are fewer than two different finite numbers.
    """
    numbers = values.to_physical().cast(pl.Float64)
    numbers = numbers.filter(numbers.is_finite())
    if numbers.n_unique() < 2:
        return []
    smallest = float(numbers.min())  # type: ignore[arg-type]
    largest = float(numbers.max())  # type: ignore[arg-type]
    # Each number is divided first, because the difference of two large numbers can be
    # infinite.
    width = largest / BINS - smallest / BINS
    positions = ((numbers / width) - smallest / width).floor().clip(0, BINS - 1)
    counts = [0] * BINS
    for position, count in positions.value_counts().iter_rows():
        counts[int(position)] = count
    return counts


def find_frequent_values(values: pl.Series) -> list[tuple[str, float]]:
    """Return the most frequent values as texts, with their shares of all values."""
    counts = values.value_counts(sort=True, name="count")
    shown = counts.head(SHOWN_VALUES).iter_rows()
    return [(shorten_value(value), count / len(values)) for value, count in shown]


def find_same_but_for_case(values: pl.Series) -> list[str]:
    """Return the first group of categories that differ only in upper and lower case.

    The list is empty if there is no such group, if the values are not text, or if they
    are too many to be categories.
    """
    if values.dtype != pl.String:
        return []
    categories = values.unique(maintain_order=True)
    if len(categories) > MOST_CATEGORIES:
        return []
    lower_case = pl.col("value").str.to_lowercase()
    groups = (
        categories.to_frame()
        .group_by(lower_case.alias("lower case"), maintain_order=True)
        .agg("value")
    )
    similar = groups.filter(pl.col("value").list.len() > 1)
    if similar.is_empty():
        return []
    return [shorten_value(category) for category in similar["value"][0]]
