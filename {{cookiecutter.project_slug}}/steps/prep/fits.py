"""Find the first parser that fits each column of text, of one or many files.

A parser fits a column if it loses no value. All columns with the same parsers are parsed
together, stacked as one long column: a polars query with several expressions for each of
thousands of columns, or of thousands of files, would take minutes and gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
from parsers import ColumnParsers, ParsedText, Parser
from sources import FILE, count_values

SAMPLED_ROWS = 30  # of each file, which rule most parsers out
VALUES_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class ValueCounts:
    """The number of values of a column, as one parser reads them."""

    #: Values that are parsed and not odd.
    fitting: int
    #: Values that must be parsed.
    filled: int
    #: The same, including words such as NA.
    filled_or_word: int
    #: Numbers other than infinities. Of other types, any number above 0.
    not_infinite: int

    @property
    def all_fit(self) -> bool:
        """Return whether the parser loses no value."""
        return self.fitting == self.filled


@dataclass(frozen=True)
class Fit:
    """A parser that fits a column, and the numbers of the column's values."""

    parser: Parser
    counts: ValueCounts


def find_fit(values: pl.Series, parsers: ColumnParsers) -> Fit:
    """Return the first parser that fits the values of one column, of which it has any."""
    texts = values.to_frame("0").select(pl.lit(0, pl.UInt32).alias(FILE), pl.all())
    (fit,) = find_fits(texts, [parsers])[0]
    return fit


def find_fits(
    texts: pl.DataFrame, parsers: Sequence[ColumnParsers]
) -> dict[int, list[Fit]]:
    """Return the first parser that fits each column, for each file by its number.

    `texts` has the column FILE and the columns "0", "1" and so on of text. `parsers` are
    those of these columns. A file without rows is not in the result.
    """
    width = len(parsers)
    fits_by_group: dict[int, Fit] = {}
    for positions in _divide_columns(parsers, len(texts)):
        values = _stack_columns(texts, positions, width)
        fits_by_group |= _find_fits_of_groups(values, parsers[positions[0]])

    files = texts[FILE].unique(maintain_order=True).to_list()
    return {
        file: [fits_by_group[file * width + position] for position in range(width)]
        for file in files
    }


def list_fits_without_rows(parsers: Sequence[ColumnParsers]) -> list[Fit]:
    """Return the first parser of each column of a file without rows: any of them fits."""
    no_values = ValueCounts(fitting=0, filled=0, filled_or_word=0, not_infinite=0)
    return [Fit(column_parsers.parsers[0], no_values) for column_parsers in parsers]


def count_parsed_values(
    columns: Sequence[ParsedText], rows: pl.LazyFrame
) -> list[ValueCounts]:
    """Count the values of each column, all in one pass over the rows."""
    fitting = [column.fitting for column in columns]
    filled = [column.filled for column in columns]
    filled_or_word = [column.filled_or_word for column in columns]
    not_infinite = [column.not_infinite for column in columns]
    counts = count_values(rows, [*fitting, *filled, *filled_or_word, *not_infinite])

    number = len(columns)
    counts_by_column = zip(
        counts[:number],
        counts[number : 2 * number],
        counts[2 * number : 3 * number],
        counts[3 * number :],
        strict=True,
    )
    return [ValueCounts(*counts_of_column) for counts_of_column in counts_by_column]


def _divide_columns(parsers: Sequence[ColumnParsers], rows: int) -> Iterator[list[int]]:
    """Yield the positions of columns with the same parsers, a few at a time."""
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
    """Return the values of some columns below each other, with the columns

    - `group`, the number of the file times `width`, plus the position of the column,
    - `row`, which counts the rows of the file, and
    - `text` and `stripped`, without spaces around it.
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


def _find_fits_of_groups(
    values: pl.DataFrame, parsers: ColumnParsers
) -> dict[int, Fit]:
    """Return for each group of values the first parser that fits it."""
    *typed_parsers, text_parser = parsers.parsers
    fits: dict[int, Fit] = {}
    for parser in typed_parsers:
        new_fits = _fit_groups(values, parser)
        if new_fits:
            fits |= new_fits
            values = values.filter(~pl.col("group").is_in(list(new_fits)))
    # Only text fits the other groups, unless their first value suggests a date format.
    fits_by_value = _find_fits_by_value(values, parsers)
    return fits | _fit_groups(values, text_parser) | fits_by_value


def _fit_groups(values: pl.DataFrame, parser: Parser) -> dict[int, Fit]:
    """Return the groups that a parser fits."""
    sample = values.filter(pl.col("row") < SAMPLED_ROWS)
    counts = _count_fitting_groups(sample, parser)
    if len(sample) < len(values) and not counts.is_empty():
        rows = values.filter(pl.col("group").is_in(counts["group"].implode()))
        counts = _count_fitting_groups(rows, parser)
    return {
        group: Fit(parser, ValueCounts(*sums)) for group, *sums in counts.iter_rows()
    }


def _find_fits_by_value(values: pl.DataFrame, parsers: ColumnParsers) -> dict[int, Fit]:
    """Return the groups that fit a parser which their first value suggests."""
    if parsers.find_by_value is None or parsers.null_if_missing is None:
        return {}
    first_values = (
        values.select("group", value=parsers.null_if_missing(pl.col("stripped")))
        .drop_nulls("value")
        .unique("group", keep="first")
    )
    groups_by_parser: dict[Parser, list[int]] = {}
    for group, value in first_values.iter_rows():
        parser = parsers.find_by_value(value)
        if parser is not None:
            groups_by_parser.setdefault(parser, []).append(group)

    fits: dict[int, Fit] = {}
    for parser, groups in groups_by_parser.items():
        rows = values.filter(pl.col("group").is_in(groups))
        fits |= _fit_groups(rows, parser)
    return fits


def _count_fitting_groups(values: pl.DataFrame, parser: Parser) -> pl.DataFrame:
    """Count the values of each group that a parser fits.

    The table has the column `group` and the fields of ValueCounts, in their order.
    """
    parsed = parser.parse(pl.col("text"), pl.col("stripped"))
    return (
        values.lazy()
        .select(
            "group",
            fitting=parsed.fitting.is_not_null(),
            filled=parsed.filled.is_not_null(),
            filled_or_word=parsed.filled_or_word.is_not_null(),
            not_infinite=parsed.not_infinite.is_not_null(),
        )
        .group_by("group")
        .agg(pl.all().sum())
        .filter(pl.col("fitting") == pl.col("filled"))
        .collect()
    )
