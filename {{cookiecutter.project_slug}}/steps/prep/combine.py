"""Stack the rows of the raw files as one table, and verify the types of CSV files.

The types of a CSV file are guessed from its first rows. While all rows are written, each
file is summarized: if any row contradicts the guess, the guess is wrong.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs
from sources import FILE, ROW_NUMBER, Column, Source

# polars opens all files of a query at once, and takes minutes to plan a query over
# thousands of files. So a query reads at most this many files.
FILES_AT_A_TIME = 64
# Two columns that are added to the combined rows to verify the guessed types. Their names
# begin with a NUL, so that they differ from the name of every column of data.
CONTRADICTS_TYPES = "\0contradicts types"  # whether the row contradicts guessed types
BYTES = "\0bytes"  # the length of the row in its CSV file, 0 if it is not measured
# A column with this prefix and the name of a column of data is True in rows in which the
# column of data holds a marker: a word such as NA, which usually means that a value is
# missing.
IS_MARKER = "\0is marker "

# Stands for a column that a file does not have.
ABSENT_COLUMN = Column(type=None, values=pl.lit(None))


@dataclass(frozen=True)
class TableColumns:
    """The columns of the combined table, besides FILE, CONTRADICTS_TYPES and BYTES."""

    #: The types of the columns of data, by name.
    types: dict[str, pl.DataType]
    #: The columns of data in which words such as NA, called markers, are still to be
    #: counted. The table has a further column for each of them, whose name begins with
    #: IS_MARKER.
    with_uncounted_markers: set[str]
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

    The table also has these columns:

    - FILE, the number of each row's file,
    - ROW_NUMBER, the number of the row in this file, if `with_row_numbers` is True, and
    - columns by which `find_confirmed_files` verifies guessed types, and by which
      `set_marker_counts` counts words such as NA.

    If there are many files, their rows are copied into the folder `scratch`. Raises OSError
    or PolarsError if the disk is full.
    """
    columns = TableColumns(
        types=types,
        with_uncounted_markers=_list_columns_with_uncounted_markers(sources),
        with_row_numbers=with_row_numbers,
    )
    numbered_sources = list(enumerate(sources))
    if len(sources) <= FILES_AT_A_TIME:
        return _stack_batch(numbered_sources, columns)

    # A query over this many files would take minutes to plan and would open all of them at
    # once. So each batch of files is copied into one file.
    copies = []
    for start in range(0, len(sources), FILES_AT_A_TIME):
        batch = numbered_sources[start : start + FILES_AT_A_TIME]
        copy = scratch / f"{uuid.uuid4().hex}.parquet"
        _stack_batch(batch, columns).sink_parquet(copy, compression_level=1)
        copies.append(copy)
    return pl.scan_parquet(copies, glob=False)


