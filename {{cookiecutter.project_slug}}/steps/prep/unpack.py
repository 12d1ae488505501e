"""Open files that may be compressed, as text or as bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import IO

from sources import DataError

# The first bytes of compressed files, by which the format is recognized.
GZIP_START = b"\x1f\x8b"
BZ2_START = b"BZh"
XZ_START = b"\xfd7zXZ"
ZIP_START = b"PK\x03\x04"
COMPRESSED_STARTS = (GZIP_START, BZ2_START, XZ_START, ZIP_START)
LONGEST_START = max(len(start) for start in COMPRESSED_STARTS)


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file as text, decompress it if necessary, and keep its line ends."""
    return io.TextIOWrapper(open_decompressed(path), encoding, newline="")


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed, judged by its first bytes."""
    return read_start(path).startswith(COMPRESSED_STARTS)


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file, without decompressing it."""
    with path.open("rb") as file:
        return file.read(LONGEST_START)


def open_decompressed(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, and decompress it if necessary.

    Raises DataError if the file is a zip archive that does not hold exactly one CSV file.
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
    """Open the CSV file in a zip archive.

    Raises DataError if the archive holds no CSV file or more than one, or if Python cannot
    unpack the file.
    """
    archive = zipfile.ZipFile(path)
    csv_files = [name for name in archive.namelist() if _is_visible_csv(name)]
    if not csv_files:
        raise DataError(
            f"{path.name} holds no CSV file: put a CSV file into the archive, or remove the"
            " archive."
        )
    if len(csv_files) > 1:
        raise DataError(
            f"{path.name} holds {len(csv_files)} CSV files, but an archive may hold only"
            " one: unpack the archive."
        )
    try:
        return archive.open(csv_files[0])
    except RuntimeError:
        # This includes NotImplementedError, which zipfile raises for the compression.
        raise DataError(
            f"{path.name} has a password, or is compressed by a method that Python cannot"
            " unpack, such as Deflate64: unpack the archive, and read the CSV file itself."
        ) from None


def _is_visible_csv(name: str) -> bool:
    """Return whether a file in an archive is CSV, and is not hidden by its name.

    macOS adds hidden files such as `__MACOSX/._a.csv`.
    """
    is_csv = name.lower().endswith((".csv", ".tsv"))
    is_hidden = Path(name).name.startswith((".", "_"))
    return is_csv and not is_hidden
