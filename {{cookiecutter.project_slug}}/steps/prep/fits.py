"""Find the first parser that fits each column of text, of one or many files.

A parser fits a column if it loses no value. The values of one column in one file are
called a group. Groups for which the same parsers are tried are stacked as one long column,
which is parsed at once. Two files with two columns become four groups:

    file  "0"  "1"               group  text
    0     7    2026-01-31        0      7            column 0 of file 0
    1     8.5  2026-02-28        2      8.5          column 0 of file 1
                                 1      2026-01-31   column 1 of file 0
                                 3      2026-02-28   column 1 of file 1

Parsing each group by itself would take minutes and gigabytes, as polars would have several
expressions for each of thousands of columns, or of thousands of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
from parsers import ColumnParsers, ParsedText, Parser
from sources import FILE, count_values

# A parser is tried on this many rows of each file before it is tried on all rows.
SAMPLED_ROWS = 30
VALUES_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class ValueCounts:
    """The number of values in each field of a column's `ParsedText`."""

    accepted: int
    filled: int
    filled_or_marker: int
    finite: int

    @property
    def all_accepted(self) -> bool:
        """Return whether the parser loses no value."""
        return self.accepted == self.filled


NO_VALUES = ValueCounts(accepted=0, filled=0, filled_or_marker=0, finite=0)


@dataclass(frozen=True)
class Fit:
    """A parser that fits a column, and the counts of the column's values."""

    parser: Parser
    counts: ValueCounts


# Public functions


def find_fit(values: pl.Series, parsers: ColumnParsers) -> Fit:
    """Return the first parser that fits the values of a single column."""
    file_number = pl.lit(0, pl.UInt32).alias(FILE)
    texts = values.to_frame("0").select(file_number, pl.all())
    fits_by_file = find_fits(texts, [parsers])
    return fits_by_file[0][0]


def find_fits(
    texts: pl.DataFrame, parsers: Sequence[ColumnParsers]
) -> dict[int, list[Fit]]:
    """Return the first parser that fits each column, by the number of the file.

    `texts` has the number of each row's file in FILE, and columns of text named "0", "1"
    and so on. `parsers` are the parsers of these columns. A file without rows is not in
    the result.
    """
    width = len(parsers)
    fits_by_group: dict[int, Fit] = {}
    for positions in _divide_columns(parsers, rows=len(texts)):
        groups = _stack_columns(texts, positions, width)
        shared_parsers = parsers[positions[0]]
        fits_by_group |= _try_all_parsers(groups, shared_parsers)

    fits_by_file: dict[int, list[Fit]] = {}
    for file in texts[FILE].unique(maintain_order=True):
        # See `_stack_columns` for the number of a group.
        first_group = file * width
        groups_of_file = range(first_group, first_group + width)
        fits_by_file[file] = [fits_by_group[group] for group in groups_of_file]
    return fits_by_file


def list_fits_of_empty_file(parsers: Sequence[ColumnParsers]) -> list[Fit]:
    """Return the first parser of each column. Every parser fits a file without rows."""
    return [Fit(column_parsers.parsers[0], NO_VALUES) for column_parsers in parsers]


def count_parsed_values(
    columns: Sequence[ParsedText], rows: pl.LazyFrame
) -> list[ValueCounts]:
    """Count the values of each column, all in one pass over the rows."""
    expressions: list[pl.Expr] = []
    for column in columns:
        expressions += [
            column.accepted_values,
            column.filled_text,
            column.filled_text_or_marker,
            column.finite_values,
        ]
    counts = count_values(rows, expressions)

    counts_of_columns = []
    for start in range(0, len(counts), 4):
        accepted, filled, filled_or_marker, finite = counts[start : start + 4]
        counts_of_columns.append(
            ValueCounts(accepted, filled, filled_or_marker, finite)
        )
    return counts_of_columns


# Stacking columns