def _list_columns_with_uncounted_markers(sources: list[Source]) -> set[str]:
    """Return the columns in which words such as NA are not yet counted in all rows.

    These words are called markers. They are still to be counted if the type of the column
    was guessed from the first rows of at least one file.
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
    """Stack the rows of some files, each of which comes with its number among all files."""
    return pl.concat(
        _select_rows(source, file_number, columns)
        for file_number, source in numbered_sources
    )


def _select_rows(
    source: Source, file_number: int, columns: TableColumns
) -> pl.LazyFrame:
    """Return the rows of a file with the columns of the combined table.

    FILE is the number of the file. By two further columns, the guessed types are verified
    later: CONTRADICTS_TYPES is True in rows that contradict them, and BYTES is the length
    of the row in bytes, or 0 if it is not measured.
    """
    row_bytes = pl.lit(0) if source.row_bytes is None else source.row_bytes
    frame = source.frame.select(
        pl.lit(file_number).alias(FILE),
        source.contradicts_types.alias(CONTRADICTS_TYPES),
        row_bytes.cast(pl.Int64).alias(BYTES),
        *_select_values(source, columns),
    )
    if columns.with_row_numbers:
        frame = frame.with_row_index(ROW_NUMBER)
    if source.is_csv:
        # The rows are read twice: for the output and for the summary of each file. Text is
        # expensive to parse, so the parsed rows are kept in memory. The rows of a Parquet
        # file are not kept, to save memory.
        return frame.cache()
    return frame


def _select_values(source: Source, columns: TableColumns) -> list[pl.Expr]:
    """Return expressions for the columns of data in a file.

    A column in which words such as NA are still to be counted has a second expression,
    which is True in rows that hold one of these words. The name of this expression is
    IS_MARKER followed by the name of the column.
    """
    expressions = []
    for name, dtype in columns.types.items():
        column = source.columns.get(name, ABSENT_COLUMN)
        # A column without values has no type. It is null in all rows.
        values = pl.lit(None) if column.type is None else column.values
        expressions.append(values.cast(dtype).alias(name))

        if name in columns.with_uncounted_markers:
            # In this file, the words may have been counted already. Then no row counts.
            is_marker = pl.lit(False) if column.is_marker is None else column.is_marker
            expressions.append(is_marker.alias(IS_MARKER + name))
    return expressions


def aggregate_by_file(
    rows: pl.LazyFrame, *aggregations: pl.Expr, has_several_files: bool
) -> pl.LazyFrame:
    """Summarize the stacked rows: return a row for each file that has rows.

    The columns of the result are:

    - FILE: the number of the file
    - `rows`: the number of its rows
    - CONTRADICTS_TYPES: how many rows contradict the guessed types
    - BYTES: the length of the rows in bytes
    - for each column, a name that begins with IS_MARKER: how many words such as NA it holds
    - the caller's `aggregations`

    A single file without rows also has a row in the result, with null in FILE.
    """
    columns_to_sum = cs.by_name(CONTRADICTS_TYPES, BYTES) | cs.starts_with(IS_MARKER)
    summary = [pl.len().alias("rows"), columns_to_sum.sum(), *aggregations]
    if has_several_files:
        return rows.group_by(FILE).agg(summary)
    # Grouping is slow, and the rows of a single file need none.
    return rows.select(pl.first(FILE), *summary)


def find_confirmed_files(sources: list[Source], summary: pl.DataFrame) -> set[str]:
    """Return the names of the files that were read correctly, with the guessed types.

    In these files, no row contradicts the types, and the values that polars has read add
    up to the length of the file, so that no line was divided wrongly. `summary` is the
    result of `aggregate_by_file`, with the sums of CONTRADICTS_TYPES and BYTES by file.
    """
    sums_by_file = {row[FILE]: row for row in summary.to_dicts()}
    sums_of_empty_file = {CONTRADICTS_TYPES: 0, BYTES: 0}
    confirmed = set()
    for file_number, source in enumerate(sources):
        sums = sums_by_file.get(file_number, sums_of_empty_file)
        has_no_contradiction = sums[CONTRADICTS_TYPES] == 0
        has_expected_bytes = sums[BYTES] == source.expected_bytes
        if has_no_contradiction and has_expected_bytes:
            confirmed.add(source.name)
    return confirmed


def set_marker_counts(sources: list[Source], summary: pl.DataFrame) -> None:
    """Set the `marker_count` of each column to the number of words such as NA in all rows.

    Before, `marker_count` is the number of these words in the first rows, if only these
    have been read to guess the type. `summary` is the result of `aggregate_by_file`.
    """
    sums_by_file = {row[FILE]: row for row in summary.to_dicts()}
    for file_number, source in enumerate(sources):
        # An empty file is not in the summary.
        sums = sums_by_file.get(file_number, {})
        for name, column in source.columns.items():
            # Columns without `is_marker` have been counted in all rows already.
            has_uncounted_markers = column.is_marker is not None
            if has_uncounted_markers:
                column.marker_count = sums.get(IS_MARKER + name, 0)
