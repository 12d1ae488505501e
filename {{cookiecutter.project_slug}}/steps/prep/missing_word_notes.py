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
class ColumnWithMarkers:
    """A column that holds words such as NA in some CSV files, or in some Parquet files.

    Such words, which usually mean that a value is missing, are called markers.
    """

    name: str
    #: The files in which the column holds markers: only CSV, or only Parquet.
    sources: list[Source]
    is_csv: bool


def note_missing_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> list[Note]:
    """Return a note on each column that holds words such as NA.

    These words are called markers. The note quotes the first marker and tells how it is
    read. `types` has the types of the prepared columns by name.
    """
    # The columns are grouped by the first file that holds their markers, because one query
    # finds the markers of all columns in a file.
    columns_by_first_file: dict[str, list[ColumnWithMarkers]] = {}
    for column in _find_columns_with_markers(sources, types, roles):
        name_of_first_file = column.sources[0].name
        columns_by_first_file.setdefault(name_of_first_file, []).append(column)

    notes = []
    source_by_name = {source.name: source for source in sources}
    for file_name, columns in columns_by_first_file.items():
        source = source_by_name[file_name]
        marker_expressions = [
            _select_markers(source.columns[column.name]) for column in columns
        ]
        first_markers = find_first_values(source.frame, marker_expressions)
        for column, marker in zip(columns, first_markers, strict=True):
            notes.append(Note(_explain_marker(column, str(marker)), column=column.name))
    return notes


def _find_columns_with_markers(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> Iterator[ColumnWithMarkers]:
    """Yield the columns that hold words such as NA, which are called markers.

    Keys are left out, because markers in keys are always values. For the same reason, a
    target that is text is left out in Parquet files. A column that holds markers in both
    CSV and Parquet files is yielded twice.
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
            if column.csv_text is not None:
                csv_sources.append(source)
            else:
                parquet_sources.append(source)
        if csv_sources:
            yield ColumnWithMarkers(name, csv_sources, is_csv=True)
        is_text_target = name == roles.target and dtype == TEXT
        if parquet_sources and not is_text_target:
            yield ColumnWithMarkers(name, parquet_sources, is_csv=False)


def _select_markers(column: Column) -> pl.Expr:
    """Return an expression for the words such as NA in a column, null in all other rows."""
    # Only the columns of CSV files keep their text.
    if column.csv_text is None:
        is_marker = column.values.is_in(MISSING_MARKERS)
        return pl.when(is_marker).then(column.values)
    # In a CSV file, such words are the text of missing values.
    return pl.when(column.values.is_null()).then(null_if_empty(column.csv_text))


def _explain_marker(column_with_markers: ColumnWithMarkers, marker: str) -> str:
    """Return the text of a note on how a word such as NA is read in a column."""
    name = column_with_markers.name
    columns = [source.columns[name] for source in column_with_markers.sources]
    files = _list_files(column_with_markers.sources)
    row_count = sum(column.marker_count for column in columns)
    if row_count == 1:
        rows = "1 row holds this or another such word"
    else:
        rows = f"{row_count} rows hold this or another such word"

    if not column_with_markers.is_csv:
        return (
            f"'{marker}' in the column '{name}' of {files} is read as a value, because"
            f" Parquet marks missing values itself ({rows})."
        )
    # The marker is quoted from the first of these files. If the column is text there, the
    # marker may be meant as a value.
    is_text = columns[0].type == TEXT
    if is_text:
        return (
            f"'{marker}' in the column '{name}' of {files} is read as a missing value"
            f" ({rows}): if it is a category, write data.not_missing: ['{marker}'] in"
            " settings.yml."
        )
    return (
        f"'{marker}' in the column '{name}' of {files} is read as a missing value"
        f" ({rows})."
    )


def _list_files(sources: list[Source]) -> str:
    """Return the name of the first file and the number of the others, for a message."""
    first_file = sources[0].name
    other_count = len(sources) - 1
    if other_count == 0:
        return first_file
    if other_count == 1:
        return f"{first_file} and 1 more file"
    return f"{first_file} and {other_count} more files"
