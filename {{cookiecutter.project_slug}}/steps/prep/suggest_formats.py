"""Find the settings by which a column of text would be read as numbers or dates.

Numbers, booleans, dates and timestamps are called quantities here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl
from date_formats import find_certain_format, list_possible_formats
from text_values import (
    PARENTHESES,
    TRAILING_MINUS,
    Reading,
    TextFormat,
    format_setting,
    list_date_readings,
    list_usual_readings,
    parse_text,
)

# A column of which more than this share are codes, such as 007, is text on purpose.
MAX_CODE_SHARE = 1 / 20
# Codes are digits after a zero, or more digits than an integer of 64 bits can hold.
CODE_PATTERN = r"^[+-]?(0[0-9]+|[0-9]{19,})$"
# The decimal marks and thousands separators that people use together.
NUMBER_MARKS = (
    (".", ""),
    (",", ""),
    (".", ","),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
)
# A unit before a number is a currency's sign or code. A unit after it may also be a word.
UNIT_PATTERNS = (
    r"^[(+-]*([A-Z]{0,3}\p{Sc}|[A-Z]{3}|Rs\.?|kr\.?|Fr\.)(?:\s[(+-]?|\(?)\d",
    r"\d\)?\s*(\p{Sc}|[%‰°]|[[:alpha:]]{2,4})\)?$",
)
NEGATIVE_PATTERNS = {
    PARENTHESES: r"^[^()]*\([^()]*\d[^()]*\)$",
    TRAILING_MINUS: r"\d\s*-$",
}
MAX_DATES_TRIED = 20  # The formats of this many values of a column are tried.


def suggest_settings(values: pl.Series, text_format: TextFormat) -> str:
    """Return the settings by which most of the values would be quantities.

    Returns an empty text if there are none, or if no other setting is needed.
    """
    formats = find_fitting_formats(values, text_format, find_certain_readings(values))
    if not formats or text_format in formats:
        return ""
    return describe_needed_settings(text_format, formats)


def find_certain_readings(values: pl.Series) -> list[Reading]:
    """Return the readings of the first values that can only be one date, each once."""
    readings: list[Reading] = []
    for value in values.head(MAX_DATES_TRIED):
        date_format = find_certain_format(value)
        if date_format is not None:
            readings += list_date_readings(date_format)
    return list(dict.fromkeys(readings))


def find_fitting_formats(
    values: pl.Series, text_format: TextFormat, certain_readings: Sequence[Reading]
) -> list[TextFormat]:
    """Return the formats in which most of the values are quantities.

    Several formats are returned if they read equally many values, that of settings.yml
    first if it is among them. The list is empty if fewer than half of the values are
    quantities in any format, or if the column holds codes, which are text on purpose.
    """
    half = len(values) / 2
    # Most columns of text end here, before the formats are tried, which takes longer.
    may_be_quantity = values.str.contains(r"(?i)\d|^(true|false)$")
    if may_be_quantity.sum() < half:
        return []
    is_code = values.str.contains(CODE_PATTERN)
    if is_code.sum() > len(values) * MAX_CODE_SHARE:
        return []

    formats = list(
        dict.fromkeys([text_format, *_list_other_formats(values, text_format)])
    )
    text = pl.col("text")
    counts = values.to_frame("text").select(
        is_quantity(text, tried_format, certain_readings).sum().alias(str(i))
        for i, tried_format in enumerate(formats)
    )
    count_by_format = dict(zip(formats, counts.row(0)))
    highest_count = max(count_by_format.values())
    if highest_count == 0 or highest_count < half:
        return []
    return [
        tried_format
        for tried_format, count in count_by_format.items()
        if count == highest_count
    ]


def is_quantity(
    text: pl.Expr, text_format: TextFormat, certain_readings: Sequence[Reading]
) -> pl.Expr:
    """Return whether text can be read as a number, a boolean, a date or a timestamp."""
    readings = [*list_usual_readings(text_format), *certain_readings]
    return pl.any_horizontal(
        parse_text(text, reading, text_format).is_not_null() for reading in readings
    )


def describe_needed_settings(
    text_format: TextFormat, formats: Sequence[TextFormat]
) -> str:
    """Return how settings.yml would have to change for one of the formats.

    Only the formats that need the fewest settings are described, joined by "or".
    """
    changes_by_format = [_list_changes(text_format, other) for other in formats]
    fewest = min(len(changes) for changes in changes_by_format)
    alternatives = [
        " and ".join(changes) for changes in changes_by_format if len(changes) == fewest
    ]
    return " or ".join(dict.fromkeys(alternatives))


def _list_changes(text_format: TextFormat, other: TextFormat) -> list[str]:
    """Return the settings in which `other` differs from `text_format`."""
    changes = []
    for key, value in vars(other).items():
        if value == getattr(text_format, key):
            continue
        if key == "date_format" and len(value) == 1:
            value = value[0]
        changes.append(f"data.{key}: {format_setting(value)}")
    return changes


def _list_other_formats(
    values: pl.Series, text_format: TextFormat
) -> Iterator[TextFormat]:
    """Yield the formats in which the values of a column could be written."""
    if values.is_empty():
        return
    usual_marks = (text_format.decimal, text_format.thousands)
    for units in _list_units(values, text_format):
        for negative in _list_negatives(values, text_format):
            for decimal, thousands in (usual_marks, *NUMBER_MARKS):
                yield replace(
                    text_format,
                    units=units,
                    negative=negative,
                    decimal=decimal,
                    thousands=thousands,
                )
    for date_format in _list_date_formats(values):
        yield replace(text_format, date_format=(*text_format.date_formats, date_format))


def _list_units(values: pl.Series, text_format: TextFormat) -> list[tuple[str, ...]]:
    """Return the units of settings.yml, and these with a unit of the first values."""
    units = [text_format.units]
    for pattern in UNIT_PATTERNS:
        matches = values.str.extract(pattern).drop_nulls()
        if not matches.is_empty():
            units.append((*text_format.units, matches[0]))
    return units


def _list_negatives(values: pl.Series, text_format: TextFormat) -> list[str]:
    """Return how negative numbers may be written, that of settings.yml first."""
    negatives = [text_format.negative]
    for negative, pattern in NEGATIVE_PATTERNS.items():
        if values.str.contains(pattern).any():
            negatives.append(negative)
    return negatives


def _list_date_formats(values: pl.Series) -> list[str]:
    """Return the formats that the first dates of a column may have."""
    date_formats: list[str] = []
    for value in values.head(MAX_DATES_TRIED):
        date_formats += list_possible_formats(value)
    return list(dict.fromkeys(date_formats))
