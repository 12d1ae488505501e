"""Write notes on columns of CSV files that the user might want to be read differently.

Each note names the setting that changes how the column is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from csv_file import CsvFile
from read_options import ReadOptions
from sources import FIRST_ROWS, NUMBER, TEXT, Note, Source, count_values
from suggest_formats import (
    describe_needed_settings,
    find_fitting_formats,
    find_unambiguous_date_types,
    is_typed_value,
)
from text_values import TextFormat, ValueType, null_if_missing

# The formats of a column are tried on this many of its values.
SAMPLED_VALUES = 1_000
# Whether a decimal mark is ambiguous is first looked for in this many values.
NUMBERS_TRIED = 100
# With fewer values than this, a decimal mark is not doubted.
MIN_AMBIGUOUS_VALUES = 2
# A note shows this many characters of a value.
SHOWN_CHARACTERS = 40


def note_doubtful_columns(
    source: Source, names: Sequence[str], file: CsvFile, options: ReadOptions
) -> None:
    """Note columns of a CSV file that may have been read wrongly.

    The notes are added to the source of the file. They are about columns of text whose
    values may be numbers or dates, and about columns of numbers that may be times of day or
    have thousands separators. Only the columns in `names` are examined. Keys are left out,
    because a key is often a code.
    """
    text_by_name = _select_texts(source, names, options)
    if not text_by_name:
        return

    # Numbers serve as names of the result's columns, because polars would read a name such
    # as `^a$` as a pattern.
    first_rows = (
        source.frame.head(FIRST_ROWS)
        .select(text.alias(str(i)) for i, text in enumerate(text_by_name.values()))
        .collect(engine="streaming")
    )
    for i, (name, text) in enumerate(text_by_name.items()):
        first_values = first_rows[str(i)].drop_nulls().head(SAMPLED_VALUES)
        if source.columns[name].type == TEXT:
            sentence = _describe_doubtful_text(
                source, name, text, first_values, file, options.text_format
            )
        else:
            sentence = _describe_doubtful_number(
                source, name, text, first_values, options.text_format
            )
        if sentence is not None:
            source.notes.append(Note(sentence, column=name))


def _select_texts(
    source: Source, names: Sequence[str], options: ReadOptions
) -> dict[str, pl.Expr]:
    """Return the text of each column to examine, with null for missing values.

    Number columns and text columns are examined, unless they are keys or ignored.
    """
    text_by_name: dict[str, pl.Expr] = {}
    for name in names:
        column = source.columns[name]
        if column.csv_text is None or column.type not in (NUMBER, TEXT):
            continue
        if options.roles.is_used(name) and name not in options.roles.keys:
            text_by_name[name] = null_if_missing(column.csv_text, options.text_format)
    return text_by_name


# Columns of text


def _describe_doubtful_text(
    source: Source,
    name: str,
    text: pl.Expr,
    first_values: pl.Series,
    file: CsvFile,
    text_format: TextFormat,
) -> str | None:
    """Return the text of a note if most values of a column of text may be numbers or dates.

    `text` is the text of the column, with null for missing values, and `first_values` holds
    the first values of this text. Returns None in these cases:

    - The column seems to be text on purpose, such as names or codes.
    - Each value is a number or a date, but the column mixes them.
    """
    numbered_rows = source.frame.select(text=text).with_row_index("row")
    filled_rows = numbered_rows.drop_nulls("text")
    sample = _sample_text(filled_rows, first_values)
    unambiguous_date_types = find_unambiguous_date_types(sample)
    formats = find_fitting_formats(sample, text_format, unambiguous_date_types)
    if not formats:
        return None
    misfits = _find_misfits(filled_rows, text_format, unambiguous_date_types, file)
    if misfits is None:
        # No single value is wrong.
        return None

    first_misfit = f"'{misfits.first_value}' in line {misfits.line} of {source.name}"
    if text_format in formats:
        # No setting needs to change. A few values are wrong.
        (value_count,) = count_values(source.frame, [source.columns[name].values])
        return _describe_wrong_values(name, misfits.count, value_count, first_misfit)
    settings = describe_needed_settings(text_format, formats)
    return (
        f"column '{name}' is text, though most of its values may be numbers or dates. For"
        f" example, {first_misfit} is read neither as a number nor as a date. If it is one"
        f" of these, write {settings} in settings.yml."
    )


def _sample_text(filled_rows: pl.LazyFrame, first_values: pl.Series) -> pl.Series:
    """Return the first values of a column, even if all of its first rows are empty.

    `first_values` are the values in the first rows. `filled_rows` are all rows with a value,
    which is in the column `text`.
    """
    if not first_values.is_empty():
        return first_values
    return filled_rows.head(SAMPLED_VALUES).collect(engine="streaming")["text"]


def _describe_wrong_values(
    name: str, wrong_count: int, value_count: int, first_wrong_value: str
) -> str:
    """Return the text of a note on the few values that force a column to be read as text.

    `first_wrong_value` is the first of these values with its place, such as "'x' in line 7
    of a.csv".
    """
    if wrong_count == 1:
        return (
            f"column '{name}' is text because 1 of its {value_count} values is neither a"
            f" number nor a date: {first_wrong_value}. Correct it, or list it under"
            " data.missing in settings.yml."
        )
    return (
        f"column '{name}' is text because {wrong_count} of its {value_count} values are"
        f" neither numbers nor dates, such as {first_wrong_value}. Correct them, or list"
        " them under data.missing in settings.yml."
    )


@dataclass(frozen=True)
class Misfits:
    """The values of a column that are neither numbers nor dates: how many, and the first."""

    count: int
    first_value: str
    #: The line of the first value in its file.
    line: int


def _find_misfits(
    filled_rows: pl.LazyFrame,
    text_format: TextFormat,
    unambiguous_date_types: Sequence[ValueType],
    file: CsvFile,
) -> Misfits | None:
    """Count the values that are neither numbers nor dates, and find the first of them.

    Dates of `unambiguous_date_types`, such as 31-Jan-2026, are no misfits, whatever
    `text_format` says. `filled_rows` has the columns `row`, the number of the row, and
    `text`. Returns None if there is no misfit.
    """
    is_misfit = ~is_typed_value(pl.col("text"), text_format, unambiguous_date_types)
    misfits = filled_rows.filter(is_misfit)
    count = misfits.select(pl.len()).collect(engine="streaming").item()
    if not count:
        return None
    row, value = misfits.head(1).collect(engine="streaming").row(0)
    return Misfits(count, value[:SHOWN_CHARACTERS], file.find_line(row))


# Columns of numbers


def _describe_doubtful_number(
    source: Source,
    name: str,
    text: pl.Expr,
    first_values: pl.Series,
    text_format: TextFormat,
) -> str | None:
    """Return the text of a note if the numbers of a column may have been misread.

    There are two cases:

    - Times of day were read as numbers of seconds.
    - All numbers are like 1.234, in which the point may separate thousands.

    Otherwise returns None. `text` is the text of the column, with null for missing values,
    and `first_values` holds the first values of this text.
    """
    if first_values.is_empty():
        return None
    first_value = first_values[0]
    if source.columns[name].holds_times:
        return (
            f"column '{name}' of {source.name} holds times, such as '{first_value}', and"
            " is read as a number of seconds."
        )
    # A few values are checked first. All rows are read only if these values are ambiguous,
    # because this takes longer.
    if not _are_ambiguous(first_values.head(NUMBERS_TRIED), text_format):
        return None
    if not _are_all_rows_ambiguous(source, text, text_format):
        return None
    decimal = text_format.decimal
    other_mark = "," if decimal == "." else "."
    return (
        f"column '{name}' of {source.name} holds numbers with three digits after"
        f" '{decimal}', such as '{first_value}'. If this '{decimal}' separates thousands,"
        f" write data.thousands: '{decimal}' and data.decimal: '{other_mark}' in"
        " settings.yml."
    )


def _are_ambiguous(numbers: pl.Series, text_format: TextFormat) -> bool:
    """Return whether the decimal mark in all of several numbers may separate thousands.

    For example, 1.234 may be a number with a fraction, or more than a thousand.
    """
    if text_format.thousands or len(numbers) < MIN_AMBIGUOUS_VALUES:
        return False
    return bool(numbers.str.contains(_build_ambiguous_pattern(text_format)).all())


def _are_all_rows_ambiguous(
    source: Source, text: pl.Expr, text_format: TextFormat
) -> bool:
    """Return whether the decimal mark in all rows of a column may separate thousands."""
    is_ambiguous = text.str.contains(_build_ambiguous_pattern(text_format))
    all_ambiguous = source.frame.select(is_ambiguous.all()).collect(engine="streaming")
    return bool(all_ambiguous.item())


def _build_ambiguous_pattern(text_format: TextFormat) -> str:
    """Return a pattern for numbers such as 1.234, with the decimal mark of the format."""
    mark = re.escape(text_format.decimal)
    return r"^[+-]?[1-9]\d{0,2}" + mark + r"\d{3}$"
