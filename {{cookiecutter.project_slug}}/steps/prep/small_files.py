"""Read many small CSV files together.

polars needs more time to open one file than Python's csv module needs to read half a
megabyte. So the rows of small files with the same header are copied as text into one file,
and the types of the columns of all these files are found in one pass over the copy.
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

# If there are fewer small files than this, each one is opened on its own.
MANY_FILES = 32
# A file of at most this many bytes is small.
SMALL_BYTES = 500_000
# No further file is added to a batch that holds at least this many values.
VALUES_IN_BATCH = 500_000


@dataclass
class SmallFile:
    """A small CSV file, with all of its rows as lists of text."""

    file: CsvFile
    rows: list[list[str]]


@dataclass
class Batch:
    """Consecutive small files with the same header, which are copied together."""

    files: list[SmallFile] = field(default_factory=list)
    value_count: int = 0

    @property
    def header(self) -> list[str]:
        """Return the names of the columns, which are the same in all files."""
        return self.files[0].file.header

    @property
    def column_names(self) -> list[str]:
        """Return the names "0", "1" and so on under which polars reads the columns."""
        return self.files[0].file.positions

    def can_take(self, small_file: SmallFile) -> bool:
        """Return whether the batch has room for a file, and the file has the same header."""
        if not self.files:
            return True
        has_room = self.value_count < VALUES_IN_BATCH
        return has_room and small_file.file.header == self.header

    def add(self, small_file: SmallFile) -> None:
        """Add a file to the batch."""
        self.files.append(small_file)
        self.value_count += len(small_file.rows) * len(small_file.file.header)


def is_small(path: Path) -> bool:
    """Return whether a file is small and not compressed.

    A small compressed file may hold a great many rows.
    """
    return path.stat().st_size <= SMALL_BYTES and not is_compressed(path)


def divide_into_batches(files: Iterable[SmallFile]) -> Iterator[Batch]:
    """Divide files, in their order, into batches of files with the same header."""
    batch = Batch()
    for small_file in files:
        if not batch.can_take(small_file):
            yield batch
            batch = Batch()
        batch.add(small_file)
    if batch.files:
        yield batch


def open_batch(batch: Batch, scratch: Path, options: ReadOptions) -> list[Source]:
    """Open each file of a batch as a source whose columns have types.

    The rows of all files are copied as text into one file in the folder `scratch`. Each
    source reads its rows from this copy. Raises OSError if the disk is full.
    """
    all_rows = _stack_rows(batch)
    columns_by_file = _infer_columns_by_file(batch, all_rows, options)
    copy_path = scratch / f"{uuid.uuid4().hex}.arrow"
    all_rows.write_ipc(copy_path)
    copied_rows = pl.scan_ipc(copy_path, glob=False).select(batch.column_names)

    sources = []
    offset = 0
    for small_file, inferred_columns in zip(batch.files, columns_by_file, strict=True):
        row_count = len(small_file.rows)
        rows_of_file = copied_rows.slice(offset, row_count)
        columns = build_columns(inferred_columns, options)
        file = small_file.file
        sources.append(Source(file.name, rows_of_file, columns, csv_file=file))
        offset += row_count
    return sources


def _infer_columns_by_file(
    batch: Batch, all_rows: pl.DataFrame, options: ReadOptions
) -> list[list[InferredColumn]]:
    """Infer the types of the columns of each file in a batch.

    `all_rows` are the stacked rows of the files. Returns a list for each file, in their
    order, with the file's inferred columns.
    """
    parsers = list_column_parsers(batch.header, options)
    # A fit is the first parser that accepts all values of a column in a file, with the
    # counts of these values.
    fits_by_file = find_fits(all_rows, parsers)
    fits_of_empty_file = list_fits_of_empty_file(parsers)
    texts = [pl.col(name) for name in batch.column_names]
    stripped_texts = [text.str.strip_chars() for text in texts]

    @cache
    def parse_column(position: int, parser: Parser) -> ParsedText:
        """Return the column at this position, parsed.

        `@cache` saves time and memory: most files of a batch need the same parsers, and so
        share the same polars expressions.
        """
        return parser.parse(texts[position], stripped_texts[position])

    columns_by_file = []
    for file_number in range(len(batch.files)):
        # Only files with rows are in `fits_by_file`.
        fits = fits_by_file.get(file_number, fits_of_empty_file)
        inferred_columns = [
            InferredColumn(
                header=batch.header[position],
                stripped=stripped_texts[position],
                parsed=parse_column(position, fit.parser),
                counts=fit.counts,
            )
            for position, fit in enumerate(fits)
        ]
        columns_by_file.append(inferred_columns)
    return columns_by_file


def _stack_rows(batch: Batch) -> pl.DataFrame:
    """Stack the rows of all files in a batch as columns of text.

    A column FILE holds the number of each row's file in the batch.
    """
    rows: list[list[str]] = []
    file_numbers: list[int] = []
    for file_number, small_file in enumerate(batch.files):
        rows += small_file.rows
        file_numbers += [file_number] * len(small_file.rows)

    columns = [pl.Series(FILE, file_numbers, pl.UInt32)]
    for position, name in enumerate(batch.column_names):
        texts = [row[position] for row in rows]
        columns.append(pl.Series(name, texts, pl.String))
    # Empty text becomes null, because polars also reads an empty value of a file as null.
    return pl.DataFrame(columns).with_columns(pl.col(pl.String).replace("", None))
