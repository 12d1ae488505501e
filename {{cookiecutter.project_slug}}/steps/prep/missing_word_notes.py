"""Write notes on how words such as NA are read.

In CSV files, such words are missing values. In Parquet files, which mark missing values
separately, they are text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
from sources import TEXT, Column, ColumnRoles, Note, Source, find_first_values
from text_values import MISSING_MARKERS, null_if_empty


@dataclass(frozen=True)
class ColumnWithWords:
    """A column that holds words such as NA in some CSV files, or in some Parquet files."""

    name: str
    #: The files in which the column holds such words: only CSV, or only Parquet.
    sources: list[Source]
    is_csv: bool


def note_missing_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> list[Note]:
    """Return a note on each column that holds words such as NA.

    The note quotes the first such word and tells how it is read. `types` has the types of
    the prepared columns by name.
    """
    columns_by_first_file: dict[str, list[ColumnWithWords]] = {}
    for column in _find_columns_with_words(sources, types, roles):
        first_file = column.sources[0].name
        columns_by_first_file.setdefault(first_file, []).append(column)

    notes = []
    for columns in columns_by_first_file.values():
        # One query finds the words of all columns that have the same first file.
        source = columns[0].sources[0]
        word_expressions = [
            _select_words(source.columns[column.name]) for column in columns
        ]
        first_words = find_first_values(source.frame, word_expressions)
        for column, word in zip(columns, first_words, strict=True):
            notes.append(Note(_explain_word(column, str(word)), column=column.name))
    return notes


def _find_columns_with_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> Iterator[ColumnWithWords]:
    """Yield the columns that hold words such as NA, except keys.

    The words of a key are always values, and so are those of a target that is text in a
    Parquet file. A column that holds words in both CSV and Parquet files is yielded twice.
    """
    for name, dtype in types.items():
        if name in roles.keys:
            continue
        csv_sources: list[Source] = []
        parquet_sources: list[Source] = []
        for source in sources:
            column = source.columns.get(name)
            if column is None or not column.marker_count:
                continue
            # Only the columns of CSV files keep their text.
            if column.text is not None:
                csv_sources.append(source)
            else:
                parquet_sources.append(source)
        if csv_sources:
            yield ColumnWithWords(name, csv_sources, is_csv=True)
        is_text_target = name == roles.target and dtype == TEXT
        if parquet_sources and not is_text_target:
            yield ColumnWithWords(name, parquet_sources, is_csv=False)


def _select_words(column: Column) -> pl.Expr:
    """Return the words such as NA in a column, and null in all other rows."""
    # The columns of Parquet files have no text.
    if column.text is None:
        is_word = column.values.is_in(MISSING_WORDS)
        return pl.when(is_word).then(column.values)
    # In a CSV file, such words are the text of missing values.
    return pl.when(column.values.is_null()).then(null_if_empty(column.text))


def _explain_word(column_with_words: ColumnWithWords, word: str) -> str:
    """Return the text of a note on how a word such as NA is read in a column."""
    name = column_with_words.name
    columns = [source.columns[name] for source in column_with_words.sources]
    files = _list_files(column_with_words.sources)
    row_count = sum(column.missing_words for column in columns)
    if row_count == 1:
        rows = "1 row holds this or another such word"
    else:
        rows = f"{row_count} rows hold this or another such word"

    if not column_with_words.is_csv:
        return (
            f"'{word}' in the column '{name}' of {files} is read as a value, because"
            f" Parquet marks missing values itself ({rows})."
        )
    if columns[0].type == TEXT:
        return (
            f"'{word}' in the column '{name}' of {files} is read as a missing value"
            f" ({rows}): if it is a category, write data.not_missing: ['{word}'] in"
            " settings.yml."
        )
    return f"'{word}' in the column '{name}' of {files} is read as a missing value ({rows})."


def _list_files(sources: list[Source]) -> str:
    """Return the name of the first file and the number of the others, for a message."""
    first_file = sources[0].name
    other_count = len(sources) - 1
    if other_count == 0:
        return first_file
    if other_count == 1:
        return f"{first_file} and 1 more file"
    return f"{first_file} and {other_count} more files"
