"""Find the settings with which a column of text would be read as numbers or dates.

Numbers, booleans, dates and timestamps are called quantities here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import polars as pl
from date_formats import find_certain_format, list_possible_formats
from text_values import (
    PARENTHESES,
    TRAILING_MINUS,
    TextFormat,
    ValueType,
    format_setting,
    list_date_types,
    list_usual_types,
    parse_text,
)

# If more than this share of a column's values are codes, such as 007, it is text on purpose.
MAX_CODE_SHARE = 1 / 20
# A code has digits after a zero, or more digits than an integer of 64 bits can hold.
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
    """Return the settings with which most of the values would be quantities.

    Returns "" if there are none, or if no setting needs to change.
    """
    certain_date_types = find_certain_date_types(values)
    formats = find_fitting_formats(values, text_format, certain_date_types)
    if not formats or text_format in formats:
        return ""
    return describe_needed_settings(text_format, formats)


def find_certain_date_types(values: pl.Series) -> list[ValueType]:
    """Return the types of the first values that are unambiguous dates, each once."""
    date_types: list[ValueType] = []
    for value in values.head(MAX_DATES_TRIED):
        date_format = find_certain_format(value)
        if date_format is not None:
            date_types += list_date_types(date_format)
    return list(dict.fromkeys(date_types))


def find_fitting_formats(
    values: pl.Series, text_format: TextFormat, certain_date_types: Sequence[ValueType]
) -> list[TextFormat]:
    """Return the formats in which the largest number of values are quantities.

    The format of settings.yml comes first if it is one of them. The list is empty if
    fewer than half of the values are quantities in any format, or if the column holds
    codes, which are text on purpose.
    """
    half = len(values) / 2
    # Most columns of text are ruled out here, which is faster than trying all formats.
    may_be_quantity = values.str.contains(r"(?i)\d|^(true|false)$")
    if may_be_quantity.sum() < half:
        return []
    is_code = values.str.contains(CODE_PATTERN)
    if is_code.sum() > len(values) * MAX_CODE_SHARE:
        return []

    formats = [text_format, *_list_other_formats(values, text_format)]
    distinct_formats = list(dict.fromkeys(formats))
    counts = _count_quantities(values, distinct_formats, certain_date_types)
    highest_count = max(counts)
    if highest_count == 0 or highest_count < half:
        return []
    return [
        tried_format
        for tried_format, count in zip(distinct_formats, counts)
        if count == highest_count
    ]


def _count_quantities(
    values: pl.Series,
    formats: Sequence[TextFormat],
    certain_date_types: Sequence[ValueType],
) -> list[int]:
    """Return for each format how many of the values are quantities in it."""
    text = pl.col("text")
    counts = values.to_frame("text").select(
        is_typed_value(text, tried_format, certain_date_types).sum().alias(str(i))
        for i, tried_format in enumerate(formats)
    )
    return list(counts.row(0))


def is_typed_value(
    text: pl.Expr, text_format: TextFormat, certain_date_types: Sequence[ValueType]
) -> pl.Expr:
    """Return whether text can be read as a number, a boolean, a date or a timestamp."""
    value_types = [*list_usual_types(text_format), *certain_date_types]
    return pl.any_horizontal(
        parse_text(text, value_type, text_format).is_not_null()
        for value_type in value_types
    )


def describe_needed_settings(
    text_format: TextFormat, formats: Sequence[TextFormat]
) -> str:
    """Return the settings to change so that one of the formats is used.

    Only the formats that need the fewest changes are described, joined by "or".
    """
    changes_by_format = [_list_changes(text_format, other) for other in formats]
    fewest = min(len(changes) for changes in changes_by_format)
    alternatives = [
        " and ".join(changes) for changes in changes_by_format if len(changes) == fewest
    ]
    distinct_alternatives = dict.fromkeys(alternatives)
    return " or ".join(distinct_alternatives)


def _list_changes(text_format: TextFormat, other: TextFormat) -> list[str]:
    """Return the settings in which `other` differs from `text_format`."""
    changes = []
    for key, value in vars(other).items():
        if value == getattr(text_format, key):
            continue
        if key == "date_format" and len(value) == 1:
            # A single format needs no list.
            value = value[0]
        changes.append(f"data.{key}: {format_setting(value)}")
    return changes


def _list_other_formats(
    values: pl.Series, text_format: TextFormat
) -> Iterator[TextFormat]:
    """Yield the formats in which the values of a column could be written."""
    if values.is_empty():
        return
    marks_in_use = (text_format.decimal, text_format.thousands)
    number_formats = product(
        _list_units(values, text_format),
        _list_negatives(values, text_format),
        (marks_in_use, *NUMBER_MARKS),
    )
    for units, negative, (decimal, thousands) in number_formats:
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
    """Return the units of settings.yml, alone and with a unit that the values have."""
    alternatives = [text_format.units]
    for pattern in UNIT_PATTERNS:
        units = values.str.extract(pattern).drop_nulls()
        if not units.is_empty():
            alternatives.append((*text_format.units, units[0]))
    return alternatives


def _list_negatives(values: pl.Series, text_format: TextFormat) -> list[str]:
    """Return the ways in which negative numbers may be written, as in `NEGATIVE_PATTERNS`.

    The one of settings.yml comes first.
    """
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
