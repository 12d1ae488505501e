"""Parse the text of a CSV file as numbers, dates, booleans and missing values.

Most functions take a column of text as a polars expression, and return an expression.
Text that cannot be parsed becomes null. An argument `stripped` is text without spaces
around it.
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
# A pattern for the mathematical minus sign, and for dashes that are written in its place.
TYPOGRAPHIC_MINUS = r"^[\u2212\u2012\u2013\uFE63\uFF0D]"
FIRST_YEAR_OF_FOUR_DIGITS = 1000

# The letters of the strptime directives that contain a year, a month, a day, or a time of
# day. For example, %Y is a year, %D, %F and %x are whole dates, and %c, %s and %+ are
# dates with a time.
YEAR_LETTERS = "YyGgDFxcs+"
MONTH_LETTERS = "mbBhjUWVDFxcs+"
DAY_LETTERS = "dejuwaADFxcs+"
TIME_LETTERS = "HIklTRXrcs+"


def _list_common_cases(words: list[str]) -> list[str]:
    """Return each word as it is, in lower case, and in upper case."""
    spellings: set[str] = set()
    for word in words:
        spellings.update((word, word.lower(), word.upper()))
    return sorted(spellings)


def _list_all_cases(word: str) -> list[str]:
    """Return a word in every mixture of lower and upper case, such as true and tRUE."""
    letters = [(letter.lower(), letter.upper()) for letter in word]
    return ["".join(spelling) for spelling in product(*letters)]


# What polars reads as the number NaN, and what programs in C write for it on Windows.
NAN_SPELLINGS = [
    *(sign + nan for sign in ("", "+", "-") for nan in _list_all_cases("nan")),
    *_list_common_cases(["1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "-nan(ind)"]),
]
# Text that usually stands for a missing value. Such text is called a marker.
MISSING_MARKERS = [
    *_list_common_cases(["", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NULL", "None"]),
    *NAN_SPELLINGS,
]
TRUE_SPELLINGS = _list_all_cases("true")
FALSE_SPELLINGS = _list_all_cases("false")


@dataclass(frozen=True)
class TextFormat:
    """How the text of CSV files is written.

    The fields are settings under `data` in settings.yml. Their defaults are the usual
    format. For example:

    - `encoding` is tried for files that are not UTF-8.
    - `skip_lines` is the number of lines above the names of the columns.
    - `units`, such as % or EUR, may be written before or after a number.
    - `date_format` has one or more strptime formats, in addition to ISO 8601.
    - `missing` lists further text that stands for a missing value.
    - `not_missing` lists markers, such as NA, that are values in columns of text.
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

        Raises TypeError if `settings` is not a dictionary, or has a key that is no field.
        """
        if not isinstance(settings, dict):
            raise TypeError(f"The text format is not a JSON object: {settings}")
        fields: dict[str, Any] = {}
        for name, value in settings.items():
            # JSON has lists in place of tuples.
            fields[name] = tuple(value) if isinstance(value, list) else value
        return cls(**fields)

    @property
    def date_formats(self) -> tuple[str, ...]:
        """Return the date formats as a tuple. settings.yml may have a single string."""
        if isinstance(self.date_format, str):
            return (self.date_format,) if self.date_format else ()
        return self.date_format


USUAL_FORMAT = TextFormat()


def format_setting(value: str | int | tuple[str, ...]) -> str:
    """Write the value of a setting as settings.yml has it, such as ['NA', 'none']."""
    return str(list(value)) if isinstance(value, tuple) else repr(value)


# The values of the setting `negative`: how negative numbers are written, other than with a
# minus sign in front.
PARENTHESES = "parentheses"
TRAILING_MINUS = "trailing_minus"


@dataclass(frozen=True)
class ValueType:
    """The type as which text is parsed and, for dates and times, the format of the text.

    `date_format` is a strptime format such as %d.%m.%Y. Without it, dates and timestamps
    are only read in ISO 8601, such as 2026-01-31. A number with a date format is a time of
    day or a duration, which is read as a number of seconds.
    """

    dtype: pl.DataType
    date_format: str = ""


def is_time_of_day(value_type: ValueType) -> bool:
    """Return whether text of this type is a time of day or a duration, read as seconds."""
    return value_type.dtype == NUMBER and value_type.date_format != ""


ISO_DATE_TYPES = (ValueType(DATE), ValueType(TIMESTAMP))


def null_if_empty(stripped: pl.Expr) -> pl.Expr:
    """Replace empty text with null."""
    return pl.when(stripped != "").then(stripped)


def null_if_nan(stripped: pl.Expr) -> pl.Expr:
    """Replace empty text and all spellings of NaN with null."""
    return pl.when(~stripped.is_in(["", *NAN_SPELLINGS])).then(stripped)


def null_if_missing(
    stripped: pl.Expr, text_format: TextFormat, *, is_text_column: bool = False
) -> pl.Expr:
    """Replace empty text and markers for missing values, such as NA, with null.

    `stripped` is the text without spaces around it. If `is_text_column` is True, the values
    of the column are text. Then the markers that settings.yml lists under
    `data.not_missing` are values, and are kept.
    """
    markers = {*MISSING_MARKERS, *text_format.missing}
    if is_text_column:
        markers -= set(text_format.not_missing)
    is_missing = stripped.is_in(sorted(markers))
    return pl.when(~is_missing).then(stripped)


def parse_text(
    text: pl.Expr, value_type: ValueType, text_format: TextFormat
) -> pl.Expr:
    """Parse text as values of one type. Text that cannot be parsed becomes null."""
    if value_type.dtype == INTEGER:
        return _parse_integer(text, text_format)
    # A time of day is read as a NUMBER of seconds, so it comes before other numbers.
    if is_time_of_day(value_type):
        return _parse_seconds(text, value_type.date_format)
    if value_type.dtype == NUMBER:
        return _parse_number(text, text_format)
    if value_type.dtype == BOOLEAN:
        return _parse_boolean(text)
    if value_type.dtype == DATE:
        return _parse_date(text, value_type.date_format)
    if value_type.dtype == TIMESTAMP:
        return _parse_timestamp(text, value_type.date_format)
    return text


def list_usual_types(text_format: TextFormat) -> list[ValueType]:
    """Return the types other than text that columns may have, the narrowest first.

    Dates may be written in the date formats of settings.yml, and in ISO 8601.
    """
    value_types = [ValueType(INTEGER), ValueType(NUMBER), ValueType(BOOLEAN)]
    for date_format in text_format.date_formats:
        value_types += list_date_types(date_format)
    return [*value_types, *ISO_DATE_TYPES]


def parse_as_type(
    text: pl.Expr, dtype: pl.DataType, text_format: TextFormat
) -> pl.Expr:
    """Parse text as one type, in any of the formats that settings.yml allows for it.

    For example, a date is parsed in each date format in turn, until one fits. Text that
    fits none of the formats becomes null.
    """
    if dtype == TEXT:
        return text
    return pl.coalesce(
        parse_text(text, value_type, text_format)
        for value_type in list_usual_types(text_format)
        if value_type.dtype == dtype
    )


def list_date_types(date_format: str) -> list[ValueType]:
    """Return the types that text in a strptime format can have.

    For example, text in %d.%m.%Y is a date, text in %d.%m.%Y %H:%M is a timestamp, and text
    in %H:%M is a number of seconds.
    """
    has_time = has_directive(TIME_LETTERS, date_format)
    has_year = has_directive(YEAR_LETTERS, date_format)
    if not has_time:
        # In a column of timestamps, some rows may hold only a date.
        return [ValueType(DATE, date_format), ValueType(TIMESTAMP, date_format)]
    if not has_year:
        return [ValueType(NUMBER, date_format)]
    return [ValueType(TIMESTAMP, date_format)]


def has_directive(letters: str, date_format: str) -> bool:
    """Return whether a strptime format has a directive with one of these letters.

    A directive may have a modifier before its letter, such as %-d and %.f.
    """
    return re.search(f"%[^a-zA-Z%]*[{letters}]", date_format) is not None


def check_date_formats(text_format: TextFormat) -> None:
    """Raise DataError if a date format in settings.yml cannot be used.

    A format must have a year and a month, or be a time of day without a date. polars must
    also accept it.
    """
    for date_format in text_format.date_formats:
        setting = f"data.date_format in settings.yml: '{date_format}'"
        has_year = has_directive(YEAR_LETTERS, date_format)
        has_month = has_directive(MONTH_LETTERS, date_format)
        has_time = has_directive(TIME_LETTERS, date_format)
        is_date = has_year and has_month
        is_only_time = has_time and not has_year and not has_month
        if not is_date and not is_only_time:
            raise DataError(
                f"{setting} must have a year and a month, such as '%d.%m.%Y', or be a time"
                " of day, such as '%H:%M'."
            )
        # polars rejects an invalid format whatever the text is, so any text will do.
        any_text = pl.lit("2026")
        try:
            for value_type in list_date_types(date_format):
                pl.select(parse_text(any_text, value_type, text_format))
        except pl.exceptions.PolarsError as error:
            first_line = str(error).partition("\n")[0]
            raise DataError(f"{setting} is not a valid format: {first_line}") from None


def _parse_boolean(text: pl.Expr) -> pl.Expr:
    """Parse true and false, in any mixture of lower and upper case."""
    is_boolean = text.is_in(TRUE_SPELLINGS + FALSE_SPELLINGS)
    return pl.when(is_boolean).then(text.is_in(TRUE_SPELLINGS))


# Numbers


def _parse_integer(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Parse integers of at most 18 digits.

    Text with a leading zero, such as 007, becomes null, because it is probably a code.
    """
    number = _normalize_number(text, text_format)
    is_integer = number.str.contains(r"^[+-]?(0|[1-9][0-9]{0,17})$")
    return pl.when(is_integer).then(number.cast(pl.Int64, strict=False))


