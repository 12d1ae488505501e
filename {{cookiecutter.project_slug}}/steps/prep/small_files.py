"""Read many small CSV files together.

polars needs more time to open one file than Python's csv module needs to read half a
megabyte. So the rows of small files with the same header are copied as text into one
file, and the types of all their columns are found in one pass over it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import polars as pl
from csv_file import CsvFile
from fits import find_fits, list_fits_of_empty_file
from infer_types import InferredColumn, build_columns, list_column_parsers
from parsers import ParsedText, Parser
from read_options import ReadOptions
from sources import FILE, Source
from unpack import is_compressed

MANY_FILES = 32  # If there are fewer small files, each one is opened on its own.
SMALL_BYTES = 500_000
VALUES_IN_BATCH = 500_000  # A batch with this many values is full.


@dataclass
class SmallFile:
    """A small CSV file with all of its rows."""

    file: CsvFile
    rows: list[list[str]]


@dataclass
class Batch:
    """Consecutive small files with the same header, and the number of their values."""

    files: list[SmallFile] = field(default_factory=list)
    values: int = 0

    @property
    def header(self) -> list[str]:
        """Return the names of the columns, which all files share."""
        return self.files[0].file.header

    @property
    def column_names(self) -> list[str]:
        """Return the names "0", "1" and so on under which polars reads the columns."""
        return self.files[0].file.positions

    def can_take(self, small_file: SmallFile) -> bool:
        """Return whether the batch has room for a file, and the file has its header."""
        if not self.files:
            return True
        has_room = self.values < VALUES_IN_BATCH
        return has_room and small_file.file.header == self.header

    def add(self, small_file: SmallFile) -> None:
        """Add a file to the batch."""
        self.files.append(small_file)
        self.values += len(small_file.rows) * len(small_file.file.header)


def is_small(path: Path) -> bool:
    """Return whether a file is small and not packed.

    A small packed file may hold a great many rows.
    """
    return path.stat().st_size <= SMALL_BYTES and not is_compressed(path)


def divide_into_batches(files: Iterable[SmallFile]) -> Iterator[Batch]:
    """Divide files, in their order, into batches that can be copied together."""
    batch = Batch()
    for small_file in files:
        if not batch.can_take(small_file):
            yield batch
            batch = Batch()
        batch.add(small_file)
    if batch.files:
        yield batch


def open_batch(batch: Batch, scratch: Path, options: ReadOptions) -> list[Source]:
    """Find the types of all columns of a batch, and return a source for each of its files.

    The rows are copied as text into the folder `scratch`, from which the sources read
    them. Raises OSError if the folder is full.
    """
    texts = _stack_texts(batch)
    copy = scratch / f"{uuid.uuid4().hex}.arrow"
    texts.write_ipc(copy)
    copied_rows = pl.scan_ipc(copy, glob=False).select(batch.column_names)

    sources = []
    first_row = 0
    columns_of_files = _infer_columns_of_files(batch, texts, options)
    for small_file, inferred_columns in zip(batch.files, columns_of_files, strict=True):
        file = small_file.file
        row_count = len(small_file.rows)
        rows = copied_rows.slice(first_row, row_count)
        columns = build_columns(inferred_columns, options)
        sources.append(Source(file.name, rows, columns, csv_file=file))
        first_row += row_count
    return sources


def _infer_columns_of_files(
    batch: Batch, rows: pl.DataFrame, options: ReadOptions
) -> list[list[InferredColumn]]:
    """Infer the columns of each file of a batch from its stacked rows."""
    parsers = list_column_parsers(batch.header, options)
    fits_by_file = find_fits(rows, parsers)
    fits_without_rows = list_fits_of_empty_file(parsers)
    text_columns = [pl.col(name) for name in batch.column_names]
    stripped = [text.str.strip_chars() for text in text_columns]

    @cache
    def parse_column(position: int, parser: Parser) -> ParsedText:
        # Most files have the same types, and share the expressions for them.
        return parser.parse(text_columns[position], stripped[position])

    columns_of_files = []
    for file_number in range(len(batch.files)):
        # Only files with rows are in `fits_by_file`.
        fits = fits_by_file.get(file_number, fits_without_rows)
        inferred_columns = [
            InferredColumn(
                header=batch.header[position],
                stripped=stripped[position],
                parsed=parse_column(position, fit.parser),
                counts=fit.counts,
            )
            for position, fit in enumerate(fits)
        ]
        columns_of_files.append(inferred_columns)
    return columns_of_files


def _stack_texts(batch: Batch) -> pl.DataFrame:
    """Return all rows of a batch as text, with the number of each row's file in FILE."""
    rows: list[list[str]] = []
    file_numbers: list[int] = []
    for file_number, small_file in enumerate(batch.files):
        rows += small_file.rows
        file_numbers += [file_number] * len(small_file.rows)

    columns = [pl.Series(FILE, file_numbers, pl.UInt32)]
    for index, name in enumerate(batch.column_names):
        values = [row[index] for row in rows]
        columns.append(pl.Series(name, values, pl.String))
    # Empty values become null, because polars also reads an empty value of a file as null.
    return pl.DataFrame(columns).with_columns(pl.col(pl.String).replace("", None))
