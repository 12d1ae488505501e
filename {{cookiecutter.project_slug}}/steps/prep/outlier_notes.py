"""Write notes on a few numbers that are far from all other numbers of their column.

Most of them are typing errors, or stand for a missing value. One such number can spoil a
mean, and with it the features and the models that use one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import asinh
from typing import Any

import polars as pl
from sources import NUMBER, TYPE_NAMES, Note, Source, get_type_name
from violations import describe_place

NUMERIC_TYPES = [get_type_name(dtype) for dtype in TYPE_NAMES if dtype.is_numeric()]
# In a column with fewer values, nothing can be said about what is usual.
MIN_VALUES = 50
# If more rows than this have numbers far from the others, they are no exceptions.
MOST_OUTLIERS = 3
# An outlier is at least this many interquartile ranges away from the median.
FAR_AWAY = 20


@dataclass(frozen=True)
class Scale:
    """A scale that is linear around the median of a column, and logarithmic far from it.

    It is the inverse hyperbolic sine of the distance to the median in interquartile
    ranges. Numbers that grow exponentially, such as incomes and populations, have about
    equal distances on it, so their largest one does not look like an outlier.
    """

    median: float
    interquartile_range: float

    def convert(self, number: float) -> float:
        """Return the position of a number on the scale."""
        return asinh((number - self.median) / self.interquartile_range)


@dataclass(frozen=True)
class Outliers:
    """Numbers of a column that are far from its others.

    `count` rows have one, and `farthest` is the one that is farthest from the others,
    which lie between `smallest` and `largest`.
    """

    column: str
    count: int
    farthest: float
    smallest: float
    largest: float


def note_outliers(
    table: pl.LazyFrame,
    sample: pl.DataFrame,
    columns: Mapping[str, Mapping[str, Any]],
    skipped_names: Collection[str | None],
    sources: Sequence[Source],
) -> list[Note]:
    """Return notes on columns with outliers, with the place of the farthest one.

    `table` has the prepared rows, `sample` some of them, and `columns` the statistics of
    each column. Columns in `skipped_names` get no note.
    """
    scales: dict[str, Scale] = {}
    for name, statistics in columns.items():
        if name in skipped_names or statistics["type"] not in NUMERIC_TYPES:
            continue
        scale = measure_scale(sample[name].alias("value"))
        if scale is not None:
            scales[name] = scale
    return [
        Note(_describe_outliers(outliers, sources), column=outliers.column)
        for outliers in find_outliers(table, scales, columns)
    ]


def measure_scale(numbers: pl.Series) -> Scale | None:
    """Return the scale of a column; None if too few of its numbers differ."""
    numbers = numbers.cast(NUMBER).drop_nulls().drop_nans()
    if len(numbers) < MIN_VALUES:
        return None
    quartiles = [numbers.quantile(share) for share in (0.25, 0.5, 0.75)]
    lower, median, upper = [float(q) for q in quartiles if q is not None]
    interquartile_range = upper - lower
    # The difference is 0 if at least half of the numbers are equal, and not finite if
    # most of them are infinite.
    if not 0 < interquartile_range < float("inf"):
        return None
    return Scale(median, interquartile_range)


def find_outliers(
    table: pl.LazyFrame,
    scales: Mapping[str, Scale],
    columns: Mapping[str, Mapping[str, Any]],
) -> list[Outliers]:
    """Find the outliers at either end of each column that has a scale.

    Up to MOST_OUTLIERS numbers at an end of a column are outliers if they are far from
    the median, and if the gap between them and all other numbers is wider than the range
    of these others. This is Dixon's ratio of the gap to the whole range, which is then
    above one half (W. J. Dixon, "Analysis of extreme values", Annals of Mathematical
    Statistics 21, 1950). Distances are measured on the scale of the column.
    """
    ends: list[tuple[str, str]] = []
    for name, scale in scales.items():
        for end in ("smallest", "largest"):
            distance = abs(float(columns[name][end]) - scale.median)
            if distance > FAR_AWAY * scale.interquartile_range:
                ends.append((name, end))
    if not ends:
        return []

    positions = {name: position for position, name in enumerate(columns)}
    aggregations = []
    for number, (name, end) in enumerate(ends):
        values = pl.nth(positions[name]).cast(NUMBER).drop_nulls().drop_nans()
        shown = MOST_OUTLIERS + 1
        extremes = values.top_k(shown) if end == "largest" else values.bottom_k(shown)
        aggregations.append(extremes.implode().alias(str(number)))
    row = table.select(aggregations).collect(engine="streaming").row(0)

    all_outliers = []
    for (name, end), extremes in zip(ends, row, strict=True):
        # The number that is farthest from the others comes first.
        farthest_first = sorted(extremes, reverse=end == "largest")
        opposite_end = "smallest" if end == "largest" else "largest"
        opposite = float(columns[name][opposite_end])
        count = count_outliers(farthest_first, opposite, scales[name])
        if count:
            smallest, largest = sorted([farthest_first[count], opposite])
            all_outliers.append(
                Outliers(
                    column=name,
                    count=count,
                    farthest=farthest_first[0],
                    smallest=smallest,
                    largest=largest,
                )
            )
    return all_outliers


def count_outliers(extremes: Sequence[float], opposite: float, scale: Scale) -> int:
    """Return how many of the numbers at one end of a column are outliers.

    `extremes` begin with the farthest number and end with one that is no outlier;
    `opposite` is the number at the other end of the column. For example, 1 number is an
    outlier if `extremes` is [9e9, 812, 790, 777] and `opposite` is 3.
    """
    converted = [scale.convert(number) for number in extremes]
    for count in range(1, len(converted)):
        gap = abs(converted[count - 1] - converted[count])
        range_of_others = abs(converted[count] - scale.convert(opposite))
        is_far = (
            abs(extremes[count - 1] - scale.median)
            > FAR_AWAY * scale.interquartile_range
        )
        if is_far and gap > range_of_others:
            return count
    return 0


def _describe_outliers(outliers: Outliers, sources: Sequence[Source]) -> str:
    """Return the sentences of a note, with the place of the farthest number."""
    place = _find_number(outliers.column, outliers.farthest, sources)
    number = f"{outliers.farthest:.15g}{place}"
    usual_range = f"{outliers.smallest:.15g} to {outliers.largest:.15g}"
    if outliers.count == 1:
        return (
            f"column '{outliers.column}' holds {number}, and otherwise numbers from"
            f" {usual_range}: if it is a mistake, correct it or replace it by null in"
            " features() in prep.py."
        )
    return (
        f"column '{outliers.column}' holds {number}, and {outliers.count - 1} more far"
        f" from all others, which are {usual_range}: if they are mistakes, correct them or"
        " replace them by null in features() in prep.py."
    )


def _find_number(name: str, number: float, sources: Sequence[Source]) -> str:
    """Return the first place of a number, such as " in line 7 of a.csv", or ""."""
    for source in sources:
        column = source.columns.get(name)
        if column is None or column.type is None:
            continue
        is_number = column.values.cast(NUMBER, strict=False) == number
        rows = source.frame.select(is_number=is_number).with_row_index("row")
        first = rows.filter("is_number").head(1).collect(engine="streaming")
        if not first.is_empty():
            return f" in {describe_place(source, first['row'][0])}"
    return ""
