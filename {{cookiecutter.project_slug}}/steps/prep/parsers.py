"""Parse the text of a column as one type. There is a parser for each type and spelling.

`list_parsers` returns the parsers that are tried for a column, the narrowest type first.
Some parsers are fast, because they read only the usual spelling of a type. They are tried
before the parser that reads all spellings.

A parser returns a `ParsedText`. As an example, this is what its fields hold if a column is
parsed as integers, and if markers such as NA could be values of the column as text:

    text    values  accepted_values  filled_text  filled_text_or_marker
    7       7       7                7            7
    007     7       null             007          007      (suspicious: it may be a code)
    seven   null    null             seven        seven    (cannot be parsed)
    NA      null    null             null         NA       (a marker)
            null    null             null         null     (empty)

A parser fits a column if all of its filled text is accepted. The parser in the example does
not fit, because 007 and seven are filled text, but not accepted.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import polars as pl
from column_rules import ColumnRules
from date_formats import find_unambiguous_format
from sources import INTEGER, NUMBER, TEXT, TIMESTAMP
from text_values import (
    TextFormat,
    ValueType,
    is_time_of_day,
    list_date_types,
    list_usual_types,
    null_if_empty,
    null_if_missing,
    parse_text,
)

# The format of dates in ISO 8601.
ISO_DATE = "%Y-%m-%d"
DOTTED_DATE = "%Y.%m.%d"
# The length of a dotted date with two digits for the month and two for the day.
DOTTED_DATE_LENGTH = 10
# polars reads timestamps in these formats many times as fast as those with a fraction of
# any length, which %.f stands for.
ISO_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%6f",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%6f",
)
# A number of this size or more has at least 19 digits, and may be a code.
NUMBER_LIMIT = 10**18


@dataclass(frozen=True)
class ParsedText:
    """The text of a column as one parser reads it. The top of this file has an example."""

    value_type: ValueType
    #: The parsed values. Null where the text is missing or cannot be parsed.
    values: pl.Expr
    #: The text that is not missing: it is neither empty nor a marker such as NA.
    filled_text: pl.Expr
    #: The filled text and the markers. None if a marker could not be a value, even if the
    #: column was text.
    text_with_markers: pl.Expr | None = None
    #: Returns whether each of the values is suspicious, because the text may be something
    #: else. For example, the number 7 is suspicious if its text is 007, which may be a
    #: code. None if no value can be suspicious.
    mark_suspicious: Callable[[pl.Expr], pl.Expr] | None = None

    @cached_property
    def accepted_values(self) -> pl.Expr:
        """Return the values that are not suspicious, and null for the others."""
        if self.mark_suspicious is None:
            return self.values
        is_suspicious = self.mark_suspicious(self.values)
        return pl.when(~is_suspicious).then(self.values)

    @property
    def filled_text_or_marker(self) -> pl.Expr:
        """Return the filled text, and the markers such as NA if they could be values."""
        if self.text_with_markers is None:
            return self.filled_text
        return self.text_with_markers

    @property
    def finite_values(self) -> pl.Expr:
        """Return the numbers that are finite. Values of other types all count as finite."""
        if self.value_type.dtype != NUMBER:
            return pl.lit(1)
        return pl.when(self.values.is_finite()).then(self.values)


class Parser(ABC):
    """Parses the text of a column as one type.

    Two parsers are equal only if they are the same object. This makes it quick to compare
    parsers, and to find the columns that have the same parsers.
    """

    @abstractmethod
    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text of a column. `stripped` is the text without spaces around it."""


# Choosing the parsers of a column


@dataclass(frozen=True)
class ColumnParsers:
    """The parsers that are tried for a column, the narrowest type first and text last."""

    parsers: tuple[Parser, ...]
    #: Replaces empty text and markers with null. None for keys and ignored columns.
    null_if_missing: Callable[[pl.Expr], pl.Expr] | None = None
    #: Returns the parser that a value of the column suggests, or None. This parser is tried
    #: if only text fits otherwise. None for keys and ignored columns.
    suggest_parser: Callable[[str], Parser | None] | None = None

    def drop_tried(self, failed_parser: Parser) -> ColumnParsers:
        """Return the parsers that are still to be tried after one that does not fit."""
        if failed_parser not in self.parsers:
            # A value has suggested this parser, so only text is left.
            return ColumnParsers(self.parsers[-1:])
        next_position = self.parsers.index(failed_parser) + 1
        return replace(self, parsers=self.parsers[next_position:])


