"""How the text of a CSV file becomes numbers, dates, booleans and missing values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import product

import polars as pl
from sources import BOOLEAN, DATE, INTEGER, NUMBER, TIMESTAMP


def _lower_and_upper(words: list[str]) -> list[str]:
    """Return each word as it is, in lower case and in upper case."""
    return sorted({form for w in words for form in (w, w.lower(), w.upper())})


def _in_any_case(word: str) -> list[str]:
    """Return a word in every mixture of lower and upper case."""
    letters = [(letter, letter.upper()) for letter in word]
    return ["".join(spelling) for spelling in product(*letters)]


MISSING_WORDS = _lower_and_upper(
    ["", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NaN", "-NaN", "NULL", "None"]
)
TRUE_WORDS = _in_any_case("true")
FALSE_WORDS = _in_any_case("false")


@dataclass(frozen=True)
class TextFormat:
    """How the text of CSV files is written, where it differs from the usual.

    These are settings below `data` in settings.yml. `encoding` is tried for files that
    are not UTF-8. `units`, such as % or EUR, may stand before or behind a number.
    `date_format` is a format of strptime, and ISO 8601 is always read, too. `missing`
    are further spellings of a missing value.
    """

    encoding: str = ""
    decimal: str = "."
    thousands: str = ""
    units: tuple[str, ...] = ()
    date_format: str = ""
    missing: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> TextFormat:
        """Read a JSON object with some of the fields.

        Raises ValueError if the text is not JSON, TypeError if it holds anything else.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise TypeError(f"The text format is not a JSON object: {text}")
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)


USUAL_FORMAT = TextFormat()


def null_if_empty(stripped: pl.Expr) -> pl.Expr:
    """Return text, without blanks around it, as null where nothing is left."""
    return pl.when(stripped != "").then(stripped)


def null_if_missing(stripped: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return text, without blanks around it, as null where it spells a missing value."""
    is_missing = stripped.is_in([*MISSING_WORDS, *text_format.missing])
    return pl.when(~is_missing).then(stripped)


def parse_text(text: pl.Expr, type: pl.DataType, text_format: TextFormat) -> pl.Expr:
    """Return text as values of a type, null where it does not read as one."""
    if type == INTEGER:
        return _parse_integer(text, text_format)
    if type == NUMBER:
        return _parse_number(text, text_format)
    if type == BOOLEAN:
        is_boolean = text.is_in(TRUE_WORDS + FALSE_WORDS)
        return pl.when(is_boolean).then(text.is_in(TRUE_WORDS))
    if type == DATE:
        return _parse_date(text, text_format.date_format)
    if type == TIMESTAMP:
        return _parse_timestamp(text, text_format.date_format)
    return text


def _parse_integer(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return integers. Digits behind a zero (007) are a code, which only text keeps."""
    digits = _normalise_number(text, text_format)
    is_integer = digits.str.contains(r"^[+-]?(0|[1-9][0-9]{0,17})$")
    return pl.when(is_integer).then(digits.cast(pl.Int64, strict=False))


def _parse_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return floats. Digits behind a zero, or 19 and more, are a code, not a number."""
    digits = _normalise_number(text, text_format)
    is_code = digits.str.contains(r"^[+-]?(0[0-9]|[0-9]{19})")
    return pl.when(~is_code).then(digits.cast(pl.Float64, strict=False))


def _parse_date(text: pl.Expr, date_format: str) -> pl.Expr:
    """Return dates in ISO 8601 or in the given format, if that has no time of day."""
    iso_date = text.str.to_date("%Y-%m-%d", strict=False)
    has_time = re.search("%[^a-zA-Z]*[HIklMSTRXrcs]", date_format)
    if not date_format or has_time:
        return iso_date
    return pl.coalesce(iso_date, text.str.to_date(date_format, strict=False))


def _parse_timestamp(text: pl.Expr, date_format: str) -> pl.Expr:
    """Return timestamps in UTC: of ISO 8601, with or without a zone, and dates."""
    spaced = text.str.replace("T", " ", literal=True)
    with_seconds = spaced.str.replace(r"^([^ ]+ \d\d:\d\d)(Z|[+-].*)?$", "${1}:00${2}")
    naive = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False
    )
    zoned = with_seconds.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", strict=False
    ).dt.replace_time_zone(None)
    iso_date = text.str.to_date("%Y-%m-%d", strict=False).cast(TIMESTAMP)
    readings = [naive, zoned, iso_date]
    if date_format:
        readings += [
            text.str.to_datetime(date_format, time_unit="us", strict=False),
            text.str.to_date(date_format, strict=False).cast(TIMESTAMP),
        ]
    return pl.coalesce(readings)


def _normalise_number(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return numbers spelled as in Python: without units and thousands, with a point."""
    if text_format.units:
        unit = "|".join(re.escape(unit) for unit in text_format.units)
        text = text.str.replace(rf"\s*(?:{unit})$", "")
        text = text.str.replace(rf"^([+-]?)(?:{unit})\s*", "${1}")
    if text_format.thousands:
        text = _remove_thousands(text, text_format)
    if text_format.decimal != ".":
        # A point is no decimal mark then, so a text with one is no number.
        has_point = text.str.contains(".", literal=True)
        with_point = text.str.replace(text_format.decimal, ".", literal=True)
        text = pl.when(~has_point).then(with_point)
    return text


def _remove_thousands(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return text without its thousands separators, if they stand at every third digit."""
    separator = text_format.thousands
    if separator == " ":
        # French numbers use a no-break space, a narrow one, or a thin one.
        text = text.str.replace_all(r"\p{Zs}", " ")
    first_group = r"\d{1,3}"
    group = re.escape(separator) + r"\d{3}"
    fraction = re.escape(text_format.decimal) + r"\d*"
    is_grouped = text.str.contains(rf"^[+-]?{first_group}({group})+({fraction})?$")
    without = text.str.replace_all(separator, "", literal=True)
    return pl.when(is_grouped).then(without).otherwise(text)
