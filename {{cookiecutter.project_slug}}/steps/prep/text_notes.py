"""Write notes on columns of CSV files that the user might want to be read otherwise.

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
    find_certain_date_types,
    find_fitting_formats,
    is_typed_value,
)
from text_values import TextFormat, ValueType, null_if_missing

SAMPLED_VALUES = 1_000
# Numbers such as 1.234 are looked for in this many of the first values.
NUMBERS_TRIED = 100
# In fewer values than this, the mark of 1.234 need not be doubted.
MIN_AMBIGUOUS_VALUES = 2
SHOWN_CHARACTERS = 40  # of a value in a note


def note_readings(
    source: Source, names: Sequence[str], file: CsvFile, options: ReadOptions
) -> None:
    """Add notes to a CSV file on the columns in `names`, except keys."""
    texts: dict[str, pl.Expr] = {}
    for name in names:
        column = source.columns[name]
        if column.csv_text is None or column.type not in (NUMBER, TEXT):
            continue
        if options.roles.is_used(name) and name not in options.roles.keys:
            texts[name] = null_if_missing(column.csv_text, options.text_format)
    if not texts:
        return

    first_rows = (
        source.frame.head(FIRST_ROWS)
        .select(text.alias(str(i)) for i, text in enumerate(texts.values()))
        .collect(engine="streaming")
    )
    for i, (name, text) in enumerate(texts.items()):
        values = first_rows[str(i)].drop_nulls().head(SAMPLED_VALUES)
        if source.columns[name].type == TEXT:
            note = _note_doubtful_text(
                source, name, text, values, file, options.text_format
            )
        else:
            note = _note_doubtful_number(
                source, name, text, values, options.text_format
            )
        if note is not None:
            source.notes.append(Note(note, column=name))


def _note_doubtful_text(
    source: Source,
    name: str,
    text: pl.Expr,
    values: pl.Series,
    file: CsvFile,
    text_format: TextFormat,
) -> str | None:
    """Return a note on a column of text if most of its values are numbers or dates.

    `values` are those of the first rows, without missing values.
    """
    filled = source.frame.select(text=text).with_row_index("row").drop_nulls("text")
    if values.is_empty():
        values = filled.head(SAMPLED_VALUES).collect(engine="streaming")["text"]
    certain_date_types = find_certain_date_types(values)
    formats = find_fitting_formats(values, text_format, certain_date_types)
    if not formats:
        return None
    exceptions = _find_exceptions(filled, text_format, certain_date_types, file)
    if exceptions is None:
        # The column mixes numbers and dates, so no single value is wrong.
        return None
    first = f"'{exceptions.first_value}' in line {exceptions.line} of {source.name}"
    if text_format in formats:
        (count,) = count_values(source.frame, [source.columns[name].values])
        return (
            f"column '{name}' is text because of {exceptions.count} of {count} values:"
            f" {first}: correct it, or write it in data.missing in settings.yml."
        )
    settings = describe_needed_settings(text_format, formats)
    return (
        f"column '{name}' is text, though most of it may be numbers or dates ({first}):"
        f" if so, write {settings} in settings.yml."
    )


@dataclass(frozen=True)
class Exceptions:
    """The values of a column that are neither numbers nor dates: how many, and the first."""

    count: int
    first_value: str
    line: int


def _find_exceptions(
    filled: pl.LazyFrame,
    text_format: TextFormat,
    certain_date_types: Sequence[ValueType],
    file: CsvFile,
) -> Exceptions | None:
    """Find the values that are neither numbers nor dates; None if there are none.

    `filled` has the columns `row` and `text`.
    """
    is_exception = ~is_typed_value(pl.col("text"), text_format, certain_date_types)
    exceptions = filled.filter(is_exception)
    count = exceptions.select(pl.len()).collect(engine="streaming").item()
    if not count:
        return None
    row, value = exceptions.head(1).collect(engine="streaming").row(0)
    return Exceptions(count, value[:SHOWN_CHARACTERS], file.find_line(row))


def _note_doubtful_number(
    source: Source,
    name: str,
    text: pl.Expr,
    values: pl.Series,
    text_format: TextFormat,
) -> str | None:
    """Return a note on a number that was a time of day, or may have thousands separators.

    `values` are those of the first rows, without missing values.
    """
    if values.is_empty():
        return None
    first_value = values[0]
    if source.columns[name].holds_times:
        return (
            f"column '{name}' of {source.name} holds times, such as '{first_value}', and"
            " is read as a number of seconds."
        )
    if not _are_ambiguous(values.head(NUMBERS_TRIED), text_format):
        return None
    if not _are_all_rows_ambiguous(source, text, text_format):
        return None
    decimal = text_format.decimal
    other_mark = "," if decimal == "." else "."
    return (
        f"column '{name}' of {source.name} holds numbers with three digits after"
        f" '{decimal}', such as '{first_value}': if it separates thousands, write"
        f" data.thousands: '{decimal}' and data.decimal: '{other_mark}' in settings.yml."
    )


def _are_ambiguous(values: pl.Series, text_format: TextFormat) -> bool:
    """Return whether the decimal mark of several values may separate thousands."""
    if text_format.thousands or len(values) < MIN_AMBIGUOUS_VALUES:
        return False
    return bool(values.str.contains(_ambiguous_pattern(text_format)).all())


def _are_all_rows_ambiguous(
    source: Source, text: pl.Expr, text_format: TextFormat
) -> bool:
    """Return whether the decimal mark of all values of a column may separate thousands."""
    is_ambiguous = text.str.contains(_ambiguous_pattern(text_format)).all()
    return bool(source.frame.select(is_ambiguous).collect(engine="streaming").item())


def _ambiguous_pattern(text_format: TextFormat) -> str:
    """Return the pattern of a number such as 1.234, with the decimal mark in use."""
    mark = re.escape(text_format.decimal)
    return r"^[+-]?[1-9]\d{0,2}" + mark + r"\d{3}$"
