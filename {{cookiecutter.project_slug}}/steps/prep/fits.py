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
from typing import TypeVar

import polars as pl
from parsers import ColumnParsers, ParsedText, Parser
from sources import FILE, count_values

# A parser is tried on this many rows of each file before it is tried on all rows.
SAMPLED_ROWS = 30
# At most this many values are stacked as one column, to limit the memory.
VALUES_AT_A_TIME = 2_000_000

# A number, or the expression of a column of numbers.
Number = TypeVar("Number", int, pl.Expr)


@dataclass(frozen=True)
class ValueCounts:
    """How many values of a column a parser accepts, and how many there are to accept.

    For example, a column holds 7, 007, NA and an empty value. The values 7 and 007 are
    filled. A parser of integers accepts only 7, because 007 may be a code.
    """

    #: The number of values that the parser can read without loss.
    accepted: int
    #: The number of values that are not missing.
    filled: int
    #: The number of filled values and markers, which are words such as NA. The markers only
    #: count if they could be values in a column of text.
    filled_or_marker: int
    #: The number of finite numbers. If the type is not a number, this is never 0.
    finite: int

    @property
    def all_accepted(self) -> bool:
        """Return whether the parser loses no value."""
        return self.accepted == self.filled


NO_VALUES = ValueCounts(accepted=0, filled=0, filled_or_marker=0, finite=0)


@dataclass(frozen=True)
class Fit:
    """The first parser that fits a column, and the counts of the column's values."""

    parser: Parser
    counts: ValueCounts


# Public functions


def find_fit(values: pl.Series, parsers: ColumnParsers) -> Fit:
    """Return the first parser that fits a single column of text, and its value counts."""
    file_number = pl.lit(0, pl.UInt32).alias(FILE)
    texts = values.to_frame("0").select(file_number, pl.all())
    fits_by_file = find_fits(texts, [parsers])
    return fits_by_file[0][0]


def find_fits(
    texts: pl.DataFrame, parsers: Sequence[ColumnParsers]
) -> dict[int, list[Fit]]:
    """Find the first parser that can read all values of each column of each file.

    Returns, for each file number, a list with the Fit of each column. A Fit holds the parser
    and the counts of the column's values. Files without rows are not in the result.

    `texts` has the rows of all files, with the number of the file in FILE, and the values
    as text in columns named "0", "1" and so on. `parsers` has the parsers to try, in the
    order of these columns.

    Columns with the same parsers are tried together, in batches: their values are stacked
    into one long column. Within a batch, a group is the part that comes from one column of
    one file.
    """
    column_count = len(parsers)
    fits_by_group: dict[int, Fit] = {}
    for positions in _divide_columns(parsers, row_count=len(texts)):
        values = _stack_columns(texts, positions, column_count)
        # All columns of a batch have the same parsers.
        shared_parsers = parsers[positions[0]]
        fits_by_group |= _try_all_parsers(values, shared_parsers)

    fits_by_file: dict[int, list[Fit]] = {}
    for file_number in texts[FILE].unique(maintain_order=True):
        fits_by_file[file_number] = [
            fits_by_group[_number_group(file_number, position, column_count)]
            for position in range(column_count)
        ]
    return fits_by_file


def list_fits_of_empty_file(parsers: Sequence[ColumnParsers]) -> list[Fit]:
    """Return the Fits of a file without rows: the first parser fits each column."""
    return [Fit(column_parsers.parsers[0], NO_VALUES) for column_parsers in parsers]


def count_parsed_values(
    columns: Sequence[ParsedText], rows: pl.LazyFrame
) -> list[ValueCounts]:
    """Return the value counts of each column, all counted in one pass over the rows."""
    expressions: list[pl.Expr] = []
    for column in columns:
        expressions += [
            column.accepted_values,
            column.filled_text,
            column.filled_text_or_marker,
            column.finite_values,
        ]
    # There are four counts for each column, in the order of these expressions.
    counts = iter(count_values(rows, expressions))
    return [
        ValueCounts(
            accepted=next(counts),
            filled=next(counts),
            filled_or_marker=next(counts),
            finite=next(counts),
        )
        for _ in columns
    ]


