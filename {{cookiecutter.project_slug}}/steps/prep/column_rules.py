"""Derive the rules for reading the text of a column from the column's name and role."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from sources import (
    BOOLEAN,
    DATE,
    INTEGER,
    NUMBER,
    READABLE_TYPES,
    TIMESTAMP,
    ColumnRoles,
)
from text_values import (
    TextFormat,
    ValueType,
    is_time_of_day,
    null_if_empty,
    null_if_missing,
    null_if_nan,
)


@dataclass(frozen=True)
class ColumnRules:
    """Which types a column may have, and which words in it are missing values.

    Words such as NA, which usually mean that a value is missing, are called markers.
    """

    is_ignored: bool = False
    is_key: bool = False
    #: If the target is text, markers may be the names of classes, so they are values. Only
    #: NaN is a missing value.
    is_target: bool = False
    #: Whether markers are values if the column is text. Otherwise, they are missing values.
    markers_are_values: bool = False
    #: The types that are tried before text, in this order.
    types: tuple[pl.DataType, ...] = (INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP)
    #: Whether times of day may be read as numbers of seconds.
    times_are_numbers: bool = True

    def allows(self, value_type: ValueType) -> bool:
        """Return whether the column may hold values of this type."""
        if is_time_of_day(value_type) and not self.times_are_numbers:
            return False
        return value_type.dtype in self.types

    def select_values_of_text(
        self, stripped: pl.Expr, text_format: TextFormat
    ) -> pl.Expr:
        """Return the values of the column as text, with null for missing values.

        `stripped` is the text without spaces around it. Markers are words such as NA, which
        usually stand for a missing value.
        """
        if self.markers_are_values:
            # Only empty text is a missing value.
            return null_if_empty(stripped)
        if self.is_target:
            # A word such as NA may be the name of a class. NaN is never a class, because
            # programs write it where a number is missing.
            return null_if_nan(stripped)
        return null_if_missing(stripped, text_format, is_text_column=True)

    def may_have_markers_as_values(self, text_format: TextFormat) -> bool:
        """Return whether words such as NA may be values if the column is text."""
        some_markers_are_values = self.is_target or self.markers_are_values
        return some_markers_are_values or len(text_format.not_missing) > 0


def create_rules(name: str, roles: ColumnRoles) -> ColumnRules:
    """Return the rules for reading the values of a column.

    A column of new data that the model's schema lists follows the schema: it may have any
    type that can be converted to its type there. Other columns follow their roles in
    settings.yml.
    """
    expected = roles.get_expected_column(name)
    if expected is not None:
        return ColumnRules(
            # Words such as NA, called markers, are values if training read them as values.
            markers_are_values=not expected.markers_are_missing,
            types=READABLE_TYPES[expected.type],
            times_are_numbers=expected.holds_times,
        )
    return ColumnRules(
        is_ignored=not roles.is_used(name),
        is_key=name in roles.keys,
        is_target=name == roles.target,
    )