def _parse_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Parse floats.

    Text with a leading zero, such as 007, or with more than 18 digits becomes null, because
    it is probably a code.
    """
    number = _normalize_number(text, text_format)
    is_code = number.str.contains(r"^[+-]?(0[0-9]|[0-9]{19})")
    return pl.when(~is_code).then(number.cast(pl.Float64, strict=False))


def _normalize_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Write numbers as polars parses them.

    Units and thousands separators are removed, the decimal mark becomes a point, and the
    minus sign comes first. For example, 1.234,50- EUR becomes -1234.50.
    """
    text = text.str.replace(TYPOGRAPHIC_MINUS, "-")
    if text_format.negative:
        text = _move_minus_to_front(text, text_format.negative)
    if text_format.units:
        any_unit = "|".join(re.escape(unit) for unit in text_format.units)
        unit_at_end = rf"\s*(?:{any_unit})$"
        unit_after_sign = rf"^([+-]?)(?:{any_unit})\s*"
        text = text.str.replace(unit_at_end, "")
        text = text.str.replace(unit_after_sign, "${1}")
    if text_format.thousands:
        text = _remove_thousands(text, text_format)
    if text_format.decimal != ".":
        # If another decimal mark is in use, text with a point is no number: it becomes null.
        has_point = text.str.contains(".", literal=True)
        with_point = text.str.replace(text_format.decimal, ".", literal=True)
        text = pl.when(~has_point).then(with_point)
    return text