# Stacking columns


def _divide_columns(
    parsers: Sequence[ColumnParsers], row_count: int
) -> Iterator[list[int]]:
    """Yield batches of columns for which the same parsers are tried.

    A batch is a list of the columns' positions. It has at most VALUES_AT_A_TIME values, or
    a single column. `parsers` has the parsers of each column, and `row_count` is the number
    of rows.
    """
    positions_by_parsers: dict[ColumnParsers, list[int]] = {}
    for position, column_parsers in enumerate(parsers):
        positions_by_parsers.setdefault(column_parsers, []).append(position)

    columns_at_a_time = VALUES_AT_A_TIME // max(1, row_count)
    batch_size = max(1, columns_at_a_time)
    for positions in positions_by_parsers.values():
        for start in range(0, len(positions), batch_size):
            yield positions[start : start + batch_size]


def _stack_columns(
    texts: pl.DataFrame, positions: list[int], column_count: int
) -> pl.DataFrame:
    """Stack the columns at these positions into one long column.

    The result has a row for each value, with these columns:

    - `group`, the number of the value's column and file: if each file has 3 columns, the
      values of column 1 in file 2 are group 7 (files and columns count from 0),
    - `row`, the number of the row in its file,
    - `text`, the value, and
    - `stripped`, the value without spaces around it.

    `texts` has the number of each row's file in FILE, and `column_count` is the number of
    columns in each file.
    """
    row_in_file = pl.int_range(pl.len(), dtype=pl.UInt32).over(FILE)
    column_names = [str(position) for position in positions]
    stacked = texts.select(FILE, row_in_file.alias("row"), *column_names).unpivot(
        index=[FILE, "row"], variable_name="position", value_name="text"
    )
    # After unpivoting, `position` holds the names of the columns, such as "0". They are
    # converted back to numbers.
    position = pl.col("position").cast(pl.Int64)
    file_number = pl.col(FILE).cast(pl.Int64)
    group = _number_group(file_number, position, column_count)
    stripped = pl.col("text").str.strip_chars()
    return stacked.select(
        group.alias("group"), "row", "text", stripped.alias("stripped")
    )


def _number_group(file_number: Number, position: Number, column_count: int) -> Number:
    """Return the number of a group: the values of one column in one file.

    The columns of all files are numbered one after another, from 0: if each file has 3
    columns, the values of column 1 in file 2 are group 7.
    """
    return file_number * column_count + position


# Fitting groups


def _try_all_parsers(values: pl.DataFrame, parsers: ColumnParsers) -> dict[int, Fit]:
    """Return the Fit of the first parser that fits each group, by the group's number.

    A group has the values of one column in one file. Parsers are tried from the narrowest
    type to text. `values` has a row for each value, with its `group`, the number of its
    `row`, its `text`, and `stripped`, the text without spaces around it.
    """
    *typed_parsers, text_parser = parsers.parsers
    fits: dict[int, Fit] = {}
    undecided = values
    for parser in typed_parsers:
        new_fits = _try_parser(undecided, parser)
        if new_fits:
            fits |= new_fits
            is_decided = pl.col("group").is_in(list(new_fits))
            undecided = undecided.filter(~is_decided)

    # Every value fits text.
    fits |= _try_parser(undecided, text_parser)
    # The first value of a group may suggest a further parser, such as one for dates like
    # 31-Jan-2026. If this parser fits the group, its Fit replaces that of text.
    fits |= _try_suggested_parsers(undecided, parsers)
    return fits


