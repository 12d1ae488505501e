"""Write notes on how words such as NA are read.

In CSV files, they are missing values. In Parquet files, which store missing values
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
    """A column that holds words such as NA in some files."""

    name: str
    #: These files, which are all CSV or all Parquet.
    sources: list[Source]
    is_csv: bool


def note_missing_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> list[Note]:
    """Return notes on the columns that hold words such as NA."""
    columns_by_file: dict[str, list[ColumnWithWords]] = {}
    for column in _list_columns_with_words(sources, types, roles):
        first_file = column.sources[0].name
        columns_by_file.setdefault(first_file, []).append(column)

    notes = []
    for columns in columns_by_file.values():
        # One query finds the words of all columns that have the same first file.
        source = columns[0].sources[0]
        words = [_select_words(source.columns[column.name]) for column in columns]
        first_words = find_first_values(source.frame, words)
        for column, word in zip(columns, first_words):
            notes.append(Note(_explain_word(column, str(word)), column=column.name))
    return notes


def _list_columns_with_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> Iterator[ColumnWithWords]:
    """Yield the columns that hold words such as NA, if it matters how these are read."""
    for name, dtype in types.items():
        # The words of a key are always values.
        if name in roles.keys:
            continue
        in_csv: list[Source] = []
        in_parquet: list[Source] = []
        for source in sources:
            column = source.columns.get(name)
            if column is None or not column.marker_count:
                continue
            # Only the columns of CSV files have a text.
            if column.csv_text is not None:
                in_csv.append(source)
            else:
                in_parquet.append(source)
        if in_csv:
            yield ColumnWithWords(name, in_csv, is_csv=True)
        is_text_target = name == roles.target and dtype == TEXT
        if in_parquet and not is_text_target:
            yield ColumnWithWords(name, in_parquet, is_csv=False)


def _select_words(column: Column) -> pl.Expr:
    """Return the words such as NA in a column, and null for its other values."""
    if column.csv_text is None:
        is_word = column.values.is_in(MISSING_MARKERS)
        return pl.when(is_word).then(column.values)
    return pl.when(column.values.is_null()).then(null_if_empty(column.csv_text))


def _explain_word(column_with_words: ColumnWithWords, word: str) -> str:
    """Return the text of a note on how a word such as NA is read in a column."""
    name = column_with_words.name
    columns = [source.columns[name] for source in column_with_words.sources]
    files = _list_files(column_with_words.sources)
    count = sum(column.marker_count for column in columns)
    rows = "1 row" if count == 1 else f"{count} rows"

    if not column_with_words.is_csv:
        return (
            f"'{word}' in the column '{name}' of {files} is a value of its own, because"
            f" Parquet stores missing values apart ({rows} with such words)."
        )
    if columns[0].type == TEXT:
        return (
            f"'{word}' in the column '{name}' of {files} is read as a missing value"
            f" ({rows} with such words): if it is a category, write"
            f" data.not_missing: ['{word}'] in settings.yml."
        )
    return (
        f"'{word}' in the column '{name}' of {files} is read as a missing value ({rows}"
        " with such words)."
    )


def _list_files(sources: list[Source]) -> str:
    """Return the name of the first file, and how many more there are."""
    first_file = sources[0].name
    more = len(sources) - 1
    if more == 0:
        return first_file
    if more == 1:
        return f"{first_file} and 1 more file"
    return f"{first_file} and {more} more files"