def _move_minus_to_front(text: pl.Expr, negative: str) -> pl.Expr:
    """Write negative numbers with a minus sign in front: (1.50) or 1.50- becomes -1.50.

    `negative` is PARENTHESES or TRAILING_MINUS.
    """
    if negative == PARENTHESES:
        # A unit may stand before the parentheses, inside them, or after them: EUR (1.50),
        # (EUR 1.50), (1.50) EUR.
        return text.str.replace(r"^([^()]*)\(([^()]*)\)([^()\d.,]*)$", "-${1}${2}${3}")
    return text.str.replace(r"^([^+-].*?)\s*-([^\d.,-]*)$", "-${1}${2}")


def _remove_thousands(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Remove thousands separators from numbers in which they are correctly placed.

    The separators divide the digits into groups of three, such as 1,234,567. In Indian
    numbers, only the last group has three digits, and the groups before it have two:
    12,34,567. All other text is left as it is.
    """
    separator = text_format.thousands
    if separator == " ":
        # French numbers use a no-break space, a narrow one, or a thin one.
        text = text.str.replace_all(r"\p{Zs}", " ")
    if separator == "'":
        # Swiss numbers use an apostrophe, straight or curly.
        text = text.str.replace_all("\u2019", "'", literal=True)

    escaped = re.escape(separator)
    # Each group begins with the separator, such as ,567 or ,34.
    group_of_three = escaped + r"\d{3}"
    group_of_two = escaped + r"\d{2}"
    western = r"\d{1,3}" + f"(?:{group_of_three})+"
    indian = r"\d{1,2}" + f"(?:{group_of_two})+{group_of_three}"
    fraction = re.escape(text_format.decimal) + r"\d*"
    is_grouped = text.str.contains(rf"^[+-]?(?:{western}|{indian})(?:{fraction})?$")
    without_separators = text.str.replace_all(separator, "", literal=True)
    return pl.when(is_grouped).then(without_separators).otherwise(text)


# Dates and times


def _parse_seconds(text: pl.Expr, time_format: str) -> pl.Expr:
    """Parse times of day as seconds since midnight, and durations as seconds.

    For example, 1:02:03.5 becomes 3723.5.
    """
    if time_format == HOURS_MINUTES_SECONDS:
        return _parse_duration(text)
    time = text.str.to_time(time_format, strict=False)
    nanoseconds = time.cast(pl.Int64)
    return nanoseconds / 1e9


def _parse_duration(text: pl.Expr) -> pl.Expr:
    """Parse durations as seconds, with or without days: 2 days 1:02:03.5, or 1:02:03.5."""
    pattern = r"^(?:(\d+) days?,? )?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)$"
    days = text.str.extract(pattern, 1).cast(pl.Float64).fill_null(0)
    hours = text.str.extract(pattern, 2).cast(pl.Float64)
    minutes = text.str.extract(pattern, 3).cast(pl.Float64)
    seconds = text.str.extract(pattern, 4).cast(pl.Float64)
    return days * SECONDS_PER_DAY + hours * 3600 + minutes * 60 + seconds


def _parse_date(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse dates in a strptime format, and in ISO 8601.

    An empty `date_format` means ISO 8601 only. If ISO 8601 could be mistaken for the
    format, only the format is used: with %Y-%d-%m, 2026-02-01 is always the second of
    January.
    """
    iso_date = text.str.to_date("%Y-%m-%d", strict=False)
    if not date_format:
        return iso_date
    date = _parse_formatted_date(text, date_format)
    if _looks_like_iso(date_format):
        return date
    return pl.coalesce(date, iso_date)


def _parse_timestamp(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse timestamps in a strptime format, and in ISO 8601.

    An empty `date_format` means ISO 8601 only. If ISO 8601 could be mistaken for the
    format, only the format is used: with %Y-%d-%m, 2026-02-01 is always the second of
    January. A date without a time is the start of its day. A timestamp with a time zone is
    converted to UTC.
    """
    if not date_format:
        return _parse_iso_timestamp(text)
    timestamp = _parse_formatted_timestamp(text, date_format)
    start_of_day = _parse_formatted_date(text, date_format).cast(TIMESTAMP)
    if _looks_like_iso(date_format):
        return pl.coalesce(timestamp, start_of_day)
    return pl.coalesce(timestamp, start_of_day, _parse_iso_timestamp(text))


def _parse_iso_timestamp(text: pl.Expr) -> pl.Expr:
    """Parse dates and timestamps in ISO 8601.

    A timestamp may lack its seconds. If it has a time zone, it is converted to UTC. A date
    without a time is the start of its day.
    """
    with_space = text.str.replace("T", " ", literal=True)
    # 2026-01-31 10:15 becomes 2026-01-31 10:15:00.
    with_seconds = with_space.str.replace(
        r"^([^ ]+ \d\d:\d\d)(Z|[+-].*)?$", "${1}:00${2}"
    )
    without_zone = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False
    )
    # %#z reads zones with and without minutes: +01:00 and +01.
    with_zone = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", strict=False
    )
    # polars has already converted these to UTC. Only the mark of the zone is removed.
    in_utc = with_zone.dt.replace_time_zone(None)
    start_of_day = text.str.to_date("%Y-%m-%d", strict=False).cast(TIMESTAMP)
    return pl.coalesce(without_zone, in_utc, start_of_day)


def _looks_like_iso(date_format: str) -> bool:
    """Return whether a date in ISO 8601 could be mistaken for this format.

    For example, 2026-01-02 could also be written in %Y-%d-%m.
    """
    return date_format.startswith("%Y-%d")


def _parse_formatted_date(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse dates in a strptime format. A month without a day means its first day."""
    if not has_directive(DAY_LETTERS, date_format):
        # polars needs a day, so one is added to the text and to the format.
        text = text + "|01"
        date_format += "|%d"
    date = text.str.to_date(date_format, strict=False)
    return _null_if_year_is_short(date, date_format)


def _parse_formatted_timestamp(text: pl.Expr, date_format: str) -> pl.Expr:
    """Parse timestamps in a strptime format, and convert those with a time zone to UTC."""
    timestamp = text.str.to_datetime(date_format, time_unit="us", strict=False)
    if has_directive("zZ", date_format):
        # polars has already converted them to UTC. Only the mark of the zone is removed.
        timestamp = timestamp.dt.replace_time_zone(None)
    return _null_if_year_is_short(timestamp, date_format)


def _null_if_year_is_short(dates: pl.Expr, date_format: str) -> pl.Expr:
    """Replace dates before the year 1000 with null if the format has %Y, a whole year.

    polars would otherwise parse 31.01.26 with the format %d.%m.%Y as a date in the year 26.
    """
    if not has_directive("Y", date_format):
        return dates
    return pl.when(dates.dt.year() >= FIRST_YEAR_OF_FOUR_DIGITS).then(dates)
