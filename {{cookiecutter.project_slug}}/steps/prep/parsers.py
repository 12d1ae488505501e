"""Parsers, each of which reads the text of a column as one type.

`list_parsers` returns those that are tried for a column, the narrowest type first. Some
parsers are fast because they only read the usual spelling of a type. They are tried
before the parser that reads all spellings.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import polars as pl
from column_rules import ColumnRules
from date_formats import find_certain_format
from sources import INTEGER, NUMBER, TEXT, TIMESTAMP
from text_values import (
    Reading,
    TextFormat,
    is_time_of_day,
    list_date_readings,
    list_usual_readings,
    null_if_empty,
    null_if_missing,
    parse_text,
)

ISO_DATE = "%Y-%m-%d"
DOTTED_DATE = "%Y.%m.%d"
# The length of a dotted date with two digits for the month and for the day.
DOTTED_DATE_LENGTH = 10
# polars reads these many times as fast as a fraction of any length, %.f.
ISO_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%6f",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%6f",
)


@dataclass(frozen=True)
class ParsedText:
    """The text of a column as one parser reads it.

    The parser fits the column if all text that is `filled` has been parsed, and none of
    the parsed values is odd.
    """

    reading: Reading
    #: The parsed values, and null where the text cannot be parsed.
    values: pl.Expr
    #: The text that must be parsed, and null where it is a missing value.
    filled: pl.Expr
    #: The same if the column was text, where words such as NA may be values. None if
    #: that makes no difference.
    filled_as_text: pl.Expr | None = None
    #: Returns for each parsed value whether it is odd, such as the number 7 for 007.
    is_odd: Callable[[pl.Expr], pl.Expr] | None = None

    @cached_property
    def fitting(self) -> pl.Expr:
        """Return the parsed values that are not odd."""
        if self.is_odd is None:
            return self.values
        return pl.when(~self.is_odd(self.values)).then(self.values)

    @property
    def filled_or_word(self) -> pl.Expr:
        """Return the text that is not a missing value, including words such as NA."""
        return self.filled if self.filled_as_text is None else self.filled_as_text

    @property
    def not_infinite(self) -> pl.Expr:
        """Return the numbers that are not infinite; a constant for all other types."""
        if self.reading.dtype != NUMBER:
            return pl.lit(1)
        return pl.when(self.values.is_finite()).then(self.values)


class Parser(ABC):
    """Reads the text of a column as one type.

    Parsers are equal only if they are the same object, which is quick to find out.
    """

    @abstractmethod
    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse a column. `stripped` is its text without spaces around it."""


@dataclass(frozen=True, eq=False)
class IgnoredColumnParser(Parser):
    """Leaves the text of an ignored column as it is."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text."""
        return ParsedText(Reading(TEXT), values=text, filled=text)


@dataclass(frozen=True, eq=False)
class IntegerKeyParser(Parser):
    """Reads a key whose values are plain integers."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse integers without plus signs, leading zeros or spaces."""
        filled = pl.when(text != "").then(text)
        is_integer = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
        integers = pl.when(is_integer).then(text.cast(pl.Int64, strict=False))
        return ParsedText(Reading(INTEGER), values=integers, filled=filled)


@dataclass(frozen=True, eq=False)
class TextKeyParser(Parser):
    """Reads a key as its text, including the spaces around it."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text that is not empty."""
        filled = pl.when(text != "").then(text)
        return ParsedText(Reading(TEXT), values=filled, filled=filled)


@dataclass(frozen=True, eq=False)
class TextParser(Parser):
    """Reads a column as text without the spaces around it."""

    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the stripped text that is not a missing value."""
        values = self.rules.select_values_of_text(stripped, self.text_format)
        return ParsedText(
            Reading(TEXT),
            values=values,
            filled=values,
            filled_as_text=null_if_empty(stripped),
        )


@dataclass(frozen=True, eq=False)
class ValueParser(Parser):
    """Reads a type other than text, in all spellings that settings.yml allows."""

    reading: Reading
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text."""
        not_missing = null_if_missing(stripped, self.text_format)
        return ParsedText(
            self.reading,
            values=parse_text(not_missing, self.reading, self.text_format),
            filled=not_missing,
            filled_as_text=_select_filled_text(stripped, self.rules, self.text_format),
        )


