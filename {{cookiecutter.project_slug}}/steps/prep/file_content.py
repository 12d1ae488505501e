"""Recognize files that are named like tables but are not, by their first bytes."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from csv_file import BLOCK_BYTES
from sources import DataError
from unpack import GZIP_START, ZIP_START, open_decompressed

# This many bytes at the start of a file show what it is.
START_BYTES = 512
# At its end, a gzip file stores the size of the unpacked file in this many bytes.
GZIP_SIZE_BYTES = 4
# In bytes. To read a line, polars needs twelve times its size in memory.
LONGEST_LINE = 2**24
# At intervals of this many bytes, a sample of this size is searched for the end of a line.
SAMPLE_INTERVAL = LONGEST_LINE // 2
SAMPLE_BYTES = 2**16

SAVE_SHEET = "save its sheet as CSV UTF-8 in Excel or LibreOffice"
USE_PANDAS = "read it with pandas and write it with to_parquet()"
UNPACK = "unpack it into the folder"
CONVERT_JSON = "convert it to CSV or Parquet, for example by pandas"


@dataclass(frozen=True)
class Signature:
    """The first bytes of a kind of file, and advice on how to get a table from it."""

    start: bytes
    #: The kind of file, such as "a PDF document".
    kind: str
    #: What to do instead, to end a sentence.
    advice: str


SIGNATURES = (
    Signature(
        b"version https://git-lfs", "a pointer of Git LFS", "fetch it by `git lfs pull`"
    ),
    Signature(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)", SAVE_SHEET
    ),
    Signature(
        b"Obj\x01", "an Avro file", "convert it to Parquet, for example with Spark"
    ),
    Signature(b"ARROW1\0\0", "an Arrow (Feather) file", USE_PANDAS),
    Signature(b"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    Signature(b"\x89HDF\r\n", "an HDF5 file", USE_PANDAS),
    Signature(b"<stata_dta>", "a Stata file", USE_PANDAS),
    Signature(b"$FL2@(#)", "an SPSS file", USE_PANDAS),
    Signature(b"$FL3@(#)", "an SPSS file", USE_PANDAS),
    Signature(b"\x93NUMPY", "a NumPy array", "write it with pandas as CSV or Parquet"),
    Signature(b"%PDF", "a PDF document", "export its table as CSV"),
    Signature(b"{\\rtf", "an RTF document", "export its table as CSV"),
    Signature(b"\x28\xb5\x2f\xfd", "packed by zstd", UNPACK),
    Signature(b"\x04\x22\x4d\x18", "packed by lz4", UNPACK),
    Signature(b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    Signature(b"Rar!\x1a\x07", "a RAR archive", UNPACK),
)
# A CSV file may begin with the same letters, for example with the name of a column ORCID.
# So a file is only taken for one of these if it also has a control character.
LETTER_SIGNATURES = (
    Signature(b"ORC", "an ORC file", USE_PANDAS),
    Signature(b"PARE", "an encrypted Parquet file", "write it without encryption"),
)
# The control characters that do not occur in a table of text, unlike tabs and line ends.
CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0e-\x1f]")
# For JSON and markup, `start` is a regular expression. Case and leading spaces are ignored.
TEXT_SIGNATURES = (
    Signature(rb"<(!doctype|html)", "a web page", "download the file itself"),
    Signature(rb"<\?xml", "XML", "export its table as CSV"),
    Signature(rb'\{\s*"[^"]*"\s*:', "JSON", CONVERT_JSON),
    Signature(rb"\[\s*\{", "JSON", CONVERT_JSON),
    Signature(rb"\{\s*\}", "JSON", CONVERT_JSON),
)
# The files by which a zip archive is recognized as a workbook.
WORKBOOKS = {
    "xl/workbook.xml": "an Excel workbook (.xlsx)",
    "xl/workbook.bin": "an Excel workbook (.xlsb)",
    "content.xml": "an OpenDocument sheet (.ods)",
}
BYTE_ORDER_MARKS = (
    b"\xef\xbb\xbf",
    b"\xff\xfe\0\0",
    b"\0\0\xfe\xff",
    b"\xff\xfe",
    b"\xfe\xff",
)


def check_content(path: Path, name: str) -> None:
    """Raise DataError if a file is empty, or if its content shows that it is no table.

    Messages call the file `name`.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if not start:
        raise DataError(f"{name} is empty.")
    signature = _find_signature(start)
    if signature is not None:
        raise DataError(f"{name} is {signature.kind}, not a table: {signature.advice}.")
    # The signature of a tar archive is not at its start, so it is not among SIGNATURES.
    is_tar = start[257:262] == b"ustar"
    if is_tar:
        raise DataError(f"{name} is a tar archive, not a table: {UNPACK}.")
    if start.startswith(ZIP_START):
        _check_zipped(path, name)
    for mark in BYTE_ORDER_MARKS:
        has_two_marks = start.startswith(mark * 2)
        if has_two_marks:
            raise DataError(
                f"{name} begins with two byte order marks (U+FEFF): delete one, or save"
                " the file again as UTF-8."
            )


