"""Infer the type of each column of a CSV file: the narrowest that loses none of its values.

The first rows rule out most types, so that only one or two are tried on the whole file. If
the first rows are trusted, their types are used as a guess, and no other row is read here.
Instead, `Source.contradicts_types` marks the rows that contradict the guess, and is
evaluated while all rows are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
from column_rules import create_rules
from csv_file import CsvFile
from fits import (
    Fit,
    ValueCounts,
    count_parsed_values,
    find_fits,
    list_fits_of_empty_file,
)
from parsers import ColumnParsers, ParsedText, list_parsers
from read_options import ReadOptions
from sources import FILE, FIRST_ROWS, TEXT, Column, Source
from text_values import TextFormat, is_time_of_day, null_if_missing

# Types are guessed from at most this many values, but from at least this many rows.
FIRST_VALUES = 4_000_000
FEWEST_FIRST_ROWS = 100


@dataclass(frozen=True)
class InferredColumn:
    """A column of a CSV file, as the parser that fits it reads it."""

    #: The name in the first line of the file, which may be empty.
    header: str
    #: The text of the column without spaces around it.
    stripped: pl.Expr
    parsed: ParsedText
    counts: ValueCounts


def infer_csv_source(
    frame: pl.LazyFrame, file: CsvFile, options: ReadOptions, *, trust_first_rows: bool
) -> Source:
    """Return a CSV file as a source, with the narrowest type for each column.

    If the first rows are trusted, the types are guessed from them, and the source marks
    the rows that contradict the guess.
    """
    parsers = list_column_parsers(file.header, options)
    row_limit = count_first_rows(file)
    first_rows = frame.head(row_limit).collect(engine="streaming")
    file_has_more_rows = len(first_rows) == row_limit

    if not file_has_more_rows:
        fits = _fit_first_rows(first_rows, parsers)
        return _build_source(frame, file, fits, options)
    if trust_first_rows:
        fits = _fit_first_rows(first_rows, parsers)
        return _build_guessed_source(frame, file, fits, options)
    fits = _fit_all_rows(first_rows, frame, parsers, options.text_format)
    return _build_source(frame, file, fits, options)


def infer_text_column(
    frame: pl.LazyFrame, name: str, text: pl.Expr, options: ReadOptions
) -> Column:
    """Return a text column of a Parquet file in the type it would have in a CSV file."""
    texts = frame.select(text.alias("0"))
    first_rows = texts.head(FIRST_ROWS).collect(engine="streaming")
    parsers = list_column_parsers([name], options)
    (fit,) = _fit_all_rows(first_rows, texts, parsers, options.text_format)
    parsed = fit.parser.parse(text, text.str.strip_chars())
    return Column(
        type=parsed.value_type.dtype if fit.counts.filled else None,
        values=parsed.accepted_values,
        holds_times=is_time_of_day(parsed.value_type),
    )


def count_first_rows(file: CsvFile) -> int:
    """Return the number of first rows of a file. It is smaller for wide files."""
    rows = max(FEWEST_FIRST_ROWS, FIRST_VALUES // len(file.header))
    return min(FIRST_ROWS, rows)


def list_column_parsers(
    header: Sequence[str], options: ReadOptions
) -> list[ColumnParsers]:
    """Return the parsers that are tried for each column of a file."""
    return [
        list_parsers(create_rules(name, options.roles), options.text_format)
        for name in header
    ]


# From inferred columns to a source


def build_columns(
    inferred_columns: Sequence[InferredColumn], options: ReadOptions
) -> dict[str, Column]:
    """Return the columns of a source by their names.

    A column without a name gets the name that `create_placeholder_name` returns.
    """
    columns: dict[str, Column] = {}
    for position, inferred in enumerate(inferred_columns):
        name = inferred.header or create_placeholder_name(position)
        columns[name] = _build_column(inferred, options)
    return columns


def _build_column(inferred: InferredColumn, options: ReadOptions) -> Column:
    """Return an inferred column as a column of a source."""
    parsed = inferred.parsed
    counts = inferred.counts
    has_values = counts.filled > 0

    # If a column holds nothing but words such as NA or Inf, `choose_types` decides
    # whether they are text. Inf is parsed as a number, which is not finite.
    values_as_text = None
    may_hold_only_words = not has_values or not counts.finite
    if may_hold_only_words:
        rules = create_rules(inferred.header, options.roles)
        values_as_text = rules.select_values_of_text(
            inferred.stripped, options.text_format
        )

    return Column(
        type=parsed.value_type.dtype if has_values else None,
        values=parsed.accepted_values,
        csv_text=inferred.stripped,
        values_as_text=values_as_text,
        holds_times=is_time_of_day(parsed.value_type),
        marker_count=counts.filled_or_marker - counts.filled,
    )


def create_placeholder_name(position: int) -> str:
    """Return the name that a column without a name in the first line gets.

    It begins with a NUL, so that it differs from the name of every other column.
    """
    return f"\0{position}"


def _build_source(
    frame: pl.LazyFrame, file: CsvFile, fits: Sequence[Fit], options: ReadOptions
) -> Source:
    """Return a CSV file as a source, with the types that fit all of its rows."""
    stripped = [pl.col(position).str.strip_chars() for position in file.positions]
    inferred_columns = _parse_columns(file, stripped, fits)
    columns = build_columns(inferred_columns, options)
    return Source(file.name, frame, columns, csv_file=file)


def _build_guessed_source(
    frame: pl.LazyFrame, file: CsvFile, fits: Sequence[Fit], options: ReadOptions
) -> Source:
    """Return a CSV file as a source that marks the rows that contradict its types."""
    # Several expressions use the stripped text of a column, so it is computed once, as a
    # further column of the frame.
    stripped_names = [f"{position} stripped" for position in file.positions]
    frame = frame.with_columns(
        pl.col(position).str.strip_chars().alias(name)
        for position, name in zip(file.positions, stripped_names)
    )
    stripped = [pl.col(name) for name in stripped_names]
    inferred_columns = _parse_columns(file, stripped, fits)
    columns = build_columns(inferred_columns, options)
    source = Source(file.name, frame, columns, csv_file=file)
    return _mark_contradicting_rows(source, inferred_columns)


def _parse_columns(
    file: CsvFile, stripped: Sequence[pl.Expr], fits: Sequence[Fit]
) -> list[InferredColumn]:
    """Parse each column of a file by the parser that fits it."""
    texts = [pl.col(position) for position in file.positions]
    inferred_columns = []
    for i, fit in enumerate(fits):
        inferred = InferredColumn(
            header=file.header[i],
            stripped=stripped[i],
            parsed=fit.parser.parse(texts[i], stripped[i]),
            counts=fit.counts,
        )
        inferred_columns.append(inferred)
    return inferred_columns


# Finding the parsers that fit


def _fit_first_rows(rows: pl.DataFrame, parsers: Sequence[ColumnParsers]) -> list[Fit]:
    """Return the first parser that fits each column in the first rows of a file."""
    if rows.is_empty():
        return list_fits_of_empty_file(parsers)
    file_number = pl.lit(0, pl.UInt32).alias(FILE)
    texts = rows.select(file_number, pl.all())
    return find_fits(texts, parsers)[0]


def _fit_all_rows(
    first_rows: pl.DataFrame,
    frame: pl.LazyFrame,
    parsers: Sequence[ColumnParsers],
    text_format: TextFormat,
) -> list[Fit]:
    """Return the first parser that fits each column in all rows of a file.

    In each pass over the file, the next parser that fits the first rows is tried for
    every undecided column. Text, the last parser, always fits.
    """
    first_rows = _fill_empty_columns(first_rows, frame, text_format)
    fits: dict[int, Fit] = {}
    untried = dict(enumerate(parsers))
    while untried:
        first_fits = _fit_undecided_columns(first_rows, untried)
        counts_in_all_rows = _count_in_all_rows(frame, first_fits)
        for position, fit in first_fits.items():
            counts = counts_in_all_rows[position]
            if counts.all_accepted:
                fits[position] = Fit(fit.parser, counts)
                del untried[position]
            else:
                untried[position] = untried[position].drop_tried(fit.parser)
    return [fits[position] for position in range(len(parsers))]


def _fit_undecided_columns(
    first_rows: pl.DataFrame, untried: Mapping[int, ColumnParsers]
) -> dict[int, Fit]:
    """Return the first parser that fits the first rows of each undecided column.

    `untried` has the parsers that are still to be tried, by the column's position.
    """
    # `find_fits` expects columns that are named "0", "1" and so on.
    texts = first_rows.select(
        pl.col(str(position)).alias(str(number))
        for number, position in enumerate(untried)
    )
    fits = _fit_first_rows(texts, list(untried.values()))
    return dict(zip(untried, fits))


def _count_in_all_rows(
    frame: pl.LazyFrame, fits: Mapping[int, Fit]
) -> dict[int, ValueCounts]:
    """Count the values of columns in all rows, each by the parser that may fit it."""
    parsed_columns = []
    for position, fit in fits.items():
        text = pl.col(str(position))
        parsed_columns.append(fit.parser.parse(text, text.str.strip_chars()))
    counts = count_parsed_values(parsed_columns, frame)
    return dict(zip(fits, counts))


def _fill_empty_columns(
    first_rows: pl.DataFrame, frame: pl.LazyFrame, text_format: TextFormat
) -> pl.DataFrame:
    """Return the first rows, in which each empty column gets its first value of all rows."""
    present = null_if_missing(pl.all().str.strip_chars(), text_format)
    value_counts = first_rows.select(present.count()).row(0, named=True)
    empty = [name for name, count in value_counts.items() if not count]
    if not empty:
        return first_rows

    present = null_if_missing(pl.col(empty).str.strip_chars(), text_format)
    first_values = frame.select(present.drop_nulls().first())
    value_by_name = first_values.collect(engine="streaming").row(0, named=True)
    return first_rows.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in value_by_name.items()
    )


# Verifying guessed types


def _mark_contradicting_rows(
    source: Source, inferred_columns: Sequence[InferredColumn]
) -> Source:
    """Return the source with marks on the rows that contradict the guessed types.

    The source also marks the rows with words such as NA, because only those in the first
    rows have been counted so far.
    """
    values_by_name: dict[str, pl.Expr] = {}
    contradictions = [source.contradicts_types]
    columns: dict[str, Column] = {}
    for (name, column), inferred in zip(source.columns.items(), inferred_columns):
        # The values are needed for the output and for the checks. They are computed once,
        # as a further column of the frame.
        values_name = f"{len(values_by_name)} values"
        values_by_name[values_name] = inferred.parsed.values
        values = pl.col(values_name)
        contradictions += _find_contradictions(column, inferred.parsed, values)
        columns[name] = replace(
            column,
            values=values,
            is_marker=_find_missing_words(inferred.parsed, values),
        )
    return replace(
        source,
        frame=source.frame.with_columns(**values_by_name),
        columns=columns,
        contradicts_types=pl.any_horizontal(contradictions),
    )


def _find_contradictions(
    column: Column, parsed: ParsedText, values: pl.Expr
) -> list[pl.Expr]:
    """Return expressions that are True in rows that contradict the column's type."""
    contradictions = []
    if column.type is None:
        # The first rows hold no value, so no row may hold one. If they do not even hold
        # a missing word, no row may hold such a word either.
        has_words = column.marker_count > 0
        unexpected = parsed.filled_text if has_words else parsed.filled_text_or_marker
        contradictions.append(unexpected.is_not_null())
    elif column.type != TEXT:
        # Text that cannot be parsed contradicts every type but text.
        contradictions.append(values.is_null() & parsed.filled_text.is_not_null())
    if parsed.mark_suspicious is not None:
        contradictions.append(parsed.mark_suspicious(values))
    return contradictions


def _find_missing_words(parsed: ParsedText, values: pl.Expr) -> pl.Expr | None:
    """Return whether each row holds a word such as NA, or None if words do not matter."""
    if parsed.text_with_markers is None:
        return None
    return values.is_null() & parsed.text_with_markers.is_not_null()
