"""Parse the text of a column as one type. There is a parser for each type and spelling.

`list_parsers` returns the parsers that are tried for a column, the narrowest type first.
Some of them are fast because they only read the usual spelling of a type. They are tried
before the parser that reads all spellings.

A parser returns a `ParsedText`. As an example, these are its fields for a column that is
read as integers, and in which words such as NA could be values if the column was text:

    text    values  accepted_values  filled_text  filled_text_or_marker
    7       7       7         7        7
    007     7       null      007      007               (odd: 007 may be a code)
    seven   null    null      seven    seven             (cannot be parsed)
    NA      null    null      null     NA                (a missing word)
            null    null      null     null              (empty)

The parser does not fit this column, because 007 and seven are present, but not accepted.

A parser gives `filled_or_marker` as `text_with_markers`, which is None where words are no
values of text either. `finite` has the values without infinite numbers.
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
    TextFormat,
    ValueType,
    is_time_of_day,
    list_date_types,
    list_usual_types,
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
    """The text of a column as one parser reads it. See the example at the top of this file.

    The parser fits the column if all text that is `present` is `accepted`.
    """

    value_type: ValueType
    #: The parsed values; null where the text cannot be parsed.
    values: pl.Expr
    #: The text that is not a missing value.
    filled_text: pl.Expr
    #: The text that would be present if the column was text, in which words such as NA
    #: may be values. None if this makes no difference.
    text_with_markers: pl.Expr | None = None
    #: Returns whether each parsed value is odd. For example, the number 7 may be the code
    #: 007. None if no value is odd.
    mark_suspicious: Callable[[pl.Expr], pl.Expr] | None = None

    @cached_property
    def accepted_values(self) -> pl.Expr:
        """Return the parsed values that are not odd."""
        if self.mark_suspicious is None:
            return self.values
        is_suspicious = self.mark_suspicious(self.values)
        return pl.when(~is_suspicious).then(self.values)

    @property
    def filled_text_or_marker(self) -> pl.Expr:
        """Return the present text, including words that could be values of text."""
        if self.text_with_markers is None:
            return self.filled_text
        return self.text_with_markers

    @property
    def finite_values(self) -> pl.Expr:
        """Return the numbers that are finite. All values of other types count as finite."""
        if self.value_type.dtype != NUMBER:
            return pl.lit(1)
        return pl.when(self.values.is_finite()).then(self.values)


class Parser(ABC):
    """Reads the text of a column as one type.

    Parsers are equal only if they are the same object. This makes it quick to compare
    them, and to group columns by them.
    """

    @abstractmethod
    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse a column. `stripped` is its text without spaces around it."""


# Choosing the parsers of a column


@dataclass(frozen=True)
class ColumnParsers:
    """The parsers that are tried for a column, the narrowest type first and text last."""

    parsers: tuple[Parser, ...]
    #: Replaces missing values in the text of the column by null.
    null_if_missing: Callable[[pl.Expr], pl.Expr] | None = None
    #: Returns the parser that the first value of the column suggests, if any. It is tried
    #: if the column would be text otherwise.
    suggest_parser: Callable[[str], Parser | None] | None = None

    def drop_tried(self, failed: Parser) -> ColumnParsers:
        """Return the parsers that are tried after one that does not fit the column."""
        if failed not in self.parsers:
            # It was suggested by a value, so only text is left.
            return ColumnParsers(self.parsers[-1:])
        next_position = self.parsers.index(failed) + 1
        return replace(self, parsers=self.parsers[next_position:])


@cache
def list_parsers(rules: ColumnRules, text_format: TextFormat) -> ColumnParsers:
    """Return the parsers for columns with the same rules.

    The parsers are the same objects for all of these columns, so that `find_fits` can
    parse the columns together.
    """
    if rules.is_ignored:
        return ColumnParsers((IgnoredColumnParser(),))
    if rules.is_key:
        return ColumnParsers((IntegerKeyParser(), TextKeyParser()))

    value_types = _list_allowed_types(rules, text_format)
    parsers: list[Parser] = []
    for value_type in value_types:
        if _looks_like_number(value_type.date_format):
            value_parser = ValueParser(value_type, rules, text_format)
            parsers.append(RoundTripDateParser(value_parser))
    for value_type in value_types:
        parsers += _list_fast_parsers(value_type, rules, text_format)
        parsers.append(ValueParser(value_type, rules, text_format))
    parsers.append(TextParser(rules, text_format))
    return ColumnParsers(
        parsers=tuple(parsers),
        null_if_missing=partial(null_if_missing, text_format=text_format),
        suggest_parser=partial(
            _find_parser_by_value, rules=rules, text_format=text_format
        ),
    )


