"""Find out how the text of a file is encoded."""

from __future__ import annotations

import io
from pathlib import Path

from sources import DataError
from unpack import open_decompressed

START_BYTES = 65_536  # This many bytes are read to recognize UTF-16.
# A message shows this many bytes before and after the first one that is not UTF-8.
SHOWN_BYTES = 25


def check_encoding(encoding: str) -> None:
    """Raise DataError if Python does not know a text encoding of this name."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise DataError(
            f"data.encoding in settings.yml: Python knows no '{encoding}'."
        ) from None


def detect_unicode(path: Path) -> str:
    """Return the encoding of Unicode that the byte order mark of a file names.

    It is utf-32 or utf-16, or else utf-8-sig, which is UTF-8 with or without a mark.
    """
    with open_decompressed(path) as file:
        start = file.read(4)
    # The mark of UTF-32 begins with the one of UTF-16, so it is looked for first.
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig"


def explain_undecodable(path: Path, name: str) -> str:
    """Return sentences on why a file cannot be decoded, and on what to do about it."""
    with open_decompressed(path) as file:
        start = file.read(START_BYTES)
        is_parquet = start.startswith(b"PAR1")
        # In UTF-16, about every second byte of Latin text is zero. A third is enough.
        if not is_parquet and start.count(b"\0") * 3 > len(start):
            order = "le" if start[1:2] == b"\0" else "be"
            return f"{name} is UTF-16: write data.encoding: utf-16-{order} in settings.yml."
        if is_parquet or b"\0" in start:
            return f"{name} is not a CSV file, though its name says so."
        file.seek(0)
        # Decoding each byte as one character divides the lines as Python's csv module does,
        # which also ends them at a lone "\r".
        lines = io.TextIOWrapper(file, "latin-1", newline="")
        for number, text in enumerate(lines, 1):
            line = text.encode("latin-1")
            try:
                line.decode()
            except UnicodeDecodeError as error:
                first = max(0, error.start - SHOWN_BYTES)
                excerpt = line[first : error.start + SHOWN_BYTES]
                guess = excerpt.decode("cp1252", "replace").strip()
                return (
                    f"{name}, line {number} is not UTF-8. If it should read '{guess}',"
                    " write data.encoding: cp1252 in settings.yml. Otherwise, write the"
                    " encoding in which the file was saved."
                )
    return f"{name} is not a CSV file in UTF-8."
