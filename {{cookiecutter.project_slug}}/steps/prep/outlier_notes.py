"""Write notes on a few numbers that are far from all other numbers of their column.

Most such numbers are typing errors, or stand for a missing value. One of them can spoil a
mean, and with it the features and the models that use a mean.
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
# In a column with fewer values than this, it is not clear what is usual.
MIN_VALUES = 50
# If more numbers than this are far from the others, they are not exceptions.
MAX_OUTLIERS = 3
# An outlier is more than this many interquartile ranges away from the median.
FAR_AWAY = 20


@dataclass(frozen=True)
class Scale:
    """A scale that is linear around the median of a column, and logarithmic far from it.

    A position on the scale is the inverse hyperbolic sine of the distance to the median,
    measured in interquartile ranges. Numbers that grow exponentially, such as incomes and
    populations, have about equal distances on this scale, so that the largest of them does
    not look like an outlier.
    """

    median: float
    interquartile_range: float

    def convert(self, number: float) -> float:
        """Return the position of a number on the scale. The median is at 0."""
        return asinh((number - self.median) / self.interquartile_range)

    def is_far_away(self, number: float) -> bool:
        """Return whether a number is far from the median, by more than FAR_AWAY ranges.

        A range is the interquartile range of the column.
        """
        distance = abs(number - self.median)
        return distance > FAR_AWAY * self.interquartile_range


@dataclass(frozen=True)
class ColumnEnd:
    """One of the two ends of a column: its smallest or its largest numbers."""

    column: str
    #: "smallest" or "largest". These are also the names of the statistics of the column.
    side: str

    @property
    def opposite_side(self) -> str:
        """Return "smallest" for "largest", and the other way round."""
        return "smallest" if self.side == "largest" else "largest"


@dataclass(frozen=True)
class Outliers:
    """Numbers at one end of a column that are far from all other numbers of the column."""

    column: str
    #: The number of outliers.
    count: int
    #: The outlier that is farthest from the other numbers.
    farthest: float
    #: The smallest and the largest of the other numbers.
    smallest: float
    largest: float


def note_outliers(
    table: pl.LazyFrame,
    sample: pl.DataFrame,
    columns: Mapping[str, Mapping[str, Any]],
    skipped_names: Collection[str],
    sources: Sequence[Source],
) -> list[Note]:
    """Return notes on columns with outliers.

    An outlier is a number that is far from all other numbers of its column. Each note names
    the file and the row of the most extreme outlier. The usual spread of the numbers is
    measured in the sample, and outliers are searched in all rows.

    `table` has the prepared rows, and `sample` some of these rows. `columns` has the
    statistics of each column, such as its `smallest` number. Columns in `skipped_names` get
    no note.
    """
    scales: dict[str, Scale] = {}
    for name, statistics in columns.items():
        if name in skipped_names or statistics["type"] not in NUMERIC_TYPES:
            continue
        # polars reads a name such as `^a$` as a pattern, so the numbers get another name.
        scale = measure_scale(sample[name].alias("number"))
        if scale is not None:
            scales[name] = scale
    return [
        Note(_describe_outliers(outliers, sources), column=outliers.column)
        for outliers in find_outliers(table, scales, columns)
    ]


def measure_scale(numbers: pl.Series) -> Scale | None:
    """Measure the median and the interquartile range of a column.

    Returns None if the column has fewer than MIN_VALUES numbers, or if the middle half of
    them has no finite, positive range.
    """
    numbers = numbers.cast(NUMBER).drop_nulls().drop_nans()
    if len(numbers) < MIN_VALUES:
        return None
    lower_quartile = numbers.quantile(0.25)
    median = numbers.quantile(0.5)
    upper_quartile = numbers.quantile(0.75)
    # polars returns None only for a column without numbers.
    assert lower_quartile is not None
    assert median is not None
    assert upper_quartile is not None

    interquartile_range = upper_quartile - lower_quartile
    # The range is 0 if at least half of the numbers are equal, and it is not finite if many
    # of them are infinite.
    if not 0 < interquartile_range < float("inf"):
        return None
    return Scale(median, interquartile_range)


def find_outliers(
    table: pl.LazyFrame,
    scales: Mapping[str, Scale],
    columns: Mapping[str, Mapping[str, Any]],
) -> list[Outliers]:
    """Find the outliers at both ends of each column that has a scale.

    `scales` has the scales, and `columns` the statistics of each column, by its name. Up to
    MAX_OUTLIERS numbers at an end of a column are outliers if two conditions hold:

    - They are far from the median.
    - The gap between them and all other numbers is wider than the range of these other
      numbers. Both are measured on the scale of the column.

    The second condition says that Dixon's ratio of the gap to the whole range is above one
    half (W. J. Dixon, "Analysis of extreme values", Annals of Mathematical Statistics 21,
    1950).
    """
    # Reading the rows takes time. It is only needed for ends with a number far away.
    ends: list[ColumnEnd] = []
    for name, scale in scales.items():
        for side in ("smallest", "largest"):
            if scale.is_far_away(float(columns[name][side])):
                ends.append(ColumnEnd(name, side))
    if not ends:
        return []

    extremes_by_end = _read_extremes(table, ends, list(columns))
    all_outliers = []
    for end, extremes in extremes_by_end.items():
        opposite_number = float(columns[end.column][end.opposite_side])
        count = count_outliers(extremes, opposite_number, scales[end.column])
        if count == 0:
            continue
        # All other numbers lie between the opposite end of the column and the first number
        # at this end that is not an outlier.
        first_other = extremes[count]
        all_outliers.append(
            Outliers(
                column=end.column,
                count=count,
                farthest=extremes[0],
                smallest=min(first_other, opposite_number),
                largest=max(first_other, opposite_number),
            )
        )
    return all_outliers


def _read_extremes(
    table: pl.LazyFrame, ends: Sequence[ColumnEnd], names: Sequence[str]
) -> dict[ColumnEnd, list[float]]:
    """Return the most extreme numbers at each of the `ends`, in one pass over the rows.

    An end is the side of a column with its smallest or its largest numbers. The numbers
    begin with the most extreme one, such as [9e9, 812, 790, 777] for the largest numbers.
    `names` are the names of all columns of the table.
    """
    # One more number is needed to measure the gap behind the last outlier.
    number_count = MAX_OUTLIERS + 1
    aggregations = []
    for i, end in enumerate(ends):
        # The column is selected by its position, because polars would treat a name such as
        # `^a$` as a pattern.
        column = pl.nth(names.index(end.column))
        numbers = column.cast(NUMBER).drop_nulls().drop_nans()
        if end.side == "largest":
            extremes = numbers.top_k(number_count)
        else:
            extremes = numbers.bottom_k(number_count)
        aggregations.append(extremes.implode().alias(str(i)))
    row = table.select(aggregations).collect(engine="streaming").row(0)
    return {
        end: sorted(extremes, reverse=end.side == "largest")
        for end, extremes in zip(ends, row, strict=True)
    }


def count_outliers(extremes: Sequence[float], opposite: float, scale: Scale) -> int:
    """Return how many of the numbers at one end of a column are outliers.

    `extremes` has the last few numbers at this end, beginning with the most extreme one,
    and `opposite` is the number at the other end. The first numbers in `extremes` are
    outliers if they are far from the median, and if the gap between them and all other
    numbers is wider than the range of these other numbers. For example, there is 1 outlier
    if `extremes` is [9e9, 812, 790, 777] and `opposite` is 3.
    """
    # The scale shortens large distances as a logarithm does. Without it, the last number of
    # 1, 10, 100 and 1000 would look like an outlier.
    positions = [scale.convert(number) for number in extremes]
    opposite_position = scale.convert(opposite)
    for count in range(1, len(extremes)):
        last_outlier = count - 1
        first_other = count
        gap = abs(positions[last_outlier] - positions[first_other])
        range_of_others = abs(positions[first_other] - opposite_position)
        if scale.is_far_away(extremes[last_outlier]) and gap > range_of_others:
            return count
    return 0


def _describe_outliers(outliers: Outliers, sources: Sequence[Source]) -> str:
    """Return the text of a note on the outliers of a column.

    An outlier is a number that is far from all other numbers. The text says where the
    farthest outlier is, and between which numbers the others lie.
    """
    farthest = f"{outliers.farthest:.15g}"
    place = _find_place_of_number(outliers.column, outliers.farthest, sources)
    if place is not None:
        farthest += f" in {place}"
    usual_range = f"{outliers.smallest:.15g} and {outliers.largest:.15g}"
    if outliers.count == 1:
        return (
            f"column '{outliers.column}' holds {farthest}, while all other numbers are"
            f" between {usual_range}. If it is a mistake, correct it, or replace it with"
            " null in features() in prep.py."
        )
    more_count = outliers.count - 1
    more = "1 more number" if more_count == 1 else f"{more_count} more numbers"
    return (
        f"column '{outliers.column}' holds {farthest} and {more} far from all others, which"
        f" are between {usual_range}. If these numbers are mistakes, correct them, or"
        " replace them with null in features() in prep.py."
    )


def _find_place_of_number(
    name: str, number: float, sources: Sequence[Source]
) -> str | None:
    """Return the place where a number first occurs in a column, such as "line 7 of a.csv".

    Returns None if no file has the number, because features() in prep.py computed it.
    """
    for source in sources:
        column = source.columns.get(name)
        if column is None or column.type is None:
            # The file has no such column, or the column has no values.
            continue
        is_number = column.values.cast(NUMBER, strict=False) == number
        rows = source.frame.select(is_number=is_number).with_row_index("row")
        first_row = rows.filter("is_number").head(1).collect(engine="streaming")
        if not first_row.is_empty():
            return describe_place(source, first_row["row"][0])
    return None