@dataclass(frozen=True, eq=False)
class RoundTripDateParser(Parser):
    """Reads dates in a format such as %Y%m%d, in which they look like numbers.

    polars also parses texts that the format would never write.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse a text only if writing its date in the format gives the same text."""
        parsed = self.value_parser.parse(text, stripped)
        date_format = parsed.reading.date_format
        dates = parsed.values
        if is_time_of_day(parsed.reading):
            dates = parsed.filled.str.to_time(date_format, strict=False)
        is_same_text = dates.dt.strftime(date_format) == parsed.filled
        return replace(parsed, values=pl.when(is_same_text).then(parsed.values))


@dataclass(frozen=True, eq=False)
class DottedDateParser(Parser):
    """Reads dates such as 2026.01.05, but not 2026.1.5.

    The shorter text may be the version of a program.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse only text that has all digits of a date."""
        parsed = self.value_parser.parse(text, stripped)
        has_all_digits = stripped.str.len_bytes() == DOTTED_DATE_LENGTH
        return replace(parsed, values=pl.when(has_all_digits).then(parsed.values))


@dataclass(frozen=True, eq=False)
class PlainNumberParser(Parser):
    """Reads numbers in the usual spelling, in a column without missing words. Fast."""

    reading: Reading

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse text without spaces around it."""
        return ParsedText(
            self.reading,
            values=text.cast(self.reading.dtype, strict=False),
            filled=text,
            is_odd=partial(_is_odd_number, text),
        )


@dataclass(frozen=True, eq=False)
class PlainNumberOrWordParser(Parser):
    """Reads numbers in the usual spelling, and words such as NA. Fast."""

    reading: Reading
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text that is not a missing value."""
        not_missing = null_if_missing(stripped, self.text_format)
        parsed = PlainNumberParser(self.reading).parse(not_missing, stripped)
        filled_as_text = _select_filled_text(stripped, self.rules, self.text_format)
        return replace(parsed, filled_as_text=filled_as_text)


@dataclass(frozen=True, eq=False)
class PlainTimestampParser(Parser):
    """Reads timestamps that are all written in one format. Fast."""

    time_format: str

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse text without spaces around it."""
        # With its cache, polars is slow when most values differ.
        values = text.str.to_datetime(
            self.time_format, time_unit="us", strict=False, cache=False
        )
        return ParsedText(Reading(TIMESTAMP), values=values, filled=text)


@dataclass(frozen=True, eq=False)
class PlainValueParser(Parser):
    """Reads booleans or dates, in a column that has a value in each row. Fast."""

    reading: Reading
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse text without spaces around it."""
        values = parse_text(text, self.reading, self.text_format)
        return ParsedText(self.reading, values=values, filled=text)


def _select_filled_text(
    stripped: pl.Expr, rules: ColumnRules, text_format: TextFormat
) -> pl.Expr | None:
    """Return the values that a column would have as text.

    Returns None if words such as NA could not be values then: so polars need not compute
    them in addition to the text that is not missing.
    """
    if not rules.may_have_words_as_values(text_format):
        return None
    return rules.select_values_of_text(stripped, text_format)


def _is_odd_number(text: pl.Expr, number: pl.Expr) -> pl.Expr:
    """Return whether a number may be a code, is huge or NaN, or has a plus sign.

    It compares text by its order, in which : follows 9 and + precedes -, because that is
    quicker than to look for patterns.
    """
    is_code = text.is_between(pl.lit("00"), pl.lit("0:"))
    is_negative_code = text.is_between(pl.lit("-00"), pl.lit("-0:"))
    # NaN is outside every range, so it counts as odd.
    is_usual = number.is_between(-(10**18), 10**18, closed="none")
    return (text < "-") | is_code | is_negative_code | ~is_usual


