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
    """A column of a CSV file, read by the parser that fits it."""

    #: The name in the header of the file, which may be empty.
    header: str
    #: The text of the column without spaces around it.
    stripped: pl.Expr
    parsed: ParsedText
    counts: ValueCounts


def infer_csv_source(
    frame: pl.LazyFrame, file: CsvFile, options: ReadOptions, *, trust_first_rows: bool
) -> Source:
    """Return a CSV file as a source, with the narrowest type that fits each column.

    If the first rows are trusted, the types are guessed from them, and the source marks
    the rows that contradict the guess. `frame` has the rows of the file as text, in columns
    named "0", "1" and so on.
    """
    parsers = list_column_parsers(file.header, options)
    row_limit = count_first_rows(file)
    first_rows = frame.head(row_limit).collect(engine="streaming")
    may_have_more_rows = len(first_rows) == row_limit

    if may_have_more_rows and not trust_first_rows:
        fits = _fit_all_rows(first_rows, frame, parsers, options.text_format)
        return _build_source(frame, file, fits, options)
    fits = _fit_first_rows(first_rows, parsers)
    if may_have_more_rows:
        return _build_source_with_guessed_types(frame, file, fits, options)
    return _build_source(frame, file, fits, options)


def infer_text_column(
    frame: pl.LazyFrame, name: str, text: pl.Expr, options: ReadOptions
) -> Column:
    """Return a text column of a Parquet file in the type it would have in a CSV file.

    `text` is the expression for the column's text in `frame`, and `name` its name.
    """
    # `_fit_all_rows` expects columns that are named "0", "1" and so on.
    text_frame = frame.select(text.alias("0"))
    first_rows = text_frame.head(FIRST_ROWS).collect(engine="streaming")
    parsers = list_column_parsers([name], options)
    fits = _fit_all_rows(first_rows, text_frame, parsers, options.text_format)
    fit = fits[0]
    parsed = fit.parser.parse(text, text.str.strip_chars())
    has_values = fit.counts.filled > 0
    return Column(
        type=parsed.value_type.dtype if has_values else None,
        values=parsed.accepted_values,
        holds_times=is_time_of_day(parsed.value_type),
    )


def count_first_rows(file: CsvFile) -> int:
    """Return how many first rows of a file are read to guess its types.

    The number is smaller for files with many columns, to limit the memory.
    """
    rows = max(FEWEST_FIRST_ROWS, FIRST_VALUES // len(file.header))
    return min(FIRST_ROWS, rows)


def list_column_parsers(
    header: Sequence[str], options: ReadOptions
) -> list[ColumnParsers]:
    """Return the parsers that are tried for each column of a file, in the same order."""
    return [
        list_parsers(create_rules(name, options.roles), options.text_format)
        for name in header
    ]


# From inferred columns to a source


def build_columns(
    inferred_columns: Sequence[InferredColumn], options: ReadOptions
) -> dict[str, Column]:
    """Return the columns of a source by their names, in the order of the file.

    A column without a name in the header gets a placeholder as its name.
    """
    columns: dict[str, Column] = {}
    for position, inferred in enumerate(inferred_columns):
        name = inferred.header or create_placeholder_name(position)
        columns[name] = _build_column(inferred, options)
    return columns


def _build_column(inferred: InferredColumn, options: ReadOptions) -> Column:
    """Build the column of a source from what was inferred about its type."""
    parsed = inferred.parsed
    counts = inferred.counts
    has_values = counts.filled > 0

    # If a column holds nothing but words such as NA, or nothing but words such as Inf,
    # `choose_types` decides whether they are text. Inf counts as a number, but not as a
    # finite one. Columns of other types count as finite.
    holds_only_infinities = has_values and not counts.finite
    values_as_text = None
    if not has_values or holds_only_infinities:
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
        # Words such as NA that are not values are called markers.
        marker_count=counts.filled_or_marker - counts.filled,
    )


def create_placeholder_name(position: int) -> str:
    """Return a name for the column at a position that has no name in the header.

    It begins with a NUL, so that it differs from the name of every other column.
    """
    return f"\0{position}"


