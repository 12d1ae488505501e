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
RANGES = 20  # of equal width, into which predicted numbers are divided
SHOWN_CLASSES = 3  # on one line
LONGEST_LABEL = 50  # characters on one line


@dataclass(frozen=True)
class Group:
    """The rows whose prediction is a class, or lies in a range of numbers."""

    label: str
    rows: int
    share: float  # of all rows with a prediction


@dataclass(frozen=True)
class ClassDistribution:
    """How many rows are predicted to be of each class; the most frequent class is first.

    `mean_top_probability` is the largest probability of a row, averaged over the rows. It is
    None if the model gives no probabilities.
    """

    rows: int
    classes: Sequence[Group]
    mean_top_probability: float | None

    def list_figures(self) -> dict[str, float]:
        """Return the figures on all rows by their names."""
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
    """The mean and the quartiles of predicted numbers, and how many are in each range."""

    rows: int
    mean: float
    smallest: float
    lower_quartile: float
    median: float
    upper_quartile: float
    largest: float
    ranges: Sequence[Group]

    def list_figures(self) -> dict[str, float]:
        """Return the figures on all rows by their names."""
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
    """Return the predictions in a folder as one table, or None if there are none.

    The table has the column `prediction` and, if the model gives probabilities, a column
    `probability` with the largest of them.
    """
    parquet_files = sorted(folder.glob("*.parquet"))
    csv_files = sorted(folder.glob("*.csv"))
    if parquet_files:
        table = pl.scan_parquet(parquet_files, glob=False)
    elif csv_files:
        # All columns are read as text. A type chosen by the first rows may not fit others.
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
        aggregations.append(pl.col(PROBABILITY).sum())
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
        mean_top_probability = float(counts[PROBABILITY].sum()) / rows
    return ClassDistribution(rows, classes, mean_top_probability)


def measure_numbers(predictions: pl.LazyFrame) -> NumberDistribution | None:
    """Return the distribution of predicted numbers, or None if no row has a finite one."""
    numbers = predictions.select(cs.by_name(PREDICTION).cast(NUMBER))
    numbers = numbers.filter(pl.col(PREDICTION).is_finite())
    values = pl.col(PREDICTION)
    figures = (
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
    if not figures["rows"]:
        return None
    ranges = count_ranges(
        numbers, figures["rows"], figures["smallest"], figures["largest"]
    )
    return NumberDistribution(**figures, ranges=ranges)


def count_ranges(
    numbers: pl.LazyFrame, rows: int, smallest: float, largest: float
) -> list[Group]:
    """Divide predicted numbers into ranges of equal width, and count the rows of each.

    If all numbers are the same, there is one range.
    """
    width = (largest - smallest) / RANGES
    if not width:
        return [Group(format_number(smallest), rows, 1.0)]

    position = ((pl.col(PREDICTION) - smallest) / width).cast(pl.Int64)
    # The largest number belongs to the last range.
    counts = (
        numbers.group_by(position.clip(0, RANGES - 1)).len().collect(engine="streaming")
    )
    rows_by_position = dict(counts.iter_rows())
    groups = []
    for number in range(RANGES):
        low = format_number(smallest + number * width)
        high = format_number(smallest + (number + 1) * width)
        count = rows_by_position.get(number, 0)
        groups.append(Group(f"{low} to {high}", count, count / rows))
    return groups


def format_number(number: float) -> str:
    """Format a number with up to six digits, which are enough for a summary."""
    return f"{number:.6g}"


def shorten_label(label: str) -> str:
    """Return the name of a class as one line shows it: short, and without line breaks."""
    text = " ".join(label.split())
    if len(text) <= LONGEST_LABEL:
        return text
    return f"{text[: LONGEST_LABEL - 1]}…"
