"""Stack the rows of the raw files as one table, and verify the types of CSV files.

While the rows are written, each file is summarized: if any of its rows contradicts the
types that were guessed from the first rows, they are wrong.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import polars as pl
import polars.selectors as cs
from sources import FILE, ROW_NUMBER, Column, Source

FILES_AT_A_TIME = 64
# Columns that are added to the combined rows to verify the guessed types. Their names
# begin with a NUL, so that they differ from the name of every column of data.
CONTRADICTS_TYPES = "\0contradicts types"  # whether the row contradicts guessed types
BYTES = "\0bytes"  # the length of the row in its CSV file
MISSING_WORD = "\0missing word "  # before the name of a column that holds words like NA

# Stands for a column that a file does not have.
ABSENT_COLUMN = Column(type=None, values=pl.lit(None))


def stack_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    scratch: Path,
    *,
    with_row_numbers: bool = False,
) -> pl.LazyFrame:
    """Stack the rows of all files, in order, as a table with the columns of `types`.

    The table also has the columns FILE, CONTRADICTS_TYPES and BYTES, and a column that
    begins with MISSING_WORD for each column that may hold words like NA. If the caller
    needs them, ROW_NUMBER has the numbers of the rows in their files. If there are many
    files, they are copied into the folder `scratch`. Raises OSError or PolarsError if the
    disk is full.
    """
    # Missing words are counted only in columns whose types were guessed.
    checked_names = {
        name
        for source in sources
        for name, column in source.columns.items()
        if column.is_missing_word is not None
    }
    if len(sources) <= FILES_AT_A_TIME:
        frames = _select_rows(
            sources, types, checked_names, 0, with_row_numbers=with_row_numbers
        )
        return pl.concat(frames)
    # polars opens all files of a query at once, and takes minutes to plan a query over
    # thousands of files. So some files at a time are copied into one.
    copies = []
    for start in range(0, len(sources), FILES_AT_A_TIME):
        batch = sources[start : start + FILES_AT_A_TIME]
        frames = _select_rows(
            batch, types, checked_names, start, with_row_numbers=with_row_numbers
        )
        copy = scratch / f"{uuid.uuid4().hex}.parquet"
        pl.concat(frames).sink_parquet(copy, compression_level=1)
        copies.append(copy)
    return pl.scan_parquet(copies, glob=False)


def _select_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    checked_names: set[str],
    first_position: int,
    *,
    with_row_numbers: bool,
) -> list[pl.LazyFrame]:
    """Select from each file the columns of the table that `stack_rows` describes.

    `first_position` is the position of the first of these files among all files. The
    columns in `checked_names` may hold words like NA.
    """
    frames = []
    for position, source in enumerate(sources, first_position):
        row_bytes = pl.lit(0) if source.row_bytes is None else source.row_bytes
        selected = [
            pl.lit(position).alias(FILE),
            source.contradicts_types.alias(CONTRADICTS_TYPES),
            row_bytes.cast(pl.Int64).alias(BYTES),
        ]
        for name, dtype in types.items():
            column = source.columns.get(name, ABSENT_COLUMN)
            values = pl.lit(None) if column.type is None else column.values
            selected.append(values.cast(dtype).alias(name))
            if name in checked_names:
                is_word = column.is_missing_word
                if is_word is None:
                    is_word = pl.lit(False)
                selected.append(is_word.alias(MISSING_WORD + name))
        frame = source.frame.select(selected)
        if with_row_numbers:
            frame = frame.with_row_index(ROW_NUMBER)
        # The output and the summary both read the rows. Text of CSV is expensive to
        # parse, so its values are kept in memory for both. Parquet is read twice instead,
        # which saves this memory.
        frames.append(frame.cache() if source.is_csv else frame)
    return frames


def aggregate_by_file(
    rows: pl.LazyFrame, *aggregations: pl.Expr, has_many_files: bool
) -> pl.LazyFrame:
    """Return one row for each file of the stacked rows that has any rows.

    It holds the number of the file's `rows`, the caller's `aggregations`, and the sums by
    which `find_confirmed_files` and `set_missing_words` verify the file.
    """
    sums = (cs.by_name(CONTRADICTS_TYPES, BYTES) | cs.starts_with(MISSING_WORD)).sum()
    summary = [pl.len().alias("rows"), sums, *aggregations]
    if has_many_files:
        return rows.group_by(FILE).agg(summary)
    return rows.select(pl.first(FILE), *summary)


def find_confirmed_files(sources: list[Source], summary: pl.DataFrame) -> set[str]:
    """Return the names of the files in which all rows have the guessed types.

    `summary` is the result of `aggregate_by_file`.
    """
    summary_by_file = {row[FILE]: row for row in summary.to_dicts()}
    confirmed = set()
    for position, source in enumerate(sources):
        # A file without rows is not in the summary.
        row = summary_by_file.get(position, {CONTRADICTS_TYPES: 0, BYTES: 0})
        if not row[CONTRADICTS_TYPES] and row[BYTES] == source.expected_bytes:
            confirmed.add(source.name)
    return confirmed


def set_missing_words(sources: list[Source], summary: pl.DataFrame) -> None:
    """Set the `missing_words` of each column to their number in all rows.

    Until now, only those of the first rows have been counted.
    """
    summary_by_file = {row[FILE]: row for row in summary.to_dicts()}
    for position, source in enumerate(sources):
        row = summary_by_file.get(position, {})
        for name, column in source.columns.items():
            if column.is_missing_word is not None:
                column.missing_words = row.get(MISSING_WORD + name, 0)
