"""Parse the text of a CSV file as numbers, dates, booleans and missing values.

Most functions take a column of text as a polars expression, and return an expression.
`stripped` is text without spaces around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

import polars as pl
from date_formats import HOURS_MINUTES_SECONDS
from sources import BOOLEAN, DATE, INTEGER, NUMBER, TEXT, TIMESTAMP, DataError

SECONDS_PER_DAY = 86_400
# The mathematical minus sign, and dashes that are written in its place.
TYPOGRAPHIC_MINUS = r"^[\u2212\u2012\u2013\uFE63\uFF0D]"
FIRST_YEAR_OF_FOUR_DIGITS = 1000

# The letters of strptime's directives that contain a year, a month, a day, or a time of day.
# For example, %D, %F and %x are whole dates, and %c, %s and %+ are dates with a time.
YEAR_LETTERS = "YyGgDFxcs+"
MONTH_LETTERS = "mbBhjUWVDFxcs+"
DAY_LETTERS = "dejuwaADFxcs+"
TIME_LETTERS = "HIklTRXrcs+"


def _list_common_cases(words: list[str]) -> list[str]:
    """Return each word unchanged, in lower case and in upper case."""
    spellings: set[str] = set()
    for word in words:
        spellings.update((word, word.lower(), word.upper()))
    return sorted(spellings)


def _list_all_cases(word: str) -> list[str]:
    """Return a word in every mixture of lower and upper case."""
    letters = [(letter.lower(), letter.upper()) for letter in word]
    return ["".join(spelling) for spelling in product(*letters)]


# The words that polars reads as the number NaN, and those that C writes on Windows.
NAN_SPELLINGS = [
    *(sign + nan for sign in ("", "+", "-") for nan in _list_all_cases("nan")),
    *_list_common_cases(["1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "-nan(ind)"]),
]
MISSING_MARKERS = [
    *_list_common_cases(["", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NULL", "None"]),
    *NAN_SPELLINGS,
]
TRUE_SPELLINGS = _list_all_cases("true")
FALSE_SPELLINGS = _list_all_cases("false")


@dataclass(frozen=True)
class TextFormat:
    """How the text of CSV files is written, where it differs from the usual format.

    The fields are settings below `data` in settings.yml:

    - `encoding` is tried for files that are not UTF-8.
    - `skip_lines` is the number of lines above the names of the columns.
    - `units`, such as % or EUR, may be written before or after a number.
    - `date_format` has one or more formats of strptime, in addition to ISO 8601.
    - `missing` lists further words for a missing value.
    - `not_missing` lists words that usually mean a missing value, such as NA, but are
      values in columns of text.
    """

    encoding: str = ""
    delimiter: str = ""
    skip_lines: int = 0
    decimal: str = "."
    thousands: str = ""
    units: tuple[str, ...] = ()
    negative: str = ""
    date_format: str | tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    not_missing: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, settings: Any) -> TextFormat:
        """Create a format from a dictionary of its fields, which may come from JSON.

        Raises TypeError if `settings` is not such a dictionary.
        """
        if not isinstance(settings, dict):
            raise TypeError(f"The text format is not a JSON object: {settings}")
        values: dict[str, Any] = {
            # JSON has lists in place of tuples.
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
        return cls(**values)

    @property
    def date_formats(self) -> tuple[str, ...]:
        """Return the date formats as a tuple. In settings.yml, a single one is a string."""
        if isinstance(self.date_format, str):
            return (self.date_format,) if self.date_format else ()
        return self.date_format


USUAL_FORMAT = TextFormat()


def format_setting(value: str | int | tuple[str, ...]) -> str:
    """Return a setting of the text format as settings.yml spells it."""
    return str(list(value)) if isinstance(value, tuple) else repr(value)


# How a negative number may be written, other than with a minus sign before it.
PARENTHESES = "parentheses"
TRAILING_MINUS = "trailing_minus"


@dataclass(frozen=True)
class ValueType:
    """How the text of a column is parsed: its type, and how dates are written.

    Dates and timestamps are written in ISO 8601 or in the `date_format`. A number with a
    date format is a time of day or a duration, in seconds. Other types have no date
    format.
    """

    dtype: pl.DataType
    date_format: str = ""


def is_time_of_day(value_type: ValueType) -> bool:
    """Return whether values of a type are times of day or durations, in seconds."""
    return value_type.dtype == NUMBER and value_type.date_format != ""


ISO_DATE_TYPES = (ValueType(DATE), ValueType(TIMESTAMP))


def null_if_empty(stripped: pl.Expr) -> pl.Expr:
    """Replace empty text by null."""
    return pl.when(stripped != "").then(stripped)


def null_if_nan(stripped: pl.Expr) -> pl.Expr:
    """Replace text by null where it is empty or spells NaN."""
    return pl.when(~stripped.is_in(["", *NAN_SPELLINGS])).then(stripped)


def null_if_missing(
    stripped: pl.Expr, text_format: TextFormat, *, in_text: bool = False
) -> pl.Expr:
    """Replace words for missing values by null.

    In a column of text (`in_text`), the `not_missing` words of the format are kept.
    """
    missing_words = {*MISSING_MARKERS, *text_format.missing}
    if in_text:
        missing_words -= set(text_format.not_missing)
    is_missing = stripped.is_in(sorted(missing_words))
    return pl.when(~is_missing).then(stripped)


def parse_text(
    text: pl.Expr, value_type: ValueType, text_format: TextFormat
) -> pl.Expr:
    """Parse text as values of one type. Text that cannot be parsed becomes null."""
    if value_type.dtype == INTEGER:
        return _parse_integer(text, text_format)
    if value_type.dtype == NUMBER:
        if value_type.date_format:
            return _parse_seconds(text, value_type.date_format)
        return _parse_number(text, text_format)
    if value_type.dtype == BOOLEAN:
        is_boolean = text.is_in(TRUE_SPELLINGS + FALSE_SPELLINGS)
        return pl.when(is_boolean).then(text.is_in(TRUE_SPELLINGS))
    if value_type.dtype == DATE:
        return _parse_date(text, value_type.date_format)
    if value_type.dtype == TIMESTAMP:
        return _parse_timestamp(text, value_type.date_format)
    return text


def list_usual_types(text_format: TextFormat) -> list[ValueType]:
    """Return the types that settings.yml allows, the narrowest type first."""
    value_types = [ValueType(INTEGER), ValueType(NUMBER), ValueType(BOOLEAN)]
    for date_format in text_format.date_formats:
        value_types += list_date_types(date_format)
    return [*value_types, *ISO_DATE_TYPES]


def parse_as_type(
    text: pl.Expr, dtype: pl.DataType, text_format: TextFormat
) -> pl.Expr:
    """Parse text by the first allowed format of a type that can parse it, or as null."""
    if dtype == TEXT:
        return text
    return pl.coalesce(
        parse_text(text, value_type, text_format)
        for value_type in list_usual_types(text_format)
        if value_type.dtype == dtype
    )


def list_date_types(date_format: str) -> list[ValueType]:
    """Return the types for which a format of strptime is used."""
    has_time = has_directive(TIME_LETTERS, date_format)
    has_year = has_directive(YEAR_LETTERS, date_format)
    if not has_time:
        # A column of timestamps may hold dates alone in some rows.
        return [ValueType(DATE, date_format), ValueType(TIMESTAMP, date_format)]
    if not has_year:
        # A time of day is read as a number of seconds.
        return [ValueType(NUMBER, date_format)]
    return [ValueType(TIMESTAMP, date_format)]


def has_directive(letters: str, date_format: str) -> bool:
    """Return whether a format of strptime has a directive with one of these letters."""
    return re.search(f"%[^a-zA-Z%]*[{letters}]", date_format) is not None


def check_date_formats(text_format: TextFormat) -> None:
    """Raise DataError if a date format of settings.yml cannot be used.

    A format must have a year and a month, or only a time of day, and polars must accept it.
    """
    for date_format in text_format.date_formats:
        setting = f"data.date_format in settings.yml: '{date_format}'"
        has_year = has_directive(YEAR_LETTERS, date_format)
        has_month = has_directive(MONTH_LETTERS, date_format)
        has_time = has_directive(TIME_LETTERS, date_format)
        has_date_or_time = has_year or has_time
        if has_year != has_month or not has_date_or_time:
            raise DataError(
                f"{setting} needs a year and a month, such as '%d.%m.%Y', or the hour of"
                " a time, such as '%H:%M'."
            )
        # polars raises an error for a format that it does not accept, whatever the text
        # is. So any text serves as an example, and its value is not used.
        any_text = pl.lit("2026")
        try:
            for value_type in list_date_types(date_format):
                pl.select(parse_text(any_text, value_type, text_format))
        except pl.exceptions.PolarsError as error:
            first_line = str(error).partition("\n")[0]
            raise DataError(f"{setting} is not a format: {first_line}") from None


# Numbers


def _parse_integer(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Parse integers. Codes, with digits after a zero such as 007, become null."""
    number = _normalize_number(text, text_format)
    is_integer = number.str.contains(r"^[+-]?(0|[1-9][0-9]{0,17})$")
    return pl.when(is_integer).then(number.cast(pl.Int64, strict=False))