@cache
def list_parsers(rules: ColumnRules, text_format: TextFormat) -> ColumnParsers:
    """Return the parsers for a column, in the order in which they are tried.

    The first parser that fits is used. `@cache` returns the same parser objects for all
    columns with the same rules, so that `find_fits` can parse these columns together.
    """
    if rules.is_ignored:
        return ColumnParsers((IgnoredColumnParser(),))
    if rules.is_key:
        return ColumnParsers((IntegerKeyParser(), TextKeyParser()))

    value_types = _list_allowed_types(rules, text_format)
    # A date such as 20260131 is also a number, so the parsers of such dates come first.
    parsers = _list_numeric_date_parsers(value_types, rules, text_format)
    for value_type in value_types:
        # Fast parsers read only the usual spelling of a type. If none of them fits, the
        # parser of all spellings is tried.
        parsers += _list_fast_parsers(value_type, rules, text_format)
        parsers.append(ValueParser(value_type, rules, text_format))
    # Every column can be read as text, so this parser is the last one.
    parsers.append(TextParser(rules, text_format))
    return ColumnParsers(
        parsers=tuple(parsers),
        null_if_missing=partial(null_if_missing, text_format=text_format),
        suggest_parser=partial(_suggest_parser, rules=rules, text_format=text_format),
    )


def _list_allowed_types(rules: ColumnRules, text_format: TextFormat) -> list[ValueType]:
    """Return the types that a column may have, in the order in which they are tried.

    Each date format in settings.yml adds types of its own, such as dates in %d.%m.%Y.
    """
    usual_types = list_usual_types(text_format)
    allowed_types = []
    for dtype in rules.types:
        for value_type in usual_types:
            if value_type.dtype == dtype and rules.allows(value_type):
                allowed_types.append(value_type)
    return allowed_types


def _list_numeric_date_parsers(
    value_types: list[ValueType], rules: ColumnRules, text_format: TextFormat
) -> list[Parser]:
    """Return the parsers of dates that look like numbers, such as 20260131 in %Y%m%d."""
    parsers: list[Parser] = []
    for value_type in value_types:
        if _looks_like_number(value_type.date_format):
            value_parser = ValueParser(value_type, rules, text_format)
            parsers.append(RoundTripDateParser(value_parser))
    return parsers


def _looks_like_number(date_format: str) -> bool:
    """Return whether dates in this format, such as %Y%m%d or %Y.%m, look like numbers."""
    separators = re.sub("%[a-zA-Z]", "", date_format)
    return date_format != "" and separators in ("", ".")


def _list_fast_parsers(
    value_type: ValueType, rules: ColumnRules, text_format: TextFormat
) -> list[Parser]:
    """Return the fast parsers of a type, in the order in which they are tried.

    Fast parsers read only the usual spelling of a type, such as numbers with a decimal
    point. The list is empty if settings.yml allows another spelling.
    """
    # Fast parsers support neither further markers for missing values (`data.missing`) nor
    # date formats.
    if text_format.missing or value_type.date_format:
        return []
    if value_type.dtype in (INTEGER, NUMBER):
        if text_format.decimal != "." or text_format.thousands:
            return []
        # The first of these parsers is the faster one, so it is tried first.
        return [
            PlainNumberParser(value_type),
            PlainNumberOrMarkerParser(value_type, rules, text_format),
        ]
    if value_type.dtype == TIMESTAMP:
        return [PlainTimestampParser(time_format) for time_format in ISO_TIMESTAMPS]
    # Booleans and dates have a single fast parser.
    return [PlainValueParser(value_type, text_format)]


