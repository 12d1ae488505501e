"""Read predictions, and count how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs

PREDICTION = "prediction"
PROBABILITY = "probability"
NUMBER = pl.Float64()
TEXT = pl.String()
# Predicted numbers are divided into this many ranges of equal width.
RANGES = 20
# The line on the screen names this many classes.
SHOWN_CLASSES = 3
# Names of classes with more characters are cut off there.
LONGEST_LABEL = 50


@dataclass(frozen=True)
class Group:
    """The rows with the same predicted class, or with numbers in the same range.

    `rows` is the number of these rows, and `share` is their share of all rows that have a
    prediction.
    """

    label: str
    rows: int
    share: float


@dataclass(frozen=True)
class ClassDistribution:
    """The number of rows for each predicted class. The most frequent class is first.

    `mean_top_probability` is the largest probability of each row, averaged over the rows.
    It is None if the model gives no probabilities.
    """

    rows: int
    classes: Sequence[Group]
    mean_top_probability: float | None

    def list_figures(self) -> dict[str, float]:
        """Return the figures that describe all rows, by their names."""
        if self.mean_top_probability is None:
            return {}
        return {"mean_top_probability": self.mean_top_probability}

    def describe(self) -> str:
        """Return the shares of the most frequent classes on one line."""
        shown = [
            f"{group.share:.1%} {shorten_label(group.label)}"
            for group in self.classes[:SHOWN_CLASSES]
        ]
        if len(self.classes) > SHOWN_CLASSES:
            shown.append("…")
        return ", ".join(shown)


@dataclass(frozen=True)
class NumberDistribution:
    """The mean and the quartiles of predicted numbers, and the rows in each range."""

    rows: int
    mean: float
    smallest: float
    lower_quartile: float
    median: float
    upper_quartile: float
    largest: float
    ranges: Sequence[Group]

    def list_figures(self) -> dict[str, float]:
        """Return the figures that describe all rows, by their names."""
        return {
            "mean": self.mean,
            "smallest": self.smallest,
            "lower_quartile": self.lower_quartile,
            "median": self.median,
            "upper_quartile": self.upper_quartile,
            "largest": self.largest,
        }

    def describe(self) -> str:
        """Return the mean and the range of the numbers on one line."""
        mean = format_number(self.mean)
        smallest = format_number(self.smallest)
        largest = format_number(self.largest)
        return f"mean {mean}, from {smallest} to {largest}"


Distribution = ClassDistribution | NumberDistribution


def scan_predictions(folder: Path) -> pl.LazyFrame | None:
    """Return the predictions in a folder as one table.

    The table has the column `prediction` and, if the model gives probabilities, the column
    `probability` with the largest probability of each row. Returns None if the folder has
    no files, or if the files have no column `prediction`.
    """
    parquet_files = sorted(folder.glob("*.parquet"))
    csv_files = sorted(folder.glob("*.csv"))
    if parquet_files:
        table = pl.scan_parquet(parquet_files, glob=False)
    elif csv_files:
        # All columns are read as text, because a type that fits the first rows may not fit
        # the later ones.
        table = pl.scan_csv(csv_files, infer_schema=False, glob=False)
    else:
        return None

    # Files of predictions have the keys first, then the prediction, then probabilities.
    names = table.collect_schema().names()
    if PREDICTION not in names:
        return None
    probabilities = names[names.index(PREDICTION) + 1 :]
    columns: list[pl.Expr] = [cs.by_name(PREDICTION)]
    if probabilities:
        largest = pl.max_horizontal(cs.by_name(probabilities).cast(NUMBER))
        columns.append(largest.alias(PROBABILITY))
    return table.select(columns)


def count_classes(predictions: pl.LazyFrame) -> ClassDistribution | None:
    """Return the distribution of predicted classes, or None if no row has a prediction."""
    aggregations = [pl.len().alias("rows")]
    has_probabilities = PROBABILITY in predictions.collect_schema()
    if has_probabilities:
        sum_of_probabilities = pl.col(PROBABILITY).sum().alias("sum of probabilities")
        aggregations.append(sum_of_probabilities)
    counts = (
        predictions.filter(pl.col(PREDICTION).is_not_null())
        .group_by(pl.col(PREDICTION).cast(TEXT))
        .agg(aggregations)
        .collect(engine="streaming")
        .sort("rows", PREDICTION, descending=[True, False])
    )
    rows = int(counts["rows"].sum())
    if not rows:
        return None

    classes = [
        Group(label, count, count / rows)
        for label, count in counts.select(PREDICTION, "rows").iter_rows()
    ]
    mean_top_probability = None
    if has_probabilities:
        mean_top_probability = float(counts["sum of probabilities"].sum()) / rows
    return ClassDistribution(rows, classes, mean_top_probability)


def measure_numbers(predictions: pl.LazyFrame) -> NumberDistribution | None:
    """Return the distribution of predicted numbers, or None if no number is finite."""
    values = pl.col(PREDICTION)
    numbers = predictions.select(cs.by_name(PREDICTION).cast(NUMBER)).filter(
        values.is_finite()
    )
    statistics = (
        numbers.select(
            values.len().alias("rows"),
            values.mean().alias("mean"),
            values.min().alias("smallest"),
            values.quantile(0.25, "linear").alias("lower_quartile"),
            values.median().alias("median"),
            values.quantile(0.75, "linear").alias("upper_quartile"),
            values.max().alias("largest"),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    if not statistics["rows"]:
        return None
    ranges = count_rows_by_range(
        numbers, statistics["rows"], statistics["smallest"], statistics["largest"]
    )
    return NumberDistribution(**statistics, ranges=ranges)


def count_rows_by_range(
    numbers: pl.LazyFrame, row_count: int, smallest: float, largest: float
) -> list[Group]:
    """Divide predicted numbers into ranges of equal width, and count the rows of each.

    `numbers` has `row_count` rows, with numbers from `smallest` to `largest` in the column
    `prediction`. There are RANGES ranges, or a single range if all numbers are the same.
    """
    width = (largest - smallest) / RANGES
    if width == 0:
        return [Group(format_number(smallest), row_count, 1.0)]

    distance_in_ranges = (pl.col(PREDICTION) - smallest) / width
    # The largest number would be in a range of its own. `clip` puts it into the last range.
    range_of_row = distance_in_ranges.cast(pl.Int64).clip(0, RANGES - 1)
    counts = numbers.group_by(range_of_row).len().collect(engine="streaming")
    rows_by_range = dict(counts.iter_rows())
    groups = []
    for index in range(RANGES):
        low = format_number(smallest + index * width)
        high = format_number(smallest + (index + 1) * width)
        rows = rows_by_range.get(index, 0)
        groups.append(Group(f"{low} to {high}", rows, rows / row_count))
    return groups


def format_number(number: float) -> str:
    """Return a number as text with up to six significant digits, such as "4181.77"."""
    return f"{number:.6g}"


def shorten_label(label: str) -> str:
    """Return the name of a class on one line, cut off after LONGEST_LABEL characters."""
    text = " ".join(label.split())
    if len(text) <= LONGEST_LABEL:
        return text
    return f"{text[: LONGEST_LABEL - 1]}…"