def _find_signature(start: bytes) -> Signature | None:
    """Return the signature of the kind of file that `start`, its first bytes, belongs to.

    Returns None if the file may be a table.
    """
    signatures: tuple[Signature, ...] = SIGNATURES
    if CONTROL_CHARACTER.search(start):
        signatures += LETTER_SIGNATURES
    for signature in signatures:
        if start.startswith(signature.start):
            return signature
    for signature in TEXT_SIGNATURES:
        byte_order_mark_and_spaces = rb"(\xef\xbb\xbf)?\s*"
        pattern = byte_order_mark_and_spaces + signature.start
        if re.match(pattern, start, re.IGNORECASE):
            return signature
    return None


def _check_zipped(path: Path, name: str) -> None:
    """Raise DataError if a zip archive is a workbook, such as an .xlsx file."""
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
    for member, kind in WORKBOOKS.items():
        if member in members:
            raise DataError(f"{name} is {kind}, not a table: {SAVE_SHEET}.")


def check_line_lengths(path: Path, name: str) -> None:
    """Raise DataError if a line of a CSV file is too long for polars to read it.

    Messages call the file `name`. A packed file other than gzip, such as .bz2, is checked
    only if the packed file itself is large. This is enough, because polars does not read
    these formats: Python's csv module does, and reports values that are too long.
    """
    # Nearly all files pass one of these quick checks.
    if _count_unpacked_bytes(path) <= LONGEST_LINE or _lines_are_surely_short(path):
        return

    # The position of the last line that has begun so far, in bytes of the unpacked file.
    line_start = 0
    bytes_read = 0
    with open_decompressed(path) as file:
        for block in iter(partial(file.read, BLOCK_BYTES), b""):
            last_line_end = _find_last_line_end(block)
            if last_line_end is not None:
                line_start = bytes_read + last_line_end + 1
            bytes_read += len(block)
            if bytes_read - line_start > LONGEST_LINE:
                raise DataError(
                    f"{name} has a line of more than {LONGEST_LINE // 2**20} MB, which"
                    f" begins at byte {line_start}: it is too long to be read as a row of"
                    " a table."
                )


def _find_last_line_end(block: bytes) -> int | None:
    """Return the position of the last line end in a block of a file, or None."""
    position = block.rfind(b"\n")
    if position < 0:
        # Lines of old Mac files end with a carriage return alone.
        position = block.rfind(b"\r")
    return position if position >= 0 else None


def _lines_are_surely_short(path: Path) -> bool:
    """Return whether samples of a file show that no line can be too long.

    The samples are taken at intervals of half the length LONGEST_LINE. A line of this
    length would fill at least one of the samples, so that the sample would hold no line
    end. Unless the file is packed, only the samples are read.
    """
    with open_decompressed(path) as file:
        while sample := file.read(SAMPLE_BYTES):
            has_line_end = b"\n" in sample or b"\r" in sample
            if not has_line_end:
                return False
            # Go to the start of the next sample.
            file.seek(SAMPLE_INTERVAL - len(sample), os.SEEK_CUR)
    return True


def _count_unpacked_bytes(path: Path) -> int:
    """Return the size of a file in bytes, or for gzip the size of the unpacked file.

    For other packed files, such as .bz2, the result is the packed size.
    """
    with path.open("rb") as file:
        is_gzip = file.read(len(GZIP_START)) == GZIP_START
        size = file.seek(0, os.SEEK_END)
        if not is_gzip or size < GZIP_SIZE_BYTES:
            return size
        # gzip stores the unpacked size in its last bytes.
        file.seek(-GZIP_SIZE_BYTES, os.SEEK_END)
        return int.from_bytes(file.read(), "little")
