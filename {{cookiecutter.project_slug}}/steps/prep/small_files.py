"""Reading many small CSV files together.

To open a file on its own takes polars longer than it takes Python's csv module to read
half a megabyte. So the rows of small files with the same header are copied as text into
one file, and the types of all their columns are found in one pass.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from candidates import find_fits
from csv_dialect import CsvFile
from sources import FILE, ColumnRoles, Source
from text_values import TextFormat
from type_inference import build_columns, fit_all_candidates, list_builders

MANY_FILES = 32  # with fewer, each file is opened on its own
SMALL_BYTES = 500_000
VALUES_IN_BATCH = 500_000  # of the files that are copied together

PACKED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK")


@dataclass
class SmallFile:
    """A small CSV file with all of its rows."""

    file: CsvFile
    rows: list[list[str]]


@dataclass
class Batch:
    """Small files that follow each other and have the same header."""

    files: list[SmallFile] = field(default_factory=list)
    values: int = 0

    def takes(self, small: SmallFile) -> bool:
        """Return whether a file can be copied together with these."""
        if not self.files:
            return True
        has_room = self.values < VALUES_IN_BATCH
        return has_room and small.file.header == self.files[0].file.header

    def add(self, small: SmallFile) -> None:
        """Add a file."""
        self.files.append(small)
        self.values += len(small.rows) * len(small.file.header)


def is_small(path: Path) -> bool:
    """Return whether a file is small and not packed, so that its rows are few."""
    if path.stat().st_size > SMALL_BYTES:
        return False
    with path.open("rb") as file:
        return not file.read(6).startswith(PACKED_STARTS)


def divide_into_batches(files: Iterable[SmallFile]) -> Iterator[Batch]:
    """Yield the files in their order, as batches that can be copied together."""
    batch = Batch()
    for small in files:
        if not batch.takes(small):
            yield batch
            batch = Batch()
        batch.add(small)
    if batch.files:
        yield batch


def open_batch(
    batch: Batch, scratch: Path, text_format: TextFormat, roles: ColumnRoles
) -> list[Source]:
    """Return the files of a batch with the types that their columns have in all rows.

    Their text is copied into the folder `scratch`. Raises OSError if it has no room.
    """
    header = batch.files[0].file.header
    texts = _stack_texts(batch)
    # The rows are read from a copy, so that their memory is free for the next batch.
    copy = scratch / f"{uuid.uuid4().hex}.arrow"
    texts.write_ipc(copy)
    copied = pl.scan_ipc(copy, glob=False)

    builders = list_builders(header, text_format, roles)
    fits_by_file = find_fits(texts, builders)
    positions = batch.files[0].file.positions
    stripped = {position: pl.col(position).str.strip_chars() for position in positions}

    sources = []
    start = 0
    for number, small in enumerate(batch.files):
        # A file without rows is not among the texts.
        fits = fits_by_file.get(number) or fit_all_candidates(builders)
        narrowest = [column_fits[0] for column_fits in fits]
        columns, _ = build_columns(header, narrowest, stripped, text_format, roles)
        rows = copied.select(positions).slice(start, len(small.rows))
        sources.append(Source(small.file.name, rows, columns))
        start += len(small.rows)
        small.rows = []
    return sources


def _stack_texts(batch: Batch) -> pl.DataFrame:
    """Return the rows of a batch as text, each with the number of its file in the batch."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, small in enumerate(batch.files):
        rows += small.rows
        numbers += [number] * len(small.rows)
    columns = [pl.Series(FILE, numbers, pl.UInt32)]
    for index, position in enumerate(batch.files[0].file.positions):
        values = [row[index] for row in rows]
        columns.append(pl.Series(position, values, pl.String))
    # An empty field is null, as it is where polars reads the file.
    return pl.DataFrame(columns).with_columns(pl.col(pl.String).replace("", None))
