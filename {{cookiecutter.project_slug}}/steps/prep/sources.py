"""Define the objects that all modules of this step share: raw files, columns, types, notes.

A `Source` is a raw file. It holds the rows as a lazy polars frame, and a `Column` for each
column, with the polars expression that reads the values. `ColumnRoles` says what the
columns are used for. A `Note` is a sentence about the data that the user should read.

A marker is text that usually stands for a missing value, such as NA or null. See
`MISSING_MARKERS` in `text_values`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from csv_file import CsvFile

# The types that a feature can have.
INTEGER: pl.DataType = pl.Int64()
NUMBER: pl.DataType = pl.Float64()
BOOLEAN: pl.DataType = pl.Boolean()
DATE: pl.DataType = pl.Date()
TIMESTAMP: pl.DataType = pl.Datetime("us")
TEXT: pl.DataType = pl.String()
# The names of these types in messages and in the report.
TYPE_NAMES: dict[pl.DataType, str] = {
    INTEGER: "integer",
    NUMBER: "number",
    BOOLEAN: "boolean",
    DATE: "date",
    TIMESTAMP: "timestamp",
    TEXT: "text",
}

# The names of two columns that prep adds to the rows: the number of a row's file, and the
# number of the row in this file. Both numbers begin at 0. The names begin with a NUL
# character, so that no column of the data has the same name.
FILE = "\0file"
ROW_NUMBER = "\0row"

# For each type that a model's schema may expect, the types whose values can be converted to
# it. The expected type itself comes first. Nothing can be converted to text, because the
# spelling that the training data had would be lost.
READABLE_TYPES: dict[pl.DataType, tuple[pl.DataType, ...]] = {
    INTEGER: (INTEGER, NUMBER, BOOLEAN),
    NUMBER: (NUMBER, INTEGER, BOOLEAN),
    BOOLEAN: (BOOLEAN, INTEGER, NUMBER),
    DATE: (DATE, TIMESTAMP),
    TIMESTAMP: (TIMESTAMP, DATE),
    TEXT: (),
}

# The types of a CSV file's columns are guessed from this many rows at its start.
FIRST_ROWS = 10_000
# A float can hold every integer up to this one exactly.
LARGEST_EXACT_INTEGER = 2**53


class DataError(Exception):
    """The data cannot be prepared. The message names the file or column, and the reason."""


@dataclass(frozen=True)
class ColumnSchema:
    """How a column of a model's training data was read. New data is read in the same way."""

    type: pl.DataType
    #: Whether markers such as NA are missing values. This only matters in columns of text.
    markers_are_missing: bool = True
    #: The different values of a column of text. None for other types, and for text with
    #: too many values.
    categories: Sequence[str] | None = None
    #: Whether the numbers are seconds, which were read from times of day or durations.
    holds_times: bool = False
    #: Whether the column is a feature of the model. Other columns may be missing.
    is_needed: bool = False


@dataclass(frozen=True)
class ColumnRoles:
    """What the columns are used for, as the section `data` of settings.yml says."""

    target: str | None = None
    keys: Sequence[str] = ()
    ignore: Sequence[str] = ()
    #: The train step keeps rows with the same value in this column together: either all of
    #: them are trained on, or all of them are held out.
    group: str | None = None
    #: The columns of the registered model that will score the data. Only these columns and
    #: the keys are used. None for training data, and for a model without a schema.
    model_columns: Mapping[str, ColumnSchema] | None = None
    #: The rules of `data.expect`, by the name of the column and then by that of the rule.
    expectations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Columns that are read only to check their rules. They are not prepared.
    only_checked: Sequence[str] = ()
    #: Columns that may have rules although no file has such a column.
    optional: Collection[str] = ()

    def is_used(self, name: str) -> bool:
        """Return whether the column is prepared, or read to check its rules."""
        if self.model_columns is None:
            return name not in self.ignore
        return name in self.model_columns or name in (*self.keys, *self.only_checked)

    def get_expected_column(self, name: str) -> ColumnSchema | None:
        """Return how the model's training data was read in a column.

        Returns None for training data, for keys, and for columns that the model's schema
        does not list. The types of these columns are inferred from their values.
        """
        if self.model_columns is None or name in self.keys:
            return None
        return self.model_columns.get(name)


NO_ROLES = ColumnRoles()


