"""Open packed files as text or bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import IO

from sources import DataError

# The first bytes of packed files.
GZIP_START = b"\x1f\x8b"
BZ2_START = b"BZh"
XZ_START = b"\xfd7zXZ"
ZIP_START = b"PK\x03\x04"
PACKED_STARTS = (GZIP_START, BZ2_START, XZ_START, ZIP_START)
LONGEST_START = max(len(start) for start in PACKED_STARTS)


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file as text: unpack and decode it, and keep its line ends."""
    return io.TextIOWrapper(open_decompressed(path), encoding, newline="")


def is_compressed(path: Path) -> bool:
    """Return whether the first bytes of a file show that it is packed."""
    return read_start(path).startswith(PACKED_STARTS)


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file, without unpacking it."""
    with path.open("rb") as file:
        return file.read(LONGEST_START)


def open_decompressed(path: Path) -> IO[bytes]:
    """Open the bytes of a file, and unpack them if the file is packed.

    Raises DataError if it is a zip archive that does not hold exactly one CSV file.
    """
    start = read_start(path)
    if start.startswith(GZIP_START):
        return gzip.open(path)  # type: ignore[return-value]
    if start.startswith(BZ2_START):
        return bz2.open(path)
    if start.startswith(XZ_START):
        return lzma.open(path)
    if start.startswith(ZIP_START):
        return _open_zipped(path)
    return path.open("rb")


def _open_zipped(path: Path) -> IO[bytes]:
    """Open the CSV file in a zip archive. Raises DataError if there is not exactly one."""
    archive = zipfile.ZipFile(path)
    csv_files = [
        name
        for name in archive.namelist()
        if name.lower().endswith((".csv", ".tsv")) and Path(name).name[0] not in "._"
    ]
    if len(csv_files) != 1:
        raise DataError(
            f"{path.name} holds {len(csv_files)} CSV files, not one: unpack it."
        )
    return archive.open(csv_files[0])
