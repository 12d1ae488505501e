"""Infer the type of each column of a CSV file: the narrowest that loses none of its values.

The first rows rule out most types, so that only one or two are tried on the whole file. If
the first rows are trusted, their types are used as a guess, and no other row is read here.
Instead, `Source.contradicts_types` is an expression that is True in rows that contradict
the guess. It is evaluated while all rows are written.
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

    If `trust_first_rows` is True, the types are guessed from the first rows. Rows that
    contradict the guess are found later, by the `contradicts_types` of the source. `frame`
    has the rows of the file as text, in columns named "0", "1" and so on.
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
    """Return a text column of a Parquet file with the type it would have in a CSV file.

    `text` is the expression for the column's text in `frame`, and `name` is the name of the
    column.
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
    return Column(
        # A column without values has no type.
        type=parsed.value_type.dtype if has_values else None,
        values=parsed.accepted_values,
        csv_text=inferred.stripped,
        values_as_text=_select_values_as_text(inferred, options),
        holds_times=is_time_of_day(parsed.value_type),
        # `filled_or_marker` also counts markers, which are words such as NA that are read
        # as missing values.
        marker_count=counts.filled_or_marker - counts.filled,
    )


def _select_values_as_text(
    inferred: InferredColumn, options: ReadOptions
) -> pl.Expr | None:
    """Return the values of a column as text, if the column may have to be read as text.

    This is the case if the column holds nothing but words such as NA, or nothing but words
    such as Inf: `choose_types` then decides whether the words are text. Returns None for
    all other columns.
    """
    counts = inferred.counts
    has_values = counts.filled > 0
    # `counts.finite` leaves out infinite numbers only. Values of other types all count.
    holds_only_infinities = has_values and counts.finite == 0
    if has_values and not holds_only_infinities:
        return None
    rules = create_rules(inferred.header, options.roles)
    return rules.select_values_of_text(inferred.stripped, options.text_format)


def create_placeholder_name(position: int) -> str:
    """Return a name for the column at a position that has no name in the header.

    The name begins with a NUL, so that it differs from the name of every other column.
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

    The `contradicts_types` of the source tells in which rows the guess is wrong. `frame`
    has the rows as text, in columns named "0", "1" and so on.
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

    A Fit holds the parser and the counts of the column's values. `first_rows` has columns
    of text named "0", "1" and so on, and `parsers` has the parsers to try for each column.
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

    A Fit holds the parser and the counts of the column's values. Each pass over the file
    tries one parser for every undecided column: the next one that fits the first rows,
    which are quick to parse. If this parser does not fit all rows, the parsers after it are
    left to try. The last one reads text, and always fits.
    """
    # Any parser fits a column that is empty in the first rows, so a later value is used.
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
                # The parsers before this one do not fit, either: they were skipped because
                # they do not fit the first rows.
                untried = untried_by_position[position]
                untried_by_position[position] = untried.drop_tried(parser)
    return [fits[position] for position in range(len(parsers))]


def _fit_undecided_columns(
    first_rows: pl.DataFrame, untried_by_position: Mapping[int, ColumnParsers]
) -> dict[int, Fit]:
    """Return the Fit of the next parser that fits the first rows of each undecided column.

    A Fit holds the parser and the counts of the column's values in the first rows.
    `untried_by_position` has the parsers that are still to be tried for each undecided
    column, by the position of the column. The result has the same keys.
    """
    # `_fit_first_rows` expects columns that are named "0", "1" and so on, so the undecided
    # columns are renamed.
    texts = first_rows.select(
        pl.col(str(position)).alias(str(new_position))
        for new_position, position in enumerate(untried_by_position)
    )
    fits = _fit_first_rows(texts, list(untried_by_position.values()))
    return dict(zip(untried_by_position, fits, strict=True))


def _count_in_all_rows(
    frame: pl.LazyFrame, candidates: Mapping[int, Fit]
) -> dict[int, ValueCounts]:
    """Try the candidate parsers of columns on all rows, and count the values they can read.

    `candidates` maps the position of a column to the Fit of the parser that can read the
    first rows of this column. The result maps the same positions to the counts.
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
    """Fill the columns that are empty in the first rows with a later value of the file.

    All first rows of an empty column get the column's first value in the whole file, which
    shows what parsers may fit the column. A column without any value stays empty.
    """
    empty_names = _list_empty_columns(first_rows, text_format)
    if not empty_names:
        return first_rows
    empty_columns = pl.col(empty_names).str.strip_chars()
    first_values = null_if_missing(empty_columns, text_format).drop_nulls().first()
    row = frame.select(first_values).collect(engine="streaming").row(0, named=True)
    return first_rows.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in row.items()
    )


def _list_empty_columns(rows: pl.DataFrame, text_format: TextFormat) -> list[str]:
    """Return the names of the columns of text that hold no value in these rows.

    Empty text and words such as NA are no values.
    """
    values_or_null = null_if_missing(pl.all().str.strip_chars(), text_format)
    count_by_name = rows.select(values_or_null.count()).row(0, named=True)
    return [name for name, count in count_by_name.items() if count == 0]


# Verifying guessed types


def _mark_contradicting_rows(
    source: Source, inferred_columns: Sequence[InferredColumn]
) -> Source:
    """Return the source with expressions that check the guessed types in each row.

    The `contradicts_types` of the source is True in rows that show that a guessed type is
    wrong. The `is_marker` of each column is True in rows that hold a word such as NA. By
    this expression, these words are counted in all rows later. So far, they are counted in
    the first rows only.
    """
    values_by_name: dict[str, pl.Expr] = {}
    contradictions = [source.contradicts_types]
    columns: dict[str, Column] = {}
    names_and_columns = zip(source.columns, inferred_columns, strict=True)
    for position, (name, inferred) in enumerate(names_and_columns):
        column = source.columns[name]
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
    # `filled_text` is null where a value is missing. Markers, which are words such as NA,
    # are missing values. In `filled_text_or_marker`, they are not null.
    if column.type is None:
        # The first rows hold no value, so any later value contradicts the guess. If the
        # first rows hold no markers either, a later marker contradicts the guess, too.
        markers_are_expected = column.marker_count > 0
        if markers_are_expected:
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

    Returns None if these words need not be counted, because they cannot be values of the
    column. `values` is the expression for the parsed values of the column.
    """
    if parsed.text_with_markers is None:
        return None
    return values.is_null() & parsed.text_with_markers.is_not_null()