@dataclass
class Column:
    """A column of one raw file, and how its values are read."""

    #: The type of the values. None if no value is read, because the column has no values
    #: or is ignored.
    type: pl.DataType | None
    values: pl.Expr
    #: The text in the CSV file, without spaces around it. None for a column of a Parquet
    #: file or of a folder such as `year=2026`.
    csv_text: pl.Expr | None = None
    #: The values if the column is read as text. Only set if the column holds nothing but
    #: text such as NA or Inf. Then `choose_types` decides whether it is read as text.
    values_as_text: pl.Expr | None = None
    #: Whether the numbers are seconds, which were read from times of day or durations.
    holds_times: bool = False
    #: The number of rows that hold a marker such as NA. While the type is only a guess,
    #: these are the markers in the first rows.
    marker_count: int = 0
    #: Whether each row holds a marker. None if the markers have already been counted.
    is_marker: pl.Expr | None = None
    #: Whether the column comes from a folder such as `year=2026`, and not from the file.
    is_from_folder: bool = False
    #: Whether a message already says that the column does not fit the schema of the model.
    is_rejected: bool = False


def create_false_column() -> pl.Expr:
    """Return an expression that is False in each row of a frame.

    `pl.lit(False)` alone would give a single row. Combined with a column, it gives as many
    rows as the frame has.
    """
    return pl.first().is_null() & pl.lit(False)


@dataclass(frozen=True)
class Note:
    """A sentence for the user about the data. `column` is None if it is about no column."""

    text: str
    column: str | None = None

    def as_sentence(self) -> str:
        """Return the text with a capital letter at its beginning."""
        return self.text[:1].upper() + self.text[1:]


def find_note(sources: Iterable[Source], column: str) -> Note | None:
    """Return the first note on a column, in the order of the files.

    Returns None if there is no note on it.
    """
    for source in sources:
        for note in source.notes:
            if note.column == column:
                return note
    return None


@dataclass
class Source:
    """A raw file: its rows, its columns by name, and how their types can be verified."""

    name: str
    frame: pl.LazyFrame
    columns: dict[str, Column]
    #: Whether each row contradicts the types that were guessed from the first rows.
    contradicts_types: pl.Expr = field(default_factory=create_false_column)
    #: The length of each row in bytes, counted from the values that polars has read. None
    #: if the lengths are not compared with those in the file.
    row_bytes: pl.Expr | None = None
    #: The length of all rows in the CSV file, in bytes. The lengths in `row_bytes` add up
    #: to it if polars has divided each line into values correctly. 0 without `row_bytes`.
    expected_bytes: int = 0
    #: Notes on this file alone.
    notes: list[Note] = field(default_factory=list)
    #: A sentence on each column that the model needs and that does not fit its schema.
    schema_problems: list[str] = field(default_factory=list)
    #: The dialect of the CSV file. None for a Parquet file.
    csv_file: CsvFile | None = None

    @property
    def is_csv(self) -> bool:
        """Return whether the file is CSV. Only columns of CSV files have a `csv_text`."""
        return any(column.csv_text is not None for column in self.columns.values())


def get_type_name(dtype: pl.DataType) -> str:
    """Return the name of a type for messages, such as "integer"."""
    return TYPE_NAMES.get(dtype, str(dtype))


def count_values(frame: pl.LazyFrame, expressions: Iterable[pl.Expr]) -> list[int]:
    """Count the values of each expression that are not null, in one pass over the rows."""
    expressions = list(expressions)
    # Callers may pass the same expression several times. It is counted once. `id` tells
    # whether two expressions are the same, because `==` on them makes a new expression.
    distinct = {str(id(expression)): expression for expression in expressions}
    counts = frame.select(
        expression.count().alias(identity) for identity, expression in distinct.items()
    )
    count_by_identity = counts.collect(engine="streaming").row(0, named=True)
    return [count_by_identity[str(id(expression))] for expression in expressions]


def find_first_values(
    frame: pl.LazyFrame, expressions: Sequence[pl.Expr]
) -> list[object]:
    """Return the first non-null value of each expression, or None if it has none."""
    if not expressions:
        return []
    first_values = frame.head(FIRST_ROWS).select(
        expression.drop_nulls().first().alias(str(i))
        for i, expression in enumerate(expressions)
    )
    values: list[object] = list(first_values.collect(engine="streaming").row(0))

    # Most expressions have a value in the first rows. The others need another pass each.
    for i, expression in enumerate(expressions):
        if values[i] is None:
            values[i] = _find_first_value(frame, expression)
    return values


def _find_first_value(frame: pl.LazyFrame, expression: pl.Expr) -> object:
    """Return the first non-null value of an expression, or None if it has none.

    This query ends at the first value. A query for several expressions at once would read
    all rows.
    """
    first_value = frame.select(value=expression).drop_nulls().head(1)
    values = first_value.collect(engine="streaming")
    return None if values.is_empty() else values.item()
