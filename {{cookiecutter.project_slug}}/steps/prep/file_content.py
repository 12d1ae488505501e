"""Telling by its first bytes what a file is that is no table, though its name says so."""

from __future__ import annotations

import os
import re
import zipfile
from functools import partial
from pathlib import Path

from csv_dialect import BLOCK_BYTES, open_unpacked
from sources import DataError

START_BYTES = 512
GZIP_SIZE_BYTES = 4
# In bytes. A longer line would take twelve times its size in memory.
LONGEST_LINE = 2**24
# So many bytes are read at such intervals to see that lines end all along a file.
LINE_END_BYTES = 2**16
LINE_END_INTERVAL = LONGEST_LINE // 2

SAVE_SHEET = "save its sheet as CSV UTF-8 in Excel or LibreOffice"
USE_PANDAS = "read it with pandas and write it with to_parquet()"
UNPACK = "unpack it into the folder"

# The first bytes of a file, what it is, and how its data can be read.
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch it by `git lfs pull`"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)", SAVE_SHEET),
    (b"ORC", "an ORC file", USE_PANDAS),
    (b"Obj\x01", "an Avro file", "convert it to Parquet, for example with Spark"),
    (b"ARROW1", "an Arrow (Feather) file", USE_PANDAS),
    (b"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    (b"\x89HDF\r\n", "an HDF5 file", USE_PANDAS),
    (b"<stata_dta>", "a Stata file", USE_PANDAS),
    (b"$FL2", "an SPSS file", USE_PANDAS),
    (b"$FL3", "an SPSS file", USE_PANDAS),
    (b"\x93NUMPY", "a NumPy array", "write it with pandas as CSV or Parquet"),
    (b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (b"%PDF", "a PDF document", "export its table as CSV"),
    (b"{\\rtf", "an RTF document", "export its table as CSV"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", UNPACK),
    (b"\x04\x22\x4d\x18", "packed by lz4", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
)
# The same for text in which blanks and the case of letters do not matter.
TEXT_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (rb"<(!doctype|html)", "a web page", "download the file itself"),
    (rb"<\?xml", "XML", "export its table as CSV"),
    (
        rb'\{\s*"[^"]*"\s*:',
        "JSON",
        "convert it to CSV or Parquet, for example by pandas",
    ),
    (rb"\[\s*\{", "JSON", "convert it to CSV or Parquet, for example by pandas"),
    (rb"\{\s*\}", "JSON", "convert it to CSV or Parquet, for example by pandas"),
)
# A file in a zip archive that makes it a workbook.
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
    """Raise DataError if a file is empty, or by its first bytes no CSV and no Parquet."""
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if not start:
        raise DataError(f"{name} is empty.")
    for signature, kind, advice in SIGNATURES:
        if start.startswith(signature):
            raise DataError(f"{name} is {kind}, not a table: {advice}.")
    for pattern, kind, advice in TEXT_SIGNATURES:
        if re.match(rb"(\xef\xbb\xbf)?\s*" + pattern, start, re.IGNORECASE):
            raise DataError(f"{name} is {kind}, not a table: {advice}.")
    if start[257:262] == b"ustar":
        raise DataError(f"{name} is a tar archive, not a table: {UNPACK}.")
    if start.startswith(b"PK\x03\x04"):
        _check_zipped(path, name)
    for mark in BYTE_ORDER_MARKS:
        if start.startswith(mark * 2):
            raise DataError(
                f"{name} begins with two byte order marks (U+FEFF): delete one, or save"
                " the file again as UTF-8."
            )


def _check_zipped(path: Path, name: str) -> None:
    """Raise DataError if a zip archive is a workbook."""
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
    for member, kind in WORKBOOKS.items():
        if member in members:
            raise DataError(f"{name} is {kind}, not a table: {SAVE_SHEET}.")


def check_line_lengths(path: Path, name: str) -> None:
    """Raise DataError if a line of a file that polars unpacks itself is too long to read.

    Python's csv module reads files that are packed otherwise, and has a limit of its own.
    """
    if _count_unpacked_bytes(path) <= LONGEST_LINE or _has_regular_line_ends(path):
        return
    start_of_line = 0
    end_of_block = 0
    with open_unpacked(path) as file:
        for block in iter(partial(file.read, BLOCK_BYTES), b""):
            line_end = block.rfind(b"\n")
            if line_end < 0:
                line_end = block.rfind(b"\r")
            if line_end >= 0:
                start_of_line = end_of_block + line_end + 1
            end_of_block += len(block)
            if end_of_block - start_of_line > LONGEST_LINE:
                raise DataError(
                    f"{name} has a line of more than {LONGEST_LINE // 2**20} MB, which"
                    f" begins at byte {start_of_line}: it is too long to be read as a row"
                    " of a table."
                )


def _has_regular_line_ends(path: Path) -> bool:
    """Return whether a line ends at regular intervals, so that no line can be too long.

    Only a small part of a file that is not packed is read for this.
    """
    with open_unpacked(path) as file:
        while block := file.read(LINE_END_BYTES):
            if b"\n" not in block and b"\r" not in block:
                return False
            file.seek(LINE_END_INTERVAL - len(block), os.SEEK_CUR)
    return True


def _count_unpacked_bytes(path: Path) -> int:
    """Return the size of a file, as a gzip file says it of its content in its last bytes."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, os.SEEK_END)
        if not is_gzip or size < GZIP_SIZE_BYTES:
            return size
        file.seek(-GZIP_SIZE_BYTES, os.SEEK_END)
        return int.from_bytes(file.read(), "little")