def _try_parser(values: pl.DataFrame, parser: Parser) -> dict[int, Fit]:
    """Return a Fit for each group of values that a parser fits, by the group's number.

    A parser fits a group, the values of one column in one file, if it loses no value.
    `values` has a row for each value, with its `group`, the number of its `row`, its
    `text`, and `stripped`, the text without spaces around it.
    """
    # To save time, the parser is first tried on the first rows of each file. Only groups
    # whose first rows the parser fits are parsed in full.
    sample = values.filter(pl.col("row") < SAMPLED_ROWS)
    sample_counts = _count_values_of_fitting_groups(sample, parser)
    sample_is_whole_table = len(sample) == len(values)
    if sample_is_whole_table or sample_counts.is_empty():
        return _create_fits(parser, sample_counts)
    is_candidate = pl.col("group").is_in(sample_counts["group"].implode())
    counts = _count_values_of_fitting_groups(values.filter(is_candidate), parser)
    return _create_fits(parser, counts)


def _create_fits(parser: Parser, counts_by_group: pl.DataFrame) -> dict[int, Fit]:
    """Return a Fit of a parser for each row of `counts_by_group`, by the group's number.

    The columns of `counts_by_group` are `group` and the fields of ValueCounts.
    """
    fits: dict[int, Fit] = {}
    for row in counts_by_group.iter_rows(named=True):
        group = row.pop("group")
        fits[group] = Fit(parser, ValueCounts(**row))
    return fits


def _try_suggested_parsers(
    values: pl.DataFrame, parsers: ColumnParsers
) -> dict[int, Fit]:
    """Try on each group the parser that the group's first value suggests.

    A group has the values of one column in one file. For example, 31-Jan-2026 suggests a
    parser for dates in this format. Returns the Fit of each group that the suggested parser
    fits, by the group's number. `values` has a row for each value, with its `group`, the
    number of its `row`, its `text`, and `stripped`, the text without spaces around it.
    """
    groups_by_parser = _find_groups_by_suggested_parser(values, parsers)
    fits: dict[int, Fit] = {}
    for parser, groups in groups_by_parser.items():
        is_candidate = pl.col("group").is_in(groups)
        fits |= _try_parser(values.filter(is_candidate), parser)
    return fits


def _find_groups_by_suggested_parser(
    values: pl.DataFrame, parsers: ColumnParsers
) -> dict[Parser, list[int]]:
    """Return the numbers of the groups whose first value suggests a parser, by that parser.

    A group has the values of one column in one file. `values` has a row for each value,
    with its `group` and `stripped`, its text without spaces around it.
    """
    # The values of keys and ignored columns suggest no parser, so these columns have
    # neither of the two functions.
    if parsers.suggest_parser is None or parsers.null_if_missing is None:
        return {}
    value_or_null = parsers.null_if_missing(pl.col("stripped"))
    first_values = (
        values.select("group", value=value_or_null)
        .drop_nulls("value")
        .unique("group", keep="first")
    )
    groups_by_parser: dict[Parser, list[int]] = {}
    for group, first_value in first_values.iter_rows():
        parser = parsers.suggest_parser(first_value)
        if parser is not None:
            groups_by_parser.setdefault(parser, []).append(group)
    return groups_by_parser


def _count_values_of_fitting_groups(
    values: pl.DataFrame, parser: Parser
) -> pl.DataFrame:
    """Count the values of each group that the parser fits.

    A group has the values of one column in one file. The parser fits it if it accepts every
    value that is not missing. The result has a row for each of these groups. Its columns are
    `group` and the fields of ValueCounts. `values` has a row for each value, with its
    `group`, its `text`, and `stripped`, the text without spaces around it.
    """
    parsed = parser.parse(pl.col("text"), pl.col("stripped"))
    is_counted = values.lazy().select(
        "group",
        accepted=parsed.accepted_values.is_not_null(),
        filled=parsed.filled_text.is_not_null(),
        filled_or_marker=parsed.filled_text_or_marker.is_not_null(),
        finite=parsed.finite_values.is_not_null(),
    )
    # The sum of a column of booleans is the number of values that are True.
    counts = is_counted.group_by("group").agg(pl.all().sum())
    all_are_accepted = pl.col("accepted") == pl.col("filled")
    return counts.filter(all_are_accepted).collect()