def _list_allowed_types(rules: ColumnRules, text_format: TextFormat) -> list[ValueType]:
    """Return the types that the rules of a column allow, in the order of its types."""
    usual_types = list_usual_types(text_format)
    allowed_types = []
    for dtype in rules.types:
        for value_type in usual_types:
            if value_type.dtype == dtype and rules.allows(value_type):
                allowed_types.append(value_type)
    return allowed_types


def _looks_like_number(date_format: str) -> bool:
    """Return whether dates in this format, such as %Y%m%d, look like numbers."""
    separators = re.sub("%[a-zA-Z]", "", date_format)
    return date_format != "" and separators in ("", ".")


def _list_fast_parsers(
    value_type: ValueType, rules: ColumnRules, text_format: TextFormat
) -> list[Parser]:
    """Return the fast parsers of a type, which only read the usual spelling."""
    if text_format.missing or value_type.date_format:
        return []
    if value_type.dtype in (INTEGER, NUMBER):
        if text_format.decimal != "." or text_format.thousands:
            return []
        return [
            PlainNumberParser(value_type),
            PlainNumberOrWordParser(value_type, rules, text_format),
        ]
    if value_type.dtype == TIMESTAMP:
        return [PlainTimestampParser(time_format) for time_format in ISO_TIMESTAMPS]
    return [PlainValueParser(value_type, text_format)]


def _find_parser_by_value(
    value: str, *, rules: ColumnRules, text_format: TextFormat
) -> Parser | None:
    """Return the parser of an unambiguous date or time, such as 31-Jan-2026, or None.

    It is also None for a date in ISO 8601, which `list_parsers` already has a parser for.
    """
    date_format = find_certain_format(value)
    if date_format is None or date_format == ISO_DATE:
        return None
    value_type = list_date_types(date_format)[0]
    if not rules.allows(value_type):
        return None
    return _get_date_parser(value_type, rules, text_format)


@cache
def _get_date_parser(
    value_type: ValueType, rules: ColumnRules, text_format: TextFormat
) -> Parser:
    """Return the parser of dates in one format.

    It is the same object for equal arguments, so that `find_fits` can parse all columns
    whose dates have this format together.
    """
    value_parser = ValueParser(value_type, rules, text_format)
    if value_type.date_format == DOTTED_DATE:
        return DottedDateParser(value_parser)
    return value_parser


# Parsers of ignored columns, keys and text


@dataclass(frozen=True, eq=False)
class IgnoredColumnParser(Parser):
    """Leaves the text of an ignored column unchanged."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text."""
        return ParsedText(ValueType(TEXT), values=text, filled_text=text)


@dataclass(frozen=True, eq=False)
class IntegerKeyParser(Parser):
    """Reads a key whose values are all plain integers."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse integers without plus signs, leading zeros or spaces."""
        is_integer = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
        integers = text.cast(pl.Int64, strict=False)
        return ParsedText(
            ValueType(INTEGER),
            values=pl.when(is_integer).then(integers),
            filled_text=null_if_empty(text),
        )