def _divide_columns(parsers: Sequence[ColumnParsers], rows: int) -> Iterator[list[int]]:
    """Yield the positions of columns that share their parsers, in batches.

    The columns of a batch hold at most VALUES_AT_A_TIME values, or there is only one.
    """
    positions_by_parsers: dict[ColumnParsers, list[int]] = {}
    for position, column_parsers in enumerate(parsers):
        positions_by_parsers.setdefault(column_parsers, []).append(position)

    columns_at_a_time = max(1, VALUES_AT_A_TIME // max(1, rows))
    for positions in positions_by_parsers.values():
        for start in range(0, len(positions), columns_at_a_time):
            yield positions[start : start + columns_at_a_time]


def _stack_columns(
    texts: pl.DataFrame, positions: list[int], width: int
) -> pl.DataFrame:
    """Stack the columns at these positions. The result has the columns

    - `group`, which is the number of the file times `width`, plus the column's position,
    - `row`, the number of the row in its file,
    - `text`, and
    - `stripped`, the text without spaces around it.
    """
    row = pl.int_range(pl.len(), dtype=pl.UInt32).over(FILE)
    group = pl.col(FILE).cast(pl.Int64) * width + pl.col("position").cast(pl.Int64)
    stripped = pl.col("text").str.strip_chars()
    columns = [str(position) for position in positions]
    stacked = texts.select(FILE, row.alias("row"), *columns).unpivot(
        index=[FILE, "row"], variable_name="position", value_name="text"
    )
    return stacked.select(
        group.alias("group"), "row", "text", stripped.alias("stripped")
    )


# Fitting groups


def _try_all_parsers(groups: pl.DataFrame, parsers: ColumnParsers) -> dict[int, Fit]:
    """Return the first parser that fits each group, from the narrowest type to text."""
    *typed_parsers, text_parser = parsers.parsers
    fits: dict[int, Fit] = {}
    for parser in typed_parsers:
        new_fits = _try_parser(groups, parser)
        if new_fits:
            fits |= new_fits
            is_fitted = pl.col("group").is_in(list(new_fits))
            groups = groups.filter(~is_fitted)

    # Text fits all other groups. A date format that fits replaces it.
    fits |= _try_parser(groups, text_parser)
    fits |= _try_suggested_parsers(groups, parsers)
    return fits


def _try_parser(groups: pl.DataFrame, parser: Parser) -> dict[int, Fit]:
    """Return a fit for each group that a parser fits."""
    sample = groups.filter(pl.col("row") < SAMPLED_ROWS)
    fitting = _select_fitting_groups(sample, parser)
    if len(sample) < len(groups) and not fitting.is_empty():
        # Only groups whose sample fits are parsed in full.
        is_candidate = pl.col("group").is_in(fitting["group"].implode())
        fitting = _select_fitting_groups(groups.filter(is_candidate), parser)
    return {
        group: Fit(parser, ValueCounts(*counts))
        for group, *counts in fitting.iter_rows()
    }


def _try_suggested_parsers(
    groups: pl.DataFrame, parsers: ColumnParsers
) -> dict[int, Fit]:
    """Return the fits of groups by the parsers that their first values suggest."""
    if parsers.suggest_parser is None or parsers.null_if_missing is None:
        return {}
    not_missing = parsers.null_if_missing(pl.col("stripped"))
    first_values = (
        groups.select("group", value=not_missing)
        .drop_nulls("value")
        .unique("group", keep="first")
    )

    groups_by_parser: dict[Parser, list[int]] = {}
    for group, value in first_values.iter_rows():
        parser = parsers.suggest_parser(value)
        if parser is not None:
            groups_by_parser.setdefault(parser, []).append(group)

    fits: dict[int, Fit] = {}
    for parser, candidates in groups_by_parser.items():
        is_candidate = pl.col("group").is_in(candidates)
        fits |= _try_parser(groups.filter(is_candidate), parser)
    return fits


def _select_fitting_groups(groups: pl.DataFrame, parser: Parser) -> pl.DataFrame:
    """Return a row for each group that a parser fits, with the group's value counts.

    Its columns are `group` and the fields of ValueCounts, in their order.
    """
    parsed = parser.parse(pl.col("text"), pl.col("stripped"))
    return (
        groups.lazy()
        .select(
            "group",
            accepted=parsed.accepted_values.is_not_null(),
            filled=parsed.filled_text.is_not_null(),
            filled_or_marker=parsed.filled_text_or_marker.is_not_null(),
            finite=parsed.finite_values.is_not_null(),
        )
        .group_by("group")
        .agg(pl.all().sum())
        .filter(pl.col("accepted") == pl.col("filled"))
        .collect()
    )
