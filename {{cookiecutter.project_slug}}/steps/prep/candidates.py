"""Counting how many values of each column, of one or many files, fit each type.

The types that a column may have are its candidates. All columns are counted together, as
the groups of one long column of text: a plan of polars with several expressions for each
of thousands of columns, or of thousands of files, would take minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl
from sources import FILE, NUMBER
from text_values import Reading

SAMPLED_ROWS = 30  # of each file, which rule most candidates out
VALUES_AT_A_TIME = 2_000_000


@dataclass
class Candidate:
    """A column of a CSV file in one reading.

    The reading holds the column if every value that is `filled` can be read, and none of
    the `values` is odd. `filled_or_word` also counts the spellings of a missing value.
    """

    reading: Reading
    values: pl.Expr
    filled: pl.Expr
    filled_or_word: pl.Expr
    is_odd: Callable[[pl.Expr], pl.Expr] | None = None

    @cached_property
    def fitting(self) -> pl.Expr:
        """Return the values that are not odd."""
        if self.is_odd is None:
            return self.values
        return pl.when(~self.is_odd(self.values)).then(self.values)

    @property
    def finite(self) -> pl.Expr:
        """Return the numbers that are not infinite. All values of other types count."""
        if self.reading.dtype != NUMBER:
            return pl.lit(1)
        return pl.when(self.values.is_finite()).then(self.values)


# Makes a candidate of the text of a column, and of this text without blanks around it.
CandidateBuilder = Callable[[pl.Expr, pl.Expr], Candidate]


@dataclass(frozen=True)
class ColumnBuilders:
    """The candidates of columns of one kind.

    `usual` are tried for every column, the narrowest first and text last. For a column
    that none of these holds but text, `find_by_value` returns a further one, or None, by
    its first value: of the text without blanks, where `null_if_missing` is not null.
    """

    usual: tuple[CandidateBuilder, ...]
    null_if_missing: Callable[[pl.Expr], pl.Expr] | None = None
    find_by_value: Callable[[str], CandidateBuilder | None] | None = None

    def skip_through(self, build: CandidateBuilder) -> ColumnBuilders:
        """Return the candidates that are tried after `build` does not hold a column."""
        if build not in self.usual:
            # It was found by a value, so that only text is left.
            return ColumnBuilders(self.usual[-1:])
        following = self.usual[self.usual.index(build) + 1 :]
        return replace(self, usual=following)


@dataclass(frozen=True)
class CandidateCounts:
    """How many values of a candidate fit its type, of how many that are filled.

    `finite` counts the numbers among the fitting values, without infinities.
    """

    fitting: int
    filled: int
    filled_or_word: int
    finite: int = 0

    @property
    def all_fit(self) -> bool:
        """Return whether the type loses no value."""
        return self.fitting == self.filled


@dataclass(frozen=True)
class Fit:
    """A candidate that holds all values of a column, with their counts."""

    build: CandidateBuilder
    counts: CandidateCounts


def find_fits(
    texts: pl.DataFrame, builders: Sequence[ColumnBuilders]
) -> dict[int, list[Fit]]:
    """Return for each file the first candidate that holds all values of each column.

    `texts` has the column FILE and the columns "0", "1" and so on of text. `builders` are
    the candidates of these columns. Columns with the same candidates are counted together.
    """
    width = len(builders)
    fits_by_group: dict[int, Fit] = {}
    for positions in _divide_columns(builders, len(texts)):
        values = _stack_columns(texts, positions, width)
        fits_by_group |= _find_group_fits(values, builders[positions[0]])

    files = texts[FILE].unique(maintain_order=True).to_list()
    return {
        file: [fits_by_group[file * width + position] for position in range(width)]
        for file in files
    }


def _divide_columns(
    builders: Sequence[ColumnBuilders], rows: int
) -> Iterator[list[int]]:
    """Yield the positions of columns with the same candidates, a few at a time."""
    positions_by_builders: dict[ColumnBuilders, list[int]] = {}
    for position, column_builders in enumerate(builders):
        positions_by_builders.setdefault(column_builders, []).append(position)
    columns_at_a_time = max(1, VALUES_AT_A_TIME // max(1, rows))
    for positions in positions_by_builders.values():
        for start in range(0, len(positions), columns_at_a_time):
            yield positions[start : start + columns_at_a_time]


def _stack_columns(
    texts: pl.DataFrame, positions: list[int], width: int
) -> pl.DataFrame:
    """Return the values of some columns below each other, with the columns

    - `group`, a number for each file and column,
    - `row`, which counts the rows of the file, and
    - `text` and `stripped`, without blanks around it.
    """
    row = pl.int_range(pl.len(), dtype=pl.UInt32).over(FILE)
    group = pl.col(FILE).cast(pl.Int64) * width + pl.col("position").cast(pl.Int64)
    return (
        texts.select(FILE, row.alias("row"), *map(str, positions))
        .unpivot(index=[FILE, "row"], variable_name="position", value_name="text")
        .select(
            group.alias("group"),
            "row",
            "text",
            pl.col("text").str.strip_chars().alias("stripped"),
        )
    )


def _find_group_fits(values: pl.DataFrame, builders: ColumnBuilders) -> dict[int, Fit]:
    """Return for each group of values the first candidate that holds all of them."""
    *typed_builders, text_builder = builders.usual
    fits: dict[int, Fit] = {}
    for build in typed_builders:
        build_fits = _fit_candidate(values, build)
        if build_fits:
            fits |= build_fits
            values = values.filter(~pl.col("group").is_in(list(build_fits)))
    # Only text holds what is left, unless it is written in a form that has to be known.
    build_fits = _find_fits_by_value(values, builders)
    return fits | _fit_candidate(values, text_builder) | build_fits


def _fit_candidate(values: pl.DataFrame, build: CandidateBuilder) -> dict[int, Fit]:
    """Return the groups of which a candidate holds all values, with their counts."""
    sample = values.filter(pl.col("row") < SAMPLED_ROWS)
    counts = _count_fitting_groups(sample, build)
    if len(sample) < len(values) and not counts.is_empty():
        rows = values.filter(pl.col("group").is_in(counts["group"].implode()))
        counts = _count_fitting_groups(rows, build)
    return {
        group: Fit(build, CandidateCounts(*sums)) for group, *sums in counts.iter_rows()
    }


def _find_fits_by_value(
    values: pl.DataFrame, builders: ColumnBuilders
) -> dict[int, Fit]:
    """Return the groups that are held by a candidate which their first value suggests."""
    if builders.find_by_value is None or builders.null_if_missing is None:
        return {}
    first_values = (
        values.select("group", value=builders.null_if_missing(pl.col("stripped")))
        .drop_nulls("value")
        .unique("group", keep="first")
    )
    groups_by_builder: dict[CandidateBuilder, list[int]] = {}
    for group, value in first_values.iter_rows():
        build = builders.find_by_value(value)
        if build is not None:
            groups_by_builder.setdefault(build, []).append(group)

    fits: dict[int, Fit] = {}
    for build, groups in groups_by_builder.items():
        rows = values.filter(pl.col("group").is_in(groups))
        fits |= _fit_candidate(rows, build)
    return fits


def _count_fitting_groups(
    values: pl.DataFrame, build: CandidateBuilder
) -> pl.DataFrame:
    """Count the values of a candidate in each group of which it holds all values.

    The table has the column `group` and the fields of CandidateCounts, in their order.
    """
    candidate = build(pl.col("text"), pl.col("stripped"))
    return (
        values.lazy()
        .select(
            "group",
            fitting=candidate.fitting.is_not_null(),
            filled=candidate.filled.is_not_null(),
            filled_or_word=candidate.filled_or_word.is_not_null(),
            finite=candidate.finite.is_not_null(),
        )
        .group_by("group")
        .agg(pl.all().sum())
        .filter(pl.col("fitting") == pl.col("filled"))
        .collect()
    )