def _suggest_parser(
    value: str, *, rules: ColumnRules, text_format: TextFormat
) -> Parser | None:
    """Return the parser for the format of an unambiguous date or time.

    For example, the value 31-Jan-2026 suggests the parser for dates in %d-%B-%Y. Returns
    None in these cases:

    - The value is not a date, or could have several formats, such as 01/02/2026.
    - The date is in ISO 8601. `list_parsers` already has a parser for such dates.
    - The column may not hold dates.
    """
    date_format = find_unambiguous_format(value)
    if date_format is None or date_format == ISO_DATE:
        return None
    # A date without a time of day could also be read as a timestamp. `list_date_types`
    # returns the narrower type first.
    value_type = list_date_types(date_format)[0]
    if not rules.allows(value_type):
        return None
    return _get_date_parser(value_type, rules, text_format)


@cache
def _get_date_parser(
    value_type: ValueType, rules: ColumnRules, text_format: TextFormat
) -> Parser:
    """Return the parser of dates in one format.

    The result is cached: all columns with dates in this format get the same parser object,
    so that `find_fits` can parse these columns together.
    """
    value_parser = ValueParser(value_type, rules, text_format)
    if value_type.date_format == DOTTED_DATE:
        # 2026.1.5 may be the version of a program. This parser does not accept such values.
        return DottedDateParser(value_parser)
    return value_parser


# Parsers of ignored columns, keys and text


@dataclass(frozen=True, eq=False)
class IgnoredColumnParser(Parser):
    """Leaves the text of an ignored column as it is."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text, including the spaces around it."""
        return ParsedText(ValueType(TEXT), values=text, filled_text=text)


@dataclass(frozen=True, eq=False)
class IntegerKeyParser(Parser):
    """Parses a key if all of its values are plain integers."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse integers without plus signs, leading zeros and spaces."""
        is_integer = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
        integers = text.cast(pl.Int64, strict=False)
        return ParsedText(
            ValueType(INTEGER),
            values=pl.when(is_integer).then(integers),
            filled_text=null_if_empty(text),
        )


@dataclass(frozen=True, eq=False)
class TextKeyParser(Parser):
    """Returns a key as text, including the spaces around it."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text, and null where it is empty."""
        filled_text = null_if_empty(text)
        return ParsedText(ValueType(TEXT), values=filled_text, filled_text=filled_text)


@dataclass(frozen=True, eq=False)
class TextParser(Parser):
    """Returns a column as text without the spaces around it."""

    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the stripped text, and null where it means a missing value."""
        values = self.rules.select_values_of_text(stripped, self.text_format)
        return ParsedText(
            ValueType(TEXT),
            values=values,
            filled_text=values,
            text_with_markers=null_if_empty(stripped),
        )


# Parsers of all spellings of a type


@dataclass(frozen=True, eq=False)
class ValueParser(Parser):
    """Parses a type other than text, in all spellings that settings.yml allows."""

    value_type: ValueType
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text in the spellings that settings.yml allows.

        Text that cannot be parsed becomes null, and so do markers such as NA, which stand
        for missing values. `text`, which may have spaces around it, is not used.
        """
        filled_text = null_if_missing(stripped, self.text_format)
        # If the column turns out to be text, some of its markers may be values. So the
        # result also has the text in which they are kept.
        return ParsedText(
            self.value_type,
            values=parse_text(filled_text, self.value_type, self.text_format),
            filled_text=filled_text,
            text_with_markers=_select_text_with_markers(
                stripped, self.rules, self.text_format
            ),
        )


@dataclass(frozen=True, eq=False)
class RoundTripDateParser(Parser):
    """Parses dates in a format such as %Y%m%d, in which dates look like numbers.

    polars also parses some text that is not written in the format. So each parsed date is
    written in the format again, and is only accepted if this gives the same text.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse dates. Text becomes null if its date would be written differently."""
        parsed = self.value_parser.parse(text, stripped)
        date_format = parsed.value_type.date_format
        dates = parsed.values
        if is_time_of_day(parsed.value_type):
            # The values are numbers of seconds, which cannot be written in the format.
            dates = parsed.filled_text.str.to_time(date_format, strict=False)
        is_same_text = dates.dt.strftime(date_format) == parsed.filled_text
        return replace(parsed, values=pl.when(is_same_text).then(parsed.values))


