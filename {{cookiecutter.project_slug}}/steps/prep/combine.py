"""Stack the rows of the raw files as one table, and verify the types of CSV files.

While the rows are written, each file is summarized: if any of its rows contradicts the
types that were guessed from the first rows, they are wrong.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
from sources import FILE, ROW_NUMBER, Column, Source

# polars opens all files of a query at once, and takes minutes to plan a query over
# thousands of files. So it gets at most this many files at once.
FILES_AT_A_TIME = 64
# Columns that are added to the combined rows to verify the guessed types. Their names
# begin with a NUL, so that they differ from the name of every column of data.
CONTRADICTS_TYPES = "\0contradicts types"  # whether the row contradicts guessed types
BYTES = "\0bytes"  # the length of the row in its CSV file
MISSING_WORD = "\0missing word "  # before the name of a column that holds words like NA

# Stands for a column that a file does not have.
ABSENT_COLUMN = Column(type=None, values=pl.lit(None))


@dataclass(frozen=True)
class TableColumns:
    """The columns of the combined table, besides FILE, CONTRADICTS_TYPES and BYTES."""

    types: dict[str, pl.DataType]
    #: The columns in which words like NA are still to be counted. A column that begins
    #: with MISSING_WORD marks the rows that hold such a word.
    uncounted: set[str]
    #: The table has ROW_NUMBER, the number of each row in its file.
    with_row_numbers: bool


def stack_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    scratch: Path,
    *,
    with_row_numbers: bool = False,
) -> pl.LazyFrame:
    """Stack the rows of all files, in order, as a table with the columns of `types`.

    The table also has the columns that `TableColumns` describes. If there are many files,
    their rows are copied into the folder `scratch`. Raises OSError or PolarsError if the
    disk is full.
    """
    columns = TableColumns(types, _list_uncounted_columns(sources), with_row_numbers)
    numbered_sources = list(enumerate(sources))
    if len(sources) <= FILES_AT_A_TIME:
        return _stack_batch(numbered_sources, columns)

    copies = []
    for start in range(0, len(sources), FILES_AT_A_TIME):
        batch = numbered_sources[start : start + FILES_AT_A_TIME]
        copy = scratch / f"{uuid.uuid4().hex}.parquet"
        _stack_batch(batch, columns).sink_parquet(copy, compression_level=1)
        copies.append(copy)
    return pl.scan_parquet(copies, glob=False)


def _list_uncounted_columns(sources: list[Source]) -> set[str]:
    """Return the columns in which words like NA are counted while rows are written.

    These are the columns whose types were guessed in some file.
    """
    names = set()
    for source in sources:
        for name, column in source.columns.items():
            if column.is_marker is not None:
                names.add(name)
    return names


def _stack_batch(
    numbered_sources: list[tuple[int, Source]], columns: TableColumns
) -> pl.LazyFrame:
    """Stack the rows of a few files. Each file comes with its number among all files."""
    return pl.concat(
        _select_rows(source, file_number, columns)
        for file_number, source in numbered_sources
    )


def _select_rows(
    source: Source, file_number: int, columns: TableColumns
) -> pl.LazyFrame:
    """Select the columns of the combined table from a file."""
    row_bytes = pl.lit(0) if source.row_bytes is None else source.row_bytes
    selected = [
        pl.lit(file_number).alias(FILE),
        source.contradicts_types.alias(CONTRADICTS_TYPES),
        row_bytes.cast(pl.Int64).alias(BYTES),
    ]
    for name, dtype in columns.types.items():
        column = source.columns.get(name, ABSENT_COLUMN)
        values = pl.lit(None) if column.type is None else column.values
        selected.append(values.cast(dtype).alias(name))
        if name in columns.uncounted:
            is_word = column.is_marker
            if is_word is None:
                is_word = pl.lit(False)
            selected.append(is_word.alias(MISSING_WORD + name))

    frame = source.frame.select(selected)
    if columns.with_row_numbers:
        frame = frame.with_row_index(ROW_NUMBER)
    if source.is_csv:
        # The output and the summary both read the rows. Text is expensive to parse, so
        # its values are kept in memory for both. Parquet is read twice, to save memory.
        return frame.cache()
    return frame


def aggregate_by_file(
    rows: pl.LazyFrame, *aggregations: pl.Expr, has_many_files: bool
) -> pl.LazyFrame:
    """Summarize the stacked rows: return one row for each file that has any rows.

    It holds the number of the file's `rows`, the caller's `aggregations`, and the sums by
    which `find_confirmed_files` and `set_missing_words` verify the file.
    """
    verified_columns = cs.by_name(CONTRADICTS_TYPES, BYTES)
    missing_words = cs.starts_with(MISSING_WORD)
    sums = (verified_columns | missing_words).sum()
    summary = [pl.len().alias("rows"), sums, *aggregations]
    if has_many_files:
        return rows.group_by(FILE).agg(summary)
    return rows.select(pl.first(FILE), *summary)


def find_confirmed_files(sources: list[Source], summary: pl.DataFrame) -> set[str]:
    """Return the names of the files in which all rows have the guessed types.

    `summary` is the result of `aggregate_by_file`.
    """
    row_by_file = {row[FILE]: row for row in summary.to_dicts()}
    without_rows = {CONTRADICTS_TYPES: 0, BYTES: 0}
    confirmed = set()
    for file_number, source in enumerate(sources):
        row = row_by_file.get(file_number, without_rows)
        has_no_contradiction = not row[CONTRADICTS_TYPES]
        has_expected_bytes = row[BYTES] == source.expected_bytes
        if has_no_contradiction and has_expected_bytes:
            confirmed.add(source.name)
    return confirmed


def set_missing_words(sources: list[Source], summary: pl.DataFrame) -> None:
    """Set the `marker_count` of each column to their number in all rows.

    Until now, only those of the first rows have been counted. `summary` is the result of
    `aggregate_by_file`.
    """
    row_by_file = {row[FILE]: row for row in summary.to_dicts()}
    for file_number, source in enumerate(sources):
        # A file without rows is not in the summary.
        row = row_by_file.get(file_number, {})
        for name, column in source.columns.items():
            if column.is_marker is not None:
                column.marker_count = row.get(MISSING_WORD + name, 0)