def _build_source(
    frame: pl.LazyFrame, file: CsvFile, fits: Sequence[Fit], options: ReadOptions
) -> Source:
    """Build the source of a CSV file with types that fit all of its rows."""
    stripped = [pl.col(position).str.strip_chars() for position in file.positions]
    inferred_columns = _parse_columns(file, stripped, fits)
    columns = build_columns(inferred_columns, options)
    return Source(file.name, frame, columns, csv_file=file)


def _build_source_with_guessed_types(
    frame: pl.LazyFrame, file: CsvFile, fits: Sequence[Fit], options: ReadOptions
) -> Source:
    """Build the source of a CSV file with types that are guessed from its first rows.

    The source marks the rows that contradict the guess. `frame` has the rows as text, in
    columns named "0", "1" and so on.
    """
    # Several expressions use the stripped text of a column, so it is computed once, as a
    # further column of the frame, such as "0 stripped".
    stripped_names = [f"{position} stripped" for position in file.positions]
    frame = frame.with_columns(
        pl.col(position).str.strip_chars().alias(stripped_name)
        for position, stripped_name in zip(file.positions, stripped_names, strict=True)
    )
    stripped = [pl.col(stripped_name) for stripped_name in stripped_names]
    inferred_columns = _parse_columns(file, stripped, fits)
    columns = build_columns(inferred_columns, options)
    source = Source(file.name, frame, columns, csv_file=file)
    return _mark_contradicting_rows(source, inferred_columns)


def _parse_columns(
    file: CsvFile, stripped: Sequence[pl.Expr], fits: Sequence[Fit]
) -> list[InferredColumn]:
    """Parse each column of a file by the parser that fits it.

    `stripped` has the expression for each column's text without spaces around it.
    """
    inferred_columns = []
    columns = zip(file.header, file.positions, stripped, fits, strict=True)
    for header, position, stripped_text, fit in columns:
        # The columns of the frame are named by their positions.
        text = pl.col(position)
        inferred = InferredColumn(
            header=header,
            stripped=stripped_text,
            parsed=fit.parser.parse(text, stripped_text),
            counts=fit.counts,
        )
        inferred_columns.append(inferred)
    return inferred_columns


# Finding the parsers that fit


def _fit_first_rows(
    first_rows: pl.DataFrame, parsers: Sequence[ColumnParsers]
) -> list[Fit]:
    """Return, for each column, the Fit of the first parser that fits the first rows.

    `first_rows` has columns of text named "0", "1" and so on.
    """
    if first_rows.is_empty():
        return list_fits_of_empty_file(parsers)
    file_number = pl.lit(0, pl.UInt32).alias(FILE)
    texts = first_rows.select(file_number, pl.all())
    return find_fits(texts, parsers)[0]


def _fit_all_rows(
    first_rows: pl.DataFrame,
    frame: pl.LazyFrame,
    parsers: Sequence[ColumnParsers],
    text_format: TextFormat,
) -> list[Fit]:
    """Return, for each column, the Fit of the first parser that fits all rows of a file.

    Each pass over the file tries one parser for every undecided column: the next one that
    fits the first rows, which are quick to parse. Text, the last parser, always fits.
    """
    first_rows = _fill_empty_columns(first_rows, frame, text_format)
    fits: dict[int, Fit] = {}
    untried_by_position = dict(enumerate(parsers))
    while untried_by_position:
        candidates = _fit_undecided_columns(first_rows, untried_by_position)
        counts_in_all_rows = _count_in_all_rows(frame, candidates)
        for position, candidate in candidates.items():
            counts = counts_in_all_rows[position]
            parser = candidate.parser
            if counts.all_accepted:
                fits[position] = Fit(parser, counts)
                del untried_by_position[position]
            else:
                untried = untried_by_position[position]
                untried_by_position[position] = untried.drop_tried(parser)
    return [fits[position] for position in range(len(parsers))]


def _fit_undecided_columns(
    first_rows: pl.DataFrame, untried_by_position: Mapping[int, ColumnParsers]
) -> dict[int, Fit]:
    """Return the Fit of the next parser that fits the first rows of each undecided column.

    `untried_by_position` has the parsers that are still to be tried for these columns, by
    the positions of the columns. The Fits are by position, too.
    """
    # `_fit_first_rows` expects columns that are named "0", "1" and so on, so the columns
    # that are left are renamed.
    texts = first_rows.select(
        pl.col(str(position)).alias(str(new_position))
        for new_position, position in enumerate(untried_by_position)
    )
    fits = _fit_first_rows(texts, list(untried_by_position.values()))
    return dict(zip(untried_by_position, fits, strict=True))


