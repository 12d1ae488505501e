"""Find the settings with which a column of text would be read as numbers or dates.

A typed value is text that can be read as a number, a boolean, a date or a timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import polars as pl
from date_formats import find_unambiguous_format, list_possible_formats
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

# If more than this share of a column's values are codes, such as 007, the column is text on
# purpose.
MAX_CODE_SHARE = 1 / 20
# A code has digits after a zero, such as 007, or more digits than an integer of 64 bits can
# hold.
CODE_PATTERN = r"^[+-]?(0[0-9]+|[0-9]{19,})$"
# The decimal marks and thousands separators that people use together. The first mark of
# each pair is the decimal mark.
NUMBER_MARKS = (
    (".", ""),
    (",", ""),
    (".", ","),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
)
# Each pattern captures the unit of a number. Before a number, a unit is a currency's sign
# or code, such as $ or EUR. After a number, it may also be a word, such as kg.
UNIT_PATTERNS = (
    r"^[(+-]*([A-Z]{0,3}\p{Sc}|[A-Z]{3}|Rs\.?|kr\.?|Fr\.)(?:\s[(+-]?|\(?)\d",
    r"\d\)?\s*(\p{Sc}|[%‰°]|[[:alpha:]]{2,4})\)?$",
)
# The patterns of negative numbers such as (1.50) and 1.50-.
NEGATIVE_PATTERNS = {
    PARENTHESES: r"^[^()]*\([^()]*\d[^()]*\)$",
    TRAILING_MINUS: r"\d\s*-$",
}
# Most text is ruled out by this pattern, which is faster than trying all formats: a typed
# value has a digit, or is true or false.
POSSIBLE_PATTERN = r"(?i)\d|^(true|false)$"
# The date formats of this many values of a column are tried.
MAX_DATES_TRIED = 20


def suggest_settings(values: pl.Series, text_format: TextFormat) -> str:
    """Return the settings with which most values of a column would be numbers or dates.

    For example, returns "data.decimal: ','" for the values 1,5 and 2,25. Returns "" if no
    settings help, or if none needs to change.
    """
    unambiguous_date_types = find_unambiguous_date_types(values)
    formats = find_fitting_formats(values, text_format, unambiguous_date_types)
    if not formats or text_format in formats:
        return ""
    return describe_needed_settings(text_format, formats)


def find_unambiguous_date_types(values: pl.Series) -> list[ValueType]:
    """Return the types of the unambiguous dates among the first values of a column.

    The format of an unambiguous date follows from its text. For example, 31-Jan-2026 can
    only be written in %d-%B-%Y, while 01/02/2026 could have two formats. A type also holds
    the format, and is returned once.
    """
    date_types: list[ValueType] = []
    for value in values.head(MAX_DATES_TRIED):
        date_format = find_unambiguous_format(value)
        if date_format is not None:
            date_types += list_date_types(date_format)
    return list(dict.fromkeys(date_types))


def find_fitting_formats(
    values: pl.Series,
    text_format: TextFormat,
    unambiguous_date_types: Sequence[ValueType],
) -> list[TextFormat]:
    """Return the formats in which the largest number of a column's values can be read.

    A format can read the numbers, booleans and dates that are written in it. Every format
    can also read the dates of `unambiguous_date_types`, such as 31-Jan-2026. `text_format`,
    the format of settings.yml, comes first if it is one of the results. The list is empty in
    these cases:

    - No format can read at least half of the values.
    - The column holds codes such as 007, which are text on purpose.
    """
    if values.is_empty():
        return []
    half = len(values) / 2
    # A value that does not match this pattern is text in every format. Matching one pattern
    # is faster than trying all formats.
    may_be_number_or_date = values.str.contains(POSSIBLE_PATTERN)
    if may_be_number_or_date.sum() < half:
        return []
    is_code = values.str.contains(CODE_PATTERN)
    if is_code.sum() > len(values) * MAX_CODE_SHARE:
        return []

    formats = [text_format, *_vary_format(values, text_format)]
    distinct_formats = list(dict.fromkeys(formats))
    counts = _count_typed_values(values, distinct_formats, unambiguous_date_types)
    highest_count = max(counts)
    if highest_count < half:
        return []
    return [
        tried_format
        for tried_format, count in zip(distinct_formats, counts)
        if count == highest_count
    ]


def _count_typed_values(
    values: pl.Series,
    formats: Sequence[TextFormat],
    unambiguous_date_types: Sequence[ValueType],
) -> list[int]:
    """Count how many of the values are numbers, booleans or dates in each format.

    A date such as 31-Jan-2026, which has one of `unambiguous_date_types`, counts in every
    format.
    """
    text = pl.col("text")
    counts = values.to_frame("text").select(
        is_typed_value(text, tried_format, unambiguous_date_types).sum().alias(str(i))
        for i, tried_format in enumerate(formats)
    )
    return list(counts.row(0))


def is_typed_value(
    text: pl.Expr, text_format: TextFormat, unambiguous_date_types: Sequence[ValueType]
) -> pl.Expr:
    """Return whether text can be read as a number, a boolean, a date or a timestamp.

    A date may be written in the formats of `text_format`, in ISO 8601, or in the formats of
    `unambiguous_date_types`, which cannot be mistaken for another format. For example,
    31-Jan-2026 is such a date.
    """
    value_types = [*list_usual_types(text_format), *unambiguous_date_types]
    return pl.any_horizontal(
        parse_text(text, value_type, text_format).is_not_null()
        for value_type in value_types
    )


def describe_needed_settings(
    text_format: TextFormat, formats: Sequence[TextFormat]
) -> str:
    """Describe which settings to change to read the data in one of the formats.

    `text_format` is the format that settings.yml has now. Only the formats that need the
    fewest changes are described, joined by "or".
    """
    changes_by_format = [_list_changes(text_format, other) for other in formats]
    fewest = min(len(changes) for changes in changes_by_format)
    alternatives = [
        " and ".join(changes) for changes in changes_by_format if len(changes) == fewest
    ]
    distinct_alternatives = dict.fromkeys(alternatives)
    return " or ".join(distinct_alternatives)


def _list_changes(text_format: TextFormat, other_format: TextFormat) -> list[str]:
    """Return the settings to write in settings.yml to get from one format to another.

    For example, returns ["data.decimal: ','"].
    """
    changes = []
    for name, value in vars(other_format).items():
        if value == getattr(text_format, name):
            continue
        if name == "date_format" and len(value) == 1:
            # A single date format is written without a list.
            value = value[0]
        changes.append(f"data.{name}: {format_setting(value)}")
    return changes


def _vary_format(values: pl.Series, text_format: TextFormat) -> Iterator[TextFormat]:
    """Yield variants of a format that the values of a column suggest.

    A variant differs in its units, in how it writes negative numbers, in its decimal mark
    and thousands separator, or has one more date format. The format itself may be among the
    variants.
    """
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
    # Date formats are tried one at a time, with all other settings unchanged.
    for further_format in _list_date_formats(values):
        date_formats = (*text_format.date_formats, further_format)
        yield replace(text_format, date_format=date_formats)


def _list_units(values: pl.Series, text_format: TextFormat) -> list[tuple[str, ...]]:
    """Return the units to try: those of settings.yml, alone and with one of the values.

    For example, returns [(), ("EUR",)] for the values 5 EUR and 7 EUR.
    """
    alternatives = [text_format.units]
    for pattern in UNIT_PATTERNS:
        units = values.str.extract(pattern).drop_nulls()
        if not units.is_empty():
            alternatives.append((*text_format.units, units[0]))
    return alternatives


def _list_negatives(values: pl.Series, text_format: TextFormat) -> list[str]:
    """Return the values of the setting `negative` to try.

    The value in settings.yml comes first. The others are the ways of writing negative
    numbers that occur in the column, such as "parentheses" for (1.50).
    """
    negatives = [text_format.negative]
    for negative, pattern in NEGATIVE_PATTERNS.items():
        if values.str.contains(pattern).any():
            negatives.append(negative)
    return negatives


def _list_date_formats(values: pl.Series) -> list[str]:
    """Return the formats that the first values of a column have if they are dates.

    For example, 01/02/2026 has the formats %m/%d/%Y and %d/%m/%Y.
    """
    date_formats: list[str] = []
    for value in values.head(MAX_DATES_TRIED):
        date_formats += list_possible_formats(value)
    return list(dict.fromkeys(date_formats))