@dataclass(frozen=True, eq=False)
class DottedDateParser(Parser):
    """Parses dates such as 2026.01.05, but not 2026.1.5.

    The shorter text may be the version of a program.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse dates with two digits for the month and the day. Others become null."""
        parsed = self.value_parser.parse(text, stripped)
        has_all_digits = stripped.str.len_bytes() == DOTTED_DATE_LENGTH
        return replace(parsed, values=pl.when(has_all_digits).then(parsed.values))


# Fast parsers of the usual spelling of a type


@dataclass(frozen=True, eq=False)
class PlainNumberParser(Parser):
    """Parses numbers if the column has neither spaces nor markers such as NA."""

    value_type: ValueType

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it, which is faster."""
        return ParsedText(
            self.value_type,
            values=text.cast(self.value_type.dtype, strict=False),
            filled_text=text,
            mark_suspicious=partial(_is_suspicious_number, text),
        )


@dataclass(frozen=True, eq=False)
class PlainNumberOrMarkerParser(Parser):
    """Parses numbers if the column may also have spaces and markers such as NA."""

    value_type: ValueType
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text as numbers.

        Markers such as NA, which stand for missing values, become null. `text`, which may
        have spaces around it, is not used.
        """
        filled_text = null_if_missing(stripped, self.text_format)
        parsed = PlainNumberParser(self.value_type).parse(filled_text, stripped)
        text_with_markers = _select_text_with_markers(
            stripped, self.rules, self.text_format
        )
        # If the column turns out to be text, some of its markers may be values. So the
        # result also has the text in which they are kept.
        return replace(parsed, text_with_markers=text_with_markers)


@dataclass(frozen=True, eq=False)
class PlainTimestampParser(Parser):
    """Parses timestamps that are all written in one format, without spaces around them."""

    time_format: str

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it, which is faster."""
        # By default, polars keeps parsed values in a cache, which is slow if most of them
        # differ.
        values = text.str.to_datetime(
            self.time_format, time_unit="us", strict=False, cache=False
        )
        return ParsedText(ValueType(TIMESTAMP), values=values, filled_text=text)


@dataclass(frozen=True, eq=False)
class PlainValueParser(Parser):
    """Parses booleans or dates if the column has neither spaces nor markers such as NA."""

    value_type: ValueType
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it, which is faster."""
        values = parse_text(text, self.value_type, self.text_format)
        return ParsedText(self.value_type, values=values, filled_text=text)


def _select_text_with_markers(
    stripped: pl.Expr, rules: ColumnRules, text_format: TextFormat
) -> pl.Expr | None:
    """Return the values that a column would have as text, including markers such as NA.

    A marker usually stands for a missing value. Returns None if no marker could be a value
    of this column: the values would be the same as without markers, and polars would
    compute them twice.
    """
    if not rules.may_have_markers_as_values(text_format):
        return None
    return rules.select_values_of_text(stripped, text_format)


def _is_suspicious_number(text: pl.Expr, number: pl.Expr) -> pl.Expr:
    """Return for each number whether its text may mean something else, such as a code.

    `number` is what `text` was parsed as. These numbers are suspicious:

    - numbers with a leading zero, such as 007,
    - numbers with a plus sign, such as +49,
    - numbers with more than 18 digits, and
    - NaN, which usually stands for a missing value.
    """
    # The text is compared in alphabetical order, which is faster than matching a pattern.
    # All text from "00" to "0:" begins with a zero and a digit, because ":" follows "9".
    is_code = text.is_between(pl.lit("00"), pl.lit("0:"))
    is_negative_code = text.is_between(pl.lit("-00"), pl.lit("-0:"))
    # Of all characters with which a number can begin, only the plus sign comes before the
    # minus sign.
    has_plus_sign = text < "-"
    # NaN lies outside every range, so it is suspicious, too.
    is_usual = number.is_between(-NUMBER_LIMIT, NUMBER_LIMIT, closed="none")
    return has_plus_sign | is_code | is_negative_code | ~is_usual