def _parse_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Parse floats. Codes, with digits after a zero or more than 18 digits, become null."""
    number = _normalize_number(text, text_format)
    is_code = number.str.contains(r"^[+-]?(0[0-9]|[0-9]{19})")
    return pl.when(~is_code).then(number.cast(pl.Float64, strict=False))


def _normalize_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Remove units and thousands separators, and write decimal points and minus signs."""
    text = text.str.replace(TYPOGRAPHIC_MINUS, "-")
    if text_format.negative:
        text = _move_minus_to_front(text, text_format.negative)
    if text_format.units:
        unit = "|".join(re.escape(unit) for unit in text_format.units)
        text = text.str.replace(rf"\s*(?:{unit})$", "")
        text = text.str.replace(rf"^([+-]?)(?:{unit})\s*", "${1}")
    if text_format.thousands:
        text = _remove_thousands(text, text_format)
    if text_format.decimal != ".":
        # A point is not a decimal mark here, so a text with a point is not a number.
        has_point = text.str.contains(".", literal=True)
        with_point = text.str.replace(text_format.decimal, ".", literal=True)
        text = pl.when(~has_point).then(with_point)
    return text


def _move_minus_to_front(text: pl.Expr, negative: str) -> pl.Expr:
    """Write a minus sign in front of negative numbers: (1.50) or 1.50- become -1.50."""
    if negative == PARENTHESES:
        # A unit may be before the parentheses or inside them.
        return text.str.replace(r"^([^()]*)\(([^()]*)\)$", "-${1}${2}")
    return text.str.replace(r"^([^+-].*?)\s*-$", "-${1}")


