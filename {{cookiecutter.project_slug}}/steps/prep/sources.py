"""The types of columns, what they are used for, and the raw files that hold them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from csv_dialect import CsvFile

# The types that a feature can have, with their names in messages and in the report.
TYPE_NAMES: dict[pl.DataType, str] = {
    pl.Int64(): "integer",
    pl.Float64(): "number",
    pl.Boolean(): "boolean",
    pl.Date(): "date",
    pl.Datetime("us"): "timestamp",
    pl.String(): "text",
}
INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP, TEXT = TYPE_NAMES  # in this order

# The columns with the number of a row's file, and of the row in this file, from 0. Their
# names begin with a NUL, as no name of a column of data does.
FILE = "\0file"
ROW_NUMBER = "\0row"

# The types whose values can be read as a type of a model's schema, that type first. The
# list of text is empty: text is only read as text, because its spelling would be lost.
READABLE_TYPES: dict[pl.DataType, tuple[pl.DataType, ...]] = {
    INTEGER: (INTEGER, NUMBER, BOOLEAN),
    NUMBER: (NUMBER, INTEGER, BOOLEAN),
    BOOLEAN: (BOOLEAN, INTEGER, NUMBER),
    DATE: (DATE, TIMESTAMP),
    TIMESTAMP: (TIMESTAMP, DATE),
    TEXT: (),
}

FIRST_ROWS = 10_000  # of a CSV file, from which the types of its columns are guessed
# Up to this number, a float holds every integer exactly.
LARGEST_EXACT_INTEGER = 2**53


class DataError(Exception):
    """The data cannot be prepared; the message names the file or column and the reason."""


@dataclass(frozen=True)
class ColumnSchema:
    """How a column of a model's training data was read, and so how new data is read."""

    type: pl.DataType
    #: In a column of text, words such as NA are missing values.
    words_are_missing: bool = True
    #: The values of a column of text. None if they are too many, or of another type.
    categories: Sequence[str] | None = None
    #: The numbers are times of day, in seconds.
    holds_times: bool = False
    #: The column is a feature of the model. Other columns may be missing.
    is_needed: bool = False


@dataclass(frozen=True)
class ColumnRoles:
    """Which columns are used, and what for, as `data` in settings.yml says."""

    target: str | None = None
    keys: Sequence[str] = ()
    ignore: Sequence[str] = ()
    #: The columns of the registered model that will score the data. If they are known,
    #: only these and the keys are used. None for training data.
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
        """Return what the model expects of a column, or None if its type is guessed."""
        if self.model_columns is None or name in self.keys:
            return None
        return self.model_columns.get(name)


NO_ROLES = ColumnRoles()


@dataclass
class Column:
    """A column of one raw file, whose values are read as one type."""

    #: None if no value is read: the column holds none, or it is ignored.
    type: pl.DataType | None
    values: pl.Expr
    #: What the CSV file holds, without spaces around it. None for Parquet files.
    text: pl.Expr | None = None
    #: The column read as text, if it may hold nothing but words such as NA and Inf.
    text_alternative: pl.Expr | None = None
    #: Times of day are numbers, in seconds.
    holds_times: bool = False
    #: The number of values such as NA, which usually mean that a value is missing.
    missing_words: int = 0
    #: Whether each row holds such a word, if they were counted only in the first rows.
    is_missing_word: pl.Expr | None = None
    #: The column comes from a folder such as `year=2026`.
    is_from_folder: bool = False
    #: The column does not fit the schema of the model, and a message says so already.
    is_rejected: bool = False


def false_in_each_row() -> pl.Expr:
    """Return an expression that is False in each row of a frame.

    A literal alone would have one row, whatever the length of the frame.
    """
    return pl.first().is_null() & pl.lit(False)


@dataclass(frozen=True)
class Note:
    """A sentence for the user about the data, and the column that it is about, if any."""

    text: str
    column: str | None = None

    def as_sentence(self) -> str:
        """Return the text with a capital letter, as notes alone begin without one."""
        return self.text[:1].upper() + self.text[1:]


def find_note(sources: Iterable[Source], column: str) -> Note | None:
    """Return the first note on a column, by the order of the files, or None."""
    for source in sources:
        for note in source.notes:
            if note.column == column:
                return note
    return None


@dataclass
class Source:
    """A raw file: its rows, its columns by name, and how to verify guessed types."""

    name: str
    frame: pl.LazyFrame
    columns: dict[str, Column]
    #: Whether each row contradicts the types that were guessed from the first rows.
    contradicts_types: pl.Expr = field(default_factory=false_in_each_row)
    #: The length of each row in the file. The lengths add up to `expected_bytes` if
    #: polars has split the lines into values as it should.
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
        return any(column.text is not None for column in self.columns.values())


def type_name(dtype: pl.DataType) -> str:
    """Return the name of a type for messages."""
    return TYPE_NAMES.get(dtype, str(dtype))


def count_values(frame: pl.LazyFrame, expressions: Iterable[pl.Expr]) -> list[int]:
    """Count the values of each expression that are not null, in one pass over the rows."""
    expressions = list(expressions)
    # Many candidates share an expression, which is counted once.
    distinct = {id(expression): expression for expression in expressions}
    counts = frame.select(
        expression.count().alias(str(key)) for key, expression in distinct.items()
    )
    row = counts.collect(engine="streaming").row(0, named=True)
    return [row[str(id(expression))] for expression in expressions]


def find_first_values(
    frame: pl.LazyFrame, expressions: Sequence[pl.Expr]
) -> list[object]:
    """Return the first value of each expression that is not null, or None."""
    if not expressions:
        return []
    first_rows = frame.head(FIRST_ROWS).select(
        expression.drop_nulls().first().alias(str(i))
        for i, expression in enumerate(expressions)
    )
    values: list[object] = list(first_rows.collect(engine="streaming").row(0))
    for i, expression in enumerate(expressions):
        if values[i] is None:
            # A query of its own ends at the first value, while one for all expressions
            # would read all rows.
            first_value = frame.select(value=expression).drop_nulls().head(1)
            found = first_value.collect(engine="streaming")
            values[i] = None if found.is_empty() else found.item()
    return values