def _count_in_all_rows(
    frame: pl.LazyFrame, candidates: Mapping[int, Fit]
) -> dict[int, ValueCounts]:
    """Count the values of columns in all rows, each with the parser that may fit it.

    `candidates` has the Fit of this parser in the first rows, by the position of the
    column. The counts are by position, too.
    """
    parsed_columns = []
    for position, candidate in candidates.items():
        text = pl.col(str(position))
        parsed_columns.append(candidate.parser.parse(text, text.str.strip_chars()))
    counts = count_parsed_values(parsed_columns, frame)
    return dict(zip(candidates, counts, strict=True))


def _fill_empty_columns(
    first_rows: pl.DataFrame, frame: pl.LazyFrame, text_format: TextFormat
) -> pl.DataFrame:
    """Fill the columns that are empty in the first rows, so that they suggest a parser.

    All first rows of such a column get its first value in the whole file. If the file has
    no value in the column, it stays empty.
    """
    values_or_null = null_if_missing(pl.all().str.strip_chars(), text_format)
    value_counts = first_rows.select(values_or_null.count()).row(0, named=True)
    empty_names = [name for name, count in value_counts.items() if not count]
    if not empty_names:
        return first_rows

    values_or_null = null_if_missing(pl.col(empty_names).str.strip_chars(), text_format)
    first_values = frame.select(values_or_null.drop_nulls().first())
    value_by_name = first_values.collect(engine="streaming").row(0, named=True)
    return first_rows.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in value_by_name.items()
    )


# Verifying guessed types


def _mark_contradicting_rows(
    source: Source, inferred_columns: Sequence[InferredColumn]
) -> Source:
    """Return the source with expressions that check the guessed types in each row.

    `contradicts_types` of the source is True in rows that contradict the guess. `is_marker`
    of each column is True in rows that hold a word such as NA, because such words have been
    counted only in the first rows.
    """
    values_by_name: dict[str, pl.Expr] = {}
    contradictions = [source.contradicts_types]
    columns: dict[str, Column] = {}
    named_columns = zip(source.columns.items(), inferred_columns, strict=True)
    for position, ((name, column), inferred) in enumerate(named_columns):
        # The values are needed for the output and for the checks. They are computed once,
        # as a further column of the frame.
        values_name = f"{position} values"
        values_by_name[values_name] = inferred.parsed.values
        values = pl.col(values_name)
        contradictions += _find_contradictions(column, inferred.parsed, values)
        columns[name] = replace(
            column,
            values=values,
            is_marker=_find_markers(inferred.parsed, values),
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
    """Return expressions that are True in rows that contradict the column's type.

    `values` is the expression for the parsed values of the column.
    """
    contradictions = []
    if column.type is None:
        # The first rows hold no value, so any value contradicts the guess. If they do not
        # even hold a word such as NA, such a word contradicts it, too.
        may_hold_markers = column.marker_count > 0
        if may_hold_markers:
            unexpected_text = parsed.filled_text
        else:
            unexpected_text = parsed.filled_text_or_marker
        contradictions.append(unexpected_text.is_not_null())
    elif column.type != TEXT:
        # Text that cannot be parsed contradicts every type but text.
        contradictions.append(values.is_null() & parsed.filled_text.is_not_null())
    if parsed.mark_suspicious is not None:
        # Some values are parsed, but may be meant otherwise: 7 may be the code 007.
        contradictions.append(parsed.mark_suspicious(values))
    return contradictions


def _find_markers(parsed: ParsedText, values: pl.Expr) -> pl.Expr | None:
    """Return an expression that is True in rows that hold a word such as NA.

    Returns None if such words need not be counted, because they cannot be values of the
    column. `values` is the expression for the parsed values of the column.
    """
    if parsed.text_with_markers is None:
        return None
    return values.is_null() & parsed.text_with_markers.is_not_null()