def _remove_thousands(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Remove thousands separators from numbers in which they are correctly placed.

    The separators divide the digits into groups of three. In Indian numbers, only the last
    group has three digits, and the groups before it have two: 12,34,567.
    """
    separator = text_format.thousands
    if separator == " ":
        # French numbers use a no-break space, a narrow one, or a thin one.
        text = text.str.replace_all(r"\p{Zs}", " ")
    if separator == "'":
        # Swiss numbers use an apostrophe, straight or curly.
        text = text.str.replace_all("\u2019", "'", literal=True)
    mark = re.escape(separator)
    three_digits = mark + r"\d{3}"
    two_digits = mark + r"\d{2}"
    western = r"\d{1,3}" + f"(?:{three_digits})+"
    indian = r"\d{1,2}" + f"(?:{two_digits})+{three_digits}"
    fraction = re.escape(text_format.decimal) + r"\d*"
    is_grouped = text.str.contains(rf"^[+-]?(?:{western}|{indian})(?:{fraction})?$")
    without_separators = text.str.replace_all(separator, "", literal=True)
    return pl.when(is_grouped).then(without_separators).otherwise(text)


# Dates and times


def _parse_seconds(text: pl.Expr, time_format: str) -> pl.Expr:
    """Parse times of day and durations as seconds, such as 3723.5 for 1:02:03.5."""
    if time_format == HOURS_MINUTES_SECONDS:
        return _parse_duration(text)
    time = text.str.to_time(time_format, strict=False)
    nanoseconds = time.cast(pl.Int64)
    return nanoseconds / 1e9


def _parse_duration(text: pl.Expr) -> pl.Expr:
    """Parse durations such as 2 days 1:02:03.5 as seconds. The days are optional."""
    pattern = r"^(?:(\d+) days?,? )?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)$"
    days = text.str.extract(pattern, 1).cast(pl.Float64).fill_null(0)
    hours = text.str.extract(pattern, 2).cast(pl.Float64)
    minutes = text.str.extract(pattern, 3).cast(pl.Float64)
    seconds = text.str.extract(pattern, 4).cast(pl.Float64)
    return days * SECONDS_PER_DAY + hours * 3600 + minutes * 60 + seconds


def _parse_date(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse dates in a format of strptime, if it is not empty, and in ISO 8601."""
    iso_date = text.str.to_date("%Y-%m-%d", strict=False)
    if not date_format:
        return iso_date
    date = _parse_formatted_date(text, date_format)
    if _looks_like_iso(date_format):
        return date
    return pl.coalesce(date, iso_date)


def _parse_timestamp(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse timestamps in a format of strptime, if it is not empty, and in ISO 8601.

    A date is the start of its day. A timestamp with a zone is converted to UTC.
    """
    if not date_format:
        return _parse_iso_timestamp(text)
    timestamp = _parse_formatted_timestamp(text, date_format)
    date = _parse_formatted_date(text, date_format).cast(TIMESTAMP)
    if _looks_like_iso(date_format):
        return pl.coalesce(timestamp, date)
    return pl.coalesce(timestamp, date, _parse_iso_timestamp(text))


def _parse_iso_timestamp(text: pl.Expr) -> pl.Expr:
    """Parse dates and timestamps in ISO 8601, with or without seconds and a zone."""
    with_space = text.str.replace("T", " ", literal=True)
    # 2026-01-31 10:15 becomes 2026-01-31 10:15:00.
    with_seconds = with_space.str.replace(
        r"^([^ ]+ \d\d:\d\d)(Z|[+-].*)?$", "${1}:00${2}"
    )
    without_zone = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False
    )
    with_zone = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", strict=False
    ).dt.replace_time_zone(None)
    date = text.str.to_date("%Y-%m-%d", strict=False).cast(TIMESTAMP)
    return pl.coalesce(without_zone, with_zone, date)


def _looks_like_iso(date_format: str) -> bool:
    """Return whether ISO 8601 could be mistaken for this format, such as %Y-%d-%m."""
    return date_format.startswith("%Y-%d")


def _parse_formatted_date(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse dates in a format of strptime. A month without a day means its first day."""
    if not has_directive(DAY_LETTERS, date_format):
        text = text + "|01"
        date_format += "|%d"
    date = text.str.to_date(date_format, strict=False)
    return _null_if_year_is_short(date, date_format)


def _parse_formatted_timestamp(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse timestamps in a format of strptime, and convert those with a zone to UTC."""
    timestamp = text.str.to_datetime(date_format, time_unit="us", strict=False)
    if has_directive("zZ", date_format):
        timestamp = timestamp.dt.replace_time_zone(None)
    return _null_if_year_is_short(timestamp, date_format)


def _null_if_year_is_short(values: pl.Expr, date_format: str) -> pl.Expr:
    """Replace dates by null if the format has %Y and the year has fewer than four digits.

    polars would parse 31.01.26 with the format %d.%m.%Y as a date in the year 26.
    """
    if not has_directive("Y", date_format):
        return values
    return pl.when(values.dt.year() >= FIRST_YEAR_OF_FOUR_DIGITS).then(values)
