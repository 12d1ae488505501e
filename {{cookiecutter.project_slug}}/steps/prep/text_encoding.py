"""Detect how the text of a file is encoded, and explain why a file cannot be decoded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

from sources import DataError
from unpack import open_decompressed

# This many bytes at the start of a file are read to recognize UTF-16.
START_BYTES = 65_536
# A message shows this many bytes before and after the first byte that is not UTF-8.
SHOWN_BYTES = 25
# In UTF-16, about every second byte of Latin text is zero. A file with more than this share
# of zero bytes is taken for UTF-16. (UTF-32 without a byte order mark is hardly ever used.)
MIN_ZERO_SHARE = 1 / 3


def check_encoding(encoding: str) -> None:
    """Raise DataError if Python does not know a text encoding of this name."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise DataError(
            f"data.encoding in settings.yml is '{encoding}', which is not the name of a text"
            " encoding that Python knows."
        ) from None


def detect_unicode(path: Path) -> str:
    """Return the Unicode encoding of a file, judged by its byte order mark.

    Such a mark is a character at the start of some files. Returns "utf-32" or "utf-16" if
    the file has the mark of this encoding. Otherwise returns "utf-8-sig", which reads UTF-8
    with or without a mark.
    """
    with open_decompressed(path) as file:
        start = file.read(4)
    # The mark of UTF-32 begins with the mark of UTF-16, so UTF-32 is tried first.
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig"


def explain_undecodable(path: Path, name: str) -> str:
    """Explain why a CSV file cannot be decoded, and what to do about it.

    `name` is the name of the file in the message.
    """
    with open_decompressed(path) as file:
        start = file.read(START_BYTES)
        not_csv = f"{name} is not a CSV file, despite the ending of its name."
        marked_encoding = detect_unicode(path)
        if marked_encoding in ("utf-16", "utf-32"):
            return (
                f"{name} is cut short or damaged: it begins with the byte order mark of"
                f" {marked_encoding.upper()}, but not all of it can be decoded."
            )
        zero_bytes = start.count(b"\0")
        # The first column of a CSV file may be called PAR1, too.
        is_parquet = start.startswith(b"PAR1") and zero_bytes > 0
        if is_parquet:
            return not_csv
        if zero_bytes > len(start) * MIN_ZERO_SHARE:
            # In little-endian order, the zero comes second in each pair of bytes.
            byte_order = "le" if start[1:2] == b"\0" else "be"
            return (
                f"{name} is UTF-16: write data.encoding: utf-16-{byte_order} in"
                " settings.yml."
            )
        if zero_bytes > 0:
            # Text in other encodings has no zero bytes at all.
            return not_csv
        file.seek(0)
        return _explain_undecodable_line(file, name)


def _explain_undecodable_line(file: IO[bytes], name: str) -> str:
    """Name the first line that is not UTF-8, and suggest reading the file as cp1252.

    `name` is the name of the file in the message.
    """
    # latin-1 reads each byte as one character, so that any file can be divided into lines.
    # Like Python's csv module, this also ends lines at a lone "\r".
    lines = io.TextIOWrapper(file, "latin-1", newline="")
    for number, text in enumerate(lines, start=1):
        line = text.encode("latin-1")
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            first_shown = max(0, error.start - SHOWN_BYTES)
            excerpt = line[first_shown : error.start + SHOWN_BYTES]
            guess = excerpt.decode("cp1252", "replace").strip()
            return (
                f"{name}, line {number} is not UTF-8. If it should read '{guess}',"
                " write data.encoding: cp1252 in settings.yml. Otherwise, set data.encoding"
                " to the encoding in which the file was saved."
            )
    # Every line is UTF-8, so no line can be named.
    return f"{name} is not a CSV file in UTF-8."
