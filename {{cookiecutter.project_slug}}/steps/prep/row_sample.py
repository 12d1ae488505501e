"""A look at a sample of the prepared rows: how the values of each column are distributed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

SAMPLED_ROWS = 10_000
SAMPLED_PARTS = 20
SHOWN_ROWS = 5
SHOWN_VALUES = 3
BINS = 24
LONGEST_VALUE = 80  # characters
# Columns with more texts are no categories.
MOST_CATEGORIES = 1_000


def describe_sample(prepared: Path) -> dict[str, Any]:
    """Describe the distribution of each column in a sample of the prepared rows.

    Returns the number of `rows` in the sample, its `first_rows` as texts, and by the names
    of the `columns` either a `histogram`, which has the number of rows in ranges of equal
    width, or the most `frequent` values with their shares of the rows that have a value.
    `same_but_for_case` are categories that differ in nothing but upper and lower case.
    """
    rows = read_sample(prepared)
    columns: dict[str, dict[str, Any]] = {}
    for name in rows.columns:
        # polars reads a name such as `^a$` as a pattern, so the values get another name.
        values = rows[name].alias("value").drop_nulls()
        if values.dtype.is_numeric() or values.dtype.is_temporal():
            columns[name] = {"histogram": count_ranges(values)}
        else:
            columns[name] = {
                "frequent": find_frequent_values(values),
                "same_but_for_case": find_same_but_for_case(values),
            }
    first_rows = [
        [shorten_value(value) for value in row]
        for row in rows.head(SHOWN_ROWS).iter_rows()
    ]
    return {"rows": len(rows), "first_rows": first_rows, "columns": columns}


def read_sample(prepared: Path) -> pl.DataFrame:
    """Read the first rows of parts that are spread over all prepared ones."""
    parts = sorted(prepared.iterdir())
    step = -(-len(parts) // SAMPLED_PARTS)
    chosen = parts[::step]
    rows_per_part = SAMPLED_ROWS // len(chosen)
    tables = [
        pl.read_parquet(part, n_rows=rows_per_part, glob=False) for part in chosen
    ]
    return pl.concat(tables)


def shorten_value(value: object) -> str:
    """Return a value as text that is not longer than a report shows it."""
    if value is None:
        return ""
    text = str(value)
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 1]}…"


def count_ranges(values: pl.Series) -> list[int]:
    """Return the number of values in ranges of equal width, from the smallest to the largest.

    The list is empty if there are fewer than two different finite numbers.
    """
    numbers = values.to_physical().cast(pl.Float64)
    numbers = numbers.filter(numbers.is_finite())
    if numbers.n_unique() < 2:
        return []
    smallest = float(numbers.min())  # type: ignore[arg-type]
    largest = float(numbers.max())  # type: ignore[arg-type]
    # Divided first, as the difference of two large numbers can be infinite.
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
    """Return the first categories that differ in nothing but upper and lower case.

    The list is empty if there are none, or if the texts are no categories.
    """
    if values.dtype != pl.String:
        return []
    texts = values.unique(maintain_order=True)
    if len(texts) > MOST_CATEGORIES:
        return []
    table = texts.to_frame().with_columns(key=texts.str.to_lowercase())
    groups = table.group_by("key", maintain_order=True).agg("value")
    repeated = groups.filter(pl.col("value").list.len() > 1)
    if repeated.is_empty():
        return []
    return [shorten_value(text) for text in repeated["value"][0]]
