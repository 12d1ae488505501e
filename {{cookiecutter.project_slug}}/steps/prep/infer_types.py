"""Infer the type of each column of a CSV file: the narrowest that loses none of its values.

The first rows rule most types out, so that one or two are tried on the whole file. If
the first rows are trusted, their types are used as a guess, and each row that is written
is checked: `Source.contradicts_types` marks the rows that contradict the guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl
from column_rules import find_rules
from csv_dialect import CsvFile
from fits import Fit, count_parsed_values, find_fits, list_fits_without_rows
from parsers import ColumnParsers, ParsedText, list_parsers
from read_options import ReadOptions
from sources import FILE, FIRST_ROWS, TEXT, Column, Source
from text_values import TextFormat, is_time_of_day, null_if_missing

# Types are guessed from at most this many values, but from at least this many rows.
FIRST_VALUES = 4_000_000
FEWEST_FIRST_ROWS = 100


def infer_csv_source(
    frame: pl.LazyFrame, file: CsvFile, options: ReadOptions, *, trust_first_rows: bool
) -> Source:
    """Return a CSV file as a source, with the narrowest type for each column.

    If the first rows are trusted, the types are theirs, and the source marks the rows
    that contradict them. A column without a name gets the name of `name_nameless`.
    """
    limit = count_first_rows(file)
    first_rows = frame.head(limit).collect(engine="streaming")
    has_more_rows = len(first_rows) == limit
    parsers = list_column_parsers(file.header, options)
    stripped = {
        position: pl.col(position).str.strip_chars() for position in file.positions
    }
    are_types_guessed = has_more_rows and trust_first_rows
    if has_more_rows and not trust_first_rows:
        fits = _find_fits_of_all_rows(first_rows, frame, parsers, options.text_format)
    else:
        fits = _find_fits_of_rows(first_rows, parsers)
    if are_types_guessed:
        # Many expressions read each row at once, and polars would strip it for each.
        frame = frame.with_columns(
            text.name.suffix(" stripped") for text in stripped.values()
        )
        stripped = {
            position: pl.col(f"{position} stripped") for position in file.positions
        }

    parsed = [
        fit.parser.parse(pl.col(position), text)
        for fit, (position, text) in zip(fits, stripped.items())
    ]
    columns = read_columns(file.header, fits, parsed, stripped, options)
    source = Source(file.name, frame, columns, csv_file=file)
    if are_types_guessed:
        return _mark_contradicting_rows(source, parsed)
    return source


def infer_text_column(
    frame: pl.LazyFrame, name: str, text: pl.Expr, options: ReadOptions
) -> Column:
    """Return a column of text of a Parquet file, read as that of a CSV file would be."""
    texts = frame.select(text.alias("0"))
    first_rows = texts.head(FIRST_ROWS).collect(engine="streaming")
    parsers = list_column_parsers([name], options)
    (fit,) = _find_fits_of_all_rows(first_rows, texts, parsers, options.text_format)
    parsed = fit.parser.parse(text, text.str.strip_chars())
    return Column(
        type=parsed.reading.dtype if fit.counts.filled else None,
        values=parsed.fitting,
        holds_times=is_time_of_day(parsed.reading),
    )


def count_first_rows(file: CsvFile) -> int:
    """Return how many rows of a file the types are guessed from: fewer if it is wide."""
    return min(FIRST_ROWS, max(FEWEST_FIRST_ROWS, FIRST_VALUES // len(file.header)))


def list_column_parsers(
    header: Sequence[str], options: ReadOptions
) -> list[ColumnParsers]:
    """Return the parsers that are tried for each column of a file."""
    return [
        list_parsers(find_rules(name, options.roles), options.text_format)
        for name in header
    ]


def read_columns(
    header: Sequence[str],
    fits: Sequence[Fit],
    parsed_columns: Sequence[ParsedText],
    stripped: dict[str, pl.Expr],
    options: ReadOptions,
) -> dict[str, Column]:
    """Return the columns of a file by their names, as the fitting parsers read them.

    `parsed_columns` is the text of each column as its parser has parsed it. `stripped` is
    the same text without spaces around it.
    """
    columns: dict[str, Column] = {}
    for index, text in enumerate(stripped.values()):
        name = header[index]
        counts = fits[index].counts
        parsed = parsed_columns[index]
        holds_values = counts.filled > 0
        text_alternative = None
        may_hold_only_words = not holds_values or not counts.not_infinite
        if may_hold_only_words:
            # The words are NA or none, or they are Inf, which is parsed as a number.
            rules = find_rules(name, options.roles)
            text_alternative = rules.select_values_of_text(text, options.text_format)
        column = Column(
            type=parsed.reading.dtype if holds_values else None,
            values=parsed.fitting,
            text=text,
            text_alternative=text_alternative,
            holds_times=is_time_of_day(parsed.reading),
            missing_words=counts.filled_or_word - counts.filled,
        )
        columns[name or name_nameless(index)] = column
    return columns


def name_nameless(position: int) -> str:
    """Return the name that stands for a column without a name in the first line.

    It begins with a NUL, as no name of a column does.
    """
    return f"\0{position}"


def _find_fits_of_rows(
    rows: pl.DataFrame, parsers: Sequence[ColumnParsers]
) -> list[Fit]:
    """Return the first parser that fits each column in these rows."""
    if rows.is_empty():
        return list_fits_without_rows(parsers)
    texts = rows.select(pl.lit(0, pl.UInt32).alias(FILE), pl.all())
    return find_fits(texts, parsers)[0]


def _find_fits_of_all_rows(
    first_rows: pl.DataFrame,
    frame: pl.LazyFrame,
    parsers: Sequence[ColumnParsers],
    text_format: TextFormat,
) -> list[Fit]:
    """Return the first parser that fits each column in all rows.

    In each pass over the file, the next parser that fits the first rows is tried for
    every undecided column. Text, the last parser, always fits.
    """
    first_rows = _fill_empty_columns(first_rows, frame, text_format)
    untried = list(parsers)
    fits: dict[int, Fit] = {}
    while len(fits) < len(parsers):
        undecided = [i for i in range(len(parsers)) if i not in fits]
        texts = first_rows.select(
            pl.col(str(i)).alias(str(position)) for position, i in enumerate(undecided)
        )
        first_fits = _find_fits_of_rows(texts, [untried[i] for i in undecided])
        parsed = [
            fit.parser.parse(pl.col(str(i)), pl.col(str(i)).str.strip_chars())
            for i, fit in zip(undecided, first_fits)
        ]
        counts_of_all_rows = count_parsed_values(parsed, frame)
        for i, fit, counts in zip(undecided, first_fits, counts_of_all_rows):
            if counts.all_fit:
                fits[i] = Fit(fit.parser, counts)
            else:
                untried[i] = untried[i].without_those_tried(fit.parser)
    return [fits[i] for i in range(len(parsers))]


def _fill_empty_columns(
    first_rows: pl.DataFrame, frame: pl.LazyFrame, text_format: TextFormat
) -> pl.DataFrame:
    """Return the first rows, with the first value of all rows in columns without any."""
    filled = null_if_missing(pl.all().str.strip_chars(), text_format)
    value_counts = first_rows.select(filled.count()).row(0, named=True)
    empty = [name for name, count in value_counts.items() if not count]
    if not empty:
        return first_rows
    filled = null_if_missing(pl.col(empty).str.strip_chars(), text_format)
    first_values = frame.select(filled.drop_nulls().first())
    values_by_name = first_values.collect(engine="streaming").row(0, named=True)
    return first_rows.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in values_by_name.items()
    )


def _mark_contradicting_rows(
    source: Source, parsed_columns: Sequence[ParsedText]
) -> Source:
    """Return the source with marks on the rows that contradict the guessed types.

    `parsed_columns` is the parsed text of the source's columns. The source also marks the
    rows with words such as NA, of which only those in the first rows have been counted so
    far.
    """
    values_by_name: dict[str, pl.Expr] = {}
    contradictions = [source.contradicts_types]
    marked_columns: dict[str, Column] = {}
    for (name, column), parsed in zip(source.columns.items(), parsed_columns):
        # The values are computed once, for the output and for the checks.
        values_name = f"{len(values_by_name)} values"
        values_by_name[values_name] = parsed.values
        values = pl.col(values_name)
        if column.type is None:
            # The column must stay without values, and also without missing words if the
            # first rows hold none.
            has_words = column.missing_words > 0
            unexpected = parsed.filled if has_words else parsed.filled_or_word
            contradictions.append(unexpected.is_not_null())
        elif column.type != TEXT:
            # A value that cannot be parsed contradicts the type. Text needs no parsing.
            contradictions.append(values.is_null() & parsed.filled.is_not_null())
        if parsed.is_odd is not None:
            contradictions.append(parsed.is_odd(values))

        is_missing_word = None
        if parsed.filled_as_text is not None:
            is_missing_word = values.is_null() & parsed.filled_as_text.is_not_null()
        marked_columns[name] = replace(
            column, values=values, is_missing_word=is_missing_word
        )
    return replace(
        source,
        frame=source.frame.with_columns(**values_by_name),
        columns=marked_columns,
        contradicts_types=pl.any_horizontal(contradictions),
    )
