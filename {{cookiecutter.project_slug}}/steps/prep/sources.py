"""Define raw files and their columns: the types, the roles, and the notes on them."""

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
# Their names in messages and in the report.
TYPE_NAMES: dict[pl.DataType, str] = {
    INTEGER: "integer",
    NUMBER: "number",
    BOOLEAN: "boolean",
    DATE: "date",
    TIMESTAMP: "timestamp",
    TEXT: "text",
}

# The columns with the number of a row's file, and of the row in this file, from 0. Their
# names begin with a NUL, so that they differ from the name of every column of data.
FILE = "\0file"
ROW_NUMBER = "\0row"

# The types that can be converted to each type of a model's schema, that type first. No type
# can be converted to text, because the original spelling would be lost.
READABLE_TYPES: dict[pl.DataType, tuple[pl.DataType, ...]] = {
    INTEGER: (INTEGER, NUMBER, BOOLEAN),
    NUMBER: (NUMBER, INTEGER, BOOLEAN),
    BOOLEAN: (BOOLEAN, INTEGER, NUMBER),
    DATE: (DATE, TIMESTAMP),
    TIMESTAMP: (TIMESTAMP, DATE),
    TEXT: (),
}

FIRST_ROWS = 10_000  # of a CSV file, from which the types of its columns are guessed
# A float holds every integer up to this one exactly.
LARGEST_EXACT_INTEGER = 2**53


class DataError(Exception):
    """The data cannot be prepared; the message names the file or column and the reason."""


@dataclass(frozen=True)
class ColumnSchema:
    """How a column of a model's training data was read. New data is read the same way."""

    type: pl.DataType
    #: In a column of text, words such as NA are missing values.
    markers_are_missing: bool = True
    #: The values of a column of text. None for other types, or if there are too many.
    categories: Sequence[str] | None = None
    #: The numbers are times of day, in seconds.
    holds_times: bool = False
    #: The column is a feature of the model. Other columns may be missing.
    is_needed: bool = False


@dataclass(frozen=True)
class ColumnRoles:
    """What the columns are used for, from the section `data` of settings.yml."""

    target: str | None = None
    keys: Sequence[str] = ()
    ignore: Sequence[str] = ()
    #: Rows with the same value in this column are all trained on, or all held out.
    group: str | None = None
    #: The columns of the registered model that will score the data. Only these and the
    #: keys are used. None for training data, and if the model records no columns.
    model_columns: Mapping[str, ColumnSchema] | None = None
    #: The rules of `data.expect`, by column and by the name of the rule.
    expectations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Columns that are only used to check their rules, and are not prepared.
    only_checked: Sequence[str] = ()
    #: Columns that may have rules although no file has the column.
    optional: Collection[str] = ()

    def is_used(self, name: str) -> bool:
        """Return whether a column is used for anything."""
        if self.model_columns is None:
            return name not in self.ignore
        return name in self.model_columns or name in (*self.keys, *self.only_checked)

    def get_expected_column(self, name: str) -> ColumnSchema | None:
        """Return the model's schema of a column, or None if its type is guessed."""
        if self.model_columns is None or name in self.keys:
            return None
        return self.model_columns.get(name)


NO_ROLES = ColumnRoles()


@dataclass
class Column:
    """A column of one raw file, and how its values are read."""

    #: None if no value is read: the column holds none, or it is ignored.
    type: pl.DataType | None
    values: pl.Expr
    #: The text in the CSV file, without spaces around it. None for Parquet files.
    csv_text: pl.Expr | None = None
    #: The column read as text, if it may hold nothing but words such as NA and Inf.
    values_as_text: pl.Expr | None = None
    #: Times of day are numbers, in seconds.
    holds_times: bool = False
    #: The number of words such as NA, which usually mean that a value is missing.
    marker_count: int = 0
    #: Whether each row holds such a word, if only those in the first rows were counted.
    is_marker: pl.Expr | None = None
    #: The column comes from a folder such as `year=2026`.
    is_from_folder: bool = False
    #: The column does not fit the schema of the model, and a message says so already.
    is_rejected: bool = False


def false_in_each_row() -> pl.Expr:
    """Return an expression that is False in each row of a frame.

    A literal alone would have a single row, so it is combined with a column.
    """
    return pl.first().is_null() & pl.lit(False)


@dataclass(frozen=True)
class Note:
    """A sentence for the user about the data, and the column that it is about, if any."""

    text: str
    column: str | None = None

    def as_sentence(self) -> str:
        """Return the text, beginning with a capital letter."""
        return self.text[:1].upper() + self.text[1:]


def find_note(sources: Iterable[Source], column: str) -> Note | None:
    """Return the first note on a column, in the order of the files, or None."""
    for source in sources:
        for note in source.notes:
            if note.column == column:
                return note
    return None


@dataclass
class Source:
    """A raw file: its rows, its columns by name, and how to verify their types."""

    name: str
    frame: pl.LazyFrame
    columns: dict[str, Column]
    #: Marks the rows that contradict the types that were guessed from the first rows.
    contradicts_types: pl.Expr = field(default_factory=false_in_each_row)
    #: The length of each row in the file. If polars has split the lines into values
    #: correctly, the lengths add up to `expected_bytes`.
    row_bytes: pl.Expr | None = None
    expected_bytes: int = 0
    #: Notes on this file alone.
    notes: list[Note] = field(default_factory=list)
    #: Sentences on columns that the model needs, and that do not fit its schema.
    schema_problems: list[str] = field(default_factory=list)
    #: How the CSV file is written. None for Parquet files.
    csv_file: CsvFile | None = None

    @property
    def is_csv(self) -> bool:
        """Return whether the file is CSV: only the columns of CSV files have a text."""
        return any(column.csv_text is not None for column in self.columns.values())


def get_type_name(dtype: pl.DataType) -> str:
    """Return the name of a type for messages."""
    return TYPE_NAMES.get(dtype, str(dtype))


def count_values(frame: pl.LazyFrame, expressions: Iterable[pl.Expr]) -> list[int]:
    """Count the values of each expression that are not null, in one pass over the rows."""
    expressions = list(expressions)
    # Expressions cannot be compared, so they are distinguished by their identity. One that
    # occurs several times is counted once.
    distinct = {str(id(expression)): expression for expression in expressions}
    counts = frame.select(
        expression.count().alias(identity) for identity, expression in distinct.items()
    )
    count_by_identity = counts.collect(engine="streaming").row(0, named=True)
    return [count_by_identity[str(id(expression))] for expression in expressions]


def find_first_values(
    frame: pl.LazyFrame, expressions: Sequence[pl.Expr]
) -> list[object]:
    """Return the first value of each expression that is not null, or None."""
    if not expressions:
        return []
    first_values = frame.head(FIRST_ROWS).select(
        expression.drop_nulls().first().alias(str(i))
        for i, expression in enumerate(expressions)
    )
    values: list[object] = list(first_values.collect(engine="streaming").row(0))
    for i, expression in enumerate(expressions):
        if values[i] is None:
            values[i] = _find_first_value(frame, expression)
    return values


def _find_first_value(frame: pl.LazyFrame, expression: pl.Expr) -> object:
    """Return the first value of an expression that is not null, or None.

    This query ends at the first value. A query for several expressions at once would read
    all rows.
    """
    first_value = frame.select(value=expression).drop_nulls().head(1)
    values = first_value.collect(engine="streaming")
    return None if values.is_empty() else values.item()