# Choosing the parsers of a column


@dataclass(frozen=True)
class ColumnParsers:
    """The parsers that are tried for a column, the narrowest type first and text last."""

    parsers: tuple[Parser, ...]
    #: Returns the text of a column where it is not missing.
    null_if_missing: Callable[[pl.Expr], pl.Expr] | None = None
    #: Returns a further parser, or None, by the first value that is not missing. It is
    #: tried if no parser but that of text fits the column.
    find_by_value: Callable[[str], Parser | None] | None = None

    def without_those_tried(self, failed: Parser) -> ColumnParsers:
        """Return the parsers that are tried after one that does not fit the column."""
        if failed not in self.parsers:
            # It was found by a value, so only text is left.
            return ColumnParsers(self.parsers[-1:])
        return replace(self, parsers=self.parsers[self.parsers.index(failed) + 1 :])


@cache
def list_parsers(rules: ColumnRules, text_format: TextFormat) -> ColumnParsers:
    """Return the parsers for columns with the same rules, which share them.

    A key is its text, including spaces, unless all of its values are plain integers.
    """
    if rules.is_ignored:
        return ColumnParsers((IgnoredColumnParser(),))
    if rules.is_key:
        return ColumnParsers((IntegerKeyParser(), TextKeyParser()))
    readings = [
        reading
        for dtype in rules.types
        for reading in list_usual_readings(text_format)
        if reading.dtype == dtype and rules.allows(reading)
    ]
    parsers: list[Parser] = [
        RoundTripDateParser(ValueParser(reading, rules, text_format))
        for reading in readings
        if _looks_like_number(reading.date_format)
    ]
    for reading in readings:
        parsers += _list_fast_parsers(reading, rules, text_format)
        parsers.append(ValueParser(reading, rules, text_format))
    parsers.append(TextParser(rules, text_format))
    return ColumnParsers(
        parsers=tuple(parsers),
        null_if_missing=partial(null_if_missing, text_format=text_format),
        find_by_value=partial(
            _find_parser_by_value, rules=rules, text_format=text_format
        ),
    )


def _looks_like_number(date_format: str) -> bool:
    """Return whether dates in this format, such as %Y%m%d, look like numbers."""
    signs = re.sub("%[a-zA-Z]", "", date_format)
    return date_format != "" and signs in ("", ".")


def _list_fast_parsers(
    reading: Reading, rules: ColumnRules, text_format: TextFormat
) -> list[Parser]:
    """Return fast parsers, which do not read all spellings of a type."""
    if text_format.missing or reading.date_format:
        return []
    if reading.dtype in (INTEGER, NUMBER):
        if text_format.decimal != "." or text_format.thousands:
            return []
        return [
            PlainNumberParser(reading),
            PlainNumberOrWordParser(reading, rules, text_format),
        ]
    if reading.dtype == TIMESTAMP:
        return [PlainTimestampParser(time_format) for time_format in ISO_TIMESTAMPS]
    return [PlainValueParser(reading, text_format)]


def _find_parser_by_value(
    value: str, *, rules: ColumnRules, text_format: TextFormat
) -> Parser | None:
    """Return the parser of a date that can be read in only one way, such as 31-Jan-2026.

    Returns None for other values, and for ISO dates, which have a parser already.
    """
    date_format = find_certain_format(value)
    if date_format is None or date_format == ISO_DATE:
        return None
    reading = list_date_readings(date_format)[0]
    if not rules.allows(reading):
        return None
    return _get_date_parser(reading, rules, text_format)


@cache
def _get_date_parser(
    reading: Reading, rules: ColumnRules, text_format: TextFormat
) -> Parser:
    """Return the parser of dates in one format.

    It is the same object for equal arguments, so that all columns whose dates have this
    format are counted together.
    """
    parser = ValueParser(reading, rules, text_format)
    if reading.date_format == DOTTED_DATE:
        return DottedDateParser(parser)
    return parser
