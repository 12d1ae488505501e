"""Describe a sample of the prepared rows: how the values of each column are distributed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

# The sample has at most this many rows, from at most this many of the Parquet parts.
SAMPLED_ROWS = 10_000
SAMPLED_PARTS = 20
# The report shows this many rows, and this many of the most frequent values of a column.
SHOWN_ROWS = 5
SHOWN_VALUES = 3
# A histogram has this many ranges.
BINS = 24
# The report shows this many characters of a value.
MAX_CHARACTERS = 80
# A column of text with more distinct values than this does not hold categories.
MAX_CATEGORIES = 1_000


def describe_sample(sample: pl.DataFrame) -> dict[str, Any]:
    """Describe a sample of the prepared rows for the report.

    Returns a dictionary with the number of `rows` in the sample, its `first_rows` as
    strings, and in `columns` the result of `describe_distribution` for each column.
    """
    first_rows = [
        [shorten_value(value) for value in row]
        for row in sample.head(SHOWN_ROWS).iter_rows()
    ]
    columns = {name: describe_distribution(sample[name]) for name in sample.columns}
    return {"rows": len(sample), "first_rows": first_rows, "columns": columns}


def describe_distribution(column: pl.Series) -> dict[str, Any]:
    """Describe how the values of a column are distributed.

    For numbers and dates, the result has a `histogram`: the number of values in each of
    several ranges. For other columns, it has the most `frequent` values with their shares,
    and in `same_but_for_case` the first group of categories that differ only in case.
    """
    # polars reads a name such as `^a$` as a pattern, so the values get another name.
    values = column.alias("value").drop_nulls()
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        return {"histogram": count_values_by_range(values)}
    return {
        "frequent": find_frequent_values(values),
        "same_but_for_case": find_categories_differing_in_case(values),
    }


def read_sample(prepared: Path) -> pl.DataFrame:
    """Read the first rows of up to SAMPLED_PARTS prepared parts.

    `prepared` is the folder with the Parquet parts. If there are more of them, the parts
    are chosen at equal distances.
    """
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
    """Return a value as text, cut to MAX_CHARACTERS. A missing value becomes ""."""
    if value is None:
        return ""
    text = str(value)
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS - 1]}…"


def count_values_by_range(values: pl.Series) -> list[int]:
    """Divide the values into BINS ranges of equal width, and count those in each range.

    Dates count as numbers, and infinite numbers are left out. The list is empty if there are
    fewer than two different finite numbers.
    """
    numbers = values.to_physical().cast(pl.Float64)
    numbers = numbers.filter(numbers.is_finite())
    if numbers.n_unique() < 2:
        return []
    smallest = float(numbers.min())  # type: ignore[arg-type]
    largest = float(numbers.max())  # type: ignore[arg-type]
    # Here and below, numbers are divided before they are subtracted, because the difference
    # of two very large numbers can be infinite.
    width = largest / BINS - smallest / BINS
    if width == 0:
        # The numbers are so close to each other that the width is rounded to 0.
        return []
    bin_numbers = (numbers / width - smallest / width).floor()
    # Without this, the largest value would fall into a range of its own, after the last one.
    bin_numbers = bin_numbers.clip(0, BINS - 1)
    counts = [0] * BINS
    for bin_number, count in bin_numbers.value_counts().iter_rows():
        counts[int(bin_number)] = count
    return counts


def find_frequent_values(values: pl.Series) -> list[tuple[str, float]]:
    """Return the most frequent values as text, each with its share of all values."""
    counts = values.value_counts(sort=True, name="count")
    most_frequent = counts.head(SHOWN_VALUES).iter_rows()
    return [
        (shorten_value(value), count / len(values)) for value, count in most_frequent
    ]


def find_categories_differing_in_case(values: pl.Series) -> list[str]:
    """Return the first group of categories that differ only in upper and lower case.

    For example, returns ["Paris", "PARIS"]. One group is enough as an example in the report.
    The list is empty if there is no such group, if the values are not text, or if there are
    too many different values to be categories.
    """
    if values.dtype != pl.String:
        return []
    categories = values.unique(maintain_order=True).alias("category")
    if len(categories) > MAX_CATEGORIES:
        return []
    lower_case = pl.col("category").str.to_lowercase()
    groups = (
        categories.to_frame()
        .group_by(lower_case.alias("lower case"), maintain_order=True)
        .agg("category")
    )
    groups_of_several = groups.filter(pl.col("category").list.len() > 1)
    if groups_of_several.is_empty():
        return []
    first_group = groups_of_several["category"][0]
    return [shorten_value(category) for category in first_group]