@dataclass(frozen=True, eq=False)
class TextKeyParser(Parser):
    """Reads a key as its text, including the spaces around it."""

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the text that is not empty."""
        present = null_if_empty(text)
        return ParsedText(ValueType(TEXT), values=present, filled_text=present)


@dataclass(frozen=True, eq=False)
class TextParser(Parser):
    """Reads a column as text without the spaces around it."""

    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Return the stripped text that is not a missing value."""
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
    """Reads a type other than text, in all spellings that settings.yml allows."""

    value_type: ValueType
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text that is not a missing value."""
        present = null_if_missing(stripped, self.text_format)
        return ParsedText(
            self.value_type,
            values=parse_text(present, self.value_type, self.text_format),
            filled_text=present,
            text_with_markers=_select_text_with_markers(
                stripped, self.rules, self.text_format
            ),
        )


@dataclass(frozen=True, eq=False)
class RoundTripDateParser(Parser):
    """Reads dates in a format such as %Y%m%d, in which dates look like numbers.

    polars also parses some texts that are not written in the format. So each date is
    written in the format again, and accepted only if this gives the same text.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse a text only if writing its date in the format gives the same text."""
        parsed = self.value_parser.parse(text, stripped)
        date_format = parsed.value_type.date_format
        dates = parsed.values
        if is_time_of_day(parsed.value_type):
            # The values are seconds, which cannot be written in the format.
            dates = parsed.filled_text.str.to_time(date_format, strict=False)
        is_same_text = dates.dt.strftime(date_format) == parsed.filled_text
        return replace(parsed, values=pl.when(is_same_text).then(parsed.values))


@dataclass(frozen=True, eq=False)
class DottedDateParser(Parser):
    """Reads dates such as 2026.01.05, but not 2026.1.5.

    The shorter text may be the version of a program.
    """

    value_parser: ValueParser

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the texts that have all digits of a date."""
        parsed = self.value_parser.parse(text, stripped)
        has_all_digits = stripped.str.len_bytes() == DOTTED_DATE_LENGTH
        return replace(parsed, values=pl.when(has_all_digits).then(parsed.values))


# Fast parsers of the usual spelling of a type


@dataclass(frozen=True, eq=False)
class PlainNumberParser(Parser):
    """Reads numbers in a column without spaces and without words such as NA."""

    value_type: ValueType

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it."""
        return ParsedText(
            self.value_type,
            values=text.cast(self.value_type.dtype, strict=False),
            filled_text=text,
            mark_suspicious=partial(_is_suspicious_number, text),
        )


@dataclass(frozen=True, eq=False)
class PlainNumberOrWordParser(Parser):
    """Reads numbers in a column that may have spaces and words such as NA."""

    value_type: ValueType
    rules: ColumnRules
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the stripped text that is not a missing value."""
        present = null_if_missing(stripped, self.text_format)
        parsed = PlainNumberParser(self.value_type).parse(present, stripped)
        text_with_markers = _select_text_with_markers(
            stripped, self.rules, self.text_format
        )
        return replace(parsed, text_with_markers=text_with_markers)


@dataclass(frozen=True, eq=False)
class PlainTimestampParser(Parser):
    """Reads timestamps that are all written in one format, without spaces around them."""

    time_format: str

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it."""
        # With its cache, polars is slow when most values differ.
        values = text.str.to_datetime(
            self.time_format, time_unit="us", strict=False, cache=False
        )
        return ParsedText(ValueType(TIMESTAMP), values=values, filled_text=text)


@dataclass(frozen=True, eq=False)
class PlainValueParser(Parser):
    """Reads booleans or dates in a column without spaces and without words such as NA."""

    value_type: ValueType
    text_format: TextFormat

    def parse(self, text: pl.Expr, stripped: pl.Expr) -> ParsedText:
        """Parse the text without stripping it."""
        values = parse_text(text, self.value_type, self.text_format)
        return ParsedText(self.value_type, values=values, filled_text=text)


def _select_text_with_markers(
    stripped: pl.Expr, rules: ColumnRules, text_format: TextFormat
) -> pl.Expr | None:
    """Return the text that would be present if the column was text.

    Returns None if words such as NA could not be values of that text. This saves polars
    from computing the same text twice.
    """
    if not rules.may_have_markers_as_values(text_format):
        return None
    return rules.select_values_of_text(stripped, text_format)


def _is_suspicious_number(text: pl.Expr, number: pl.Expr) -> pl.Expr:
    """Return whether a number may be a code, is huge or NaN, or has a plus sign.

    Text is compared by its order, which is faster than matching patterns: the character
    after 9 is a colon, and a plus sign precedes a minus sign.
    """
    is_code = text.is_between(pl.lit("00"), pl.lit("0:"))
    is_negative_code = text.is_between(pl.lit("-00"), pl.lit("-0:"))
    has_plus_sign = text < "-"
    # NaN is outside every range, so it counts as odd.
    is_usual = number.is_between(-(10**18), 10**18, closed="none")
    return has_plus_sign | is_code | is_negative_code | ~is_usual
