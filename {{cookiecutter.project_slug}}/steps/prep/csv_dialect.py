"""How a CSV file is written: its packing, encoding, delimiter, header and quotes.

polars reads a plain file as it is. Any other file (packed by zip, bz2 or xz, in another
encoding, with odd quotes, line ends or blank lines) is first copied row by row into a
Parquet file of text, by Python's csv module, which names the line that is wrong.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import polars as pl
from sources import DataError

DELIMITERS = ",;\t|"
START_BYTES = 65_536  # of a file, in which its delimiter and odd bytes are looked for
BLOCK_BYTES = 2**20
COPIED_ROWS = 10_000  # at a time

csv.field_size_limit(2**31 - 1)


@dataclass
class CsvFile:
    """A CSV file whose dialect is known.

    `skipped_lines` stand before the header (`sep=;`). polars reads the columns under the
    `positions` "0", "1" and so on, because it takes some names for patterns.
    """

    path: Path
    name: str
    encoding: str
    delimiter: str
    skipped_lines: int
    header: list[str]

    @property
    def positions(self) -> list[str]:
        """Return the names under which polars reads the columns."""
        return [str(position) for position in range(len(self.header))]

    def open_text(self) -> IO[str]:
        """Open the file, unpacked and decoded."""
        return open_text(self.path, self.encoding)

    def count_row_bytes(self) -> int:
        """Count the bytes of all rows, each with one byte for its end.

        Returns 0 if the values of a row cannot add up to its bytes, because the file is
        packed or holds quotes.
        """
        size = 0
        block = b""
        with open_unpacked(self.path) as file:
            is_packed = not isinstance(file, io.BufferedReader)
            if is_packed or b'"' in file.readline():
                return 0
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                if b'"' in block:
                    return 0
                # To ask whether there is any is quicker than to count them.
                returns = block.count(b"\r") if b"\r" in block else 0
                size += len(block) - returns
        lacks_last_line_end = bool(block) and not block.endswith(b"\n")
        return size + lacks_last_line_end

    def is_plain(self) -> bool:
        """Return whether polars can read the file, as far as its start tells."""
        is_packed = self.path.name.lower().endswith((".bz2", ".xz", ".zip"))
        if is_packed or self.skipped_lines or self.encoding != "utf-8-sig":
            return False
        with open_unpacked(self.path) as file:
            start = file.read(START_BYTES)
        has_lone_return = re.search(rb"\r[^\n]", start)
        has_blank_line = start.lstrip(b"\r\n") != start
        return not has_lone_return and not has_blank_line

    def scan(self) -> pl.LazyFrame:
        """Return the rows as polars reads them: text, under the names in `positions`."""
        return pl.scan_csv(
            self.path,
            glob=False,
            separator=self.delimiter,
            new_columns=self.positions,
            infer_schema=False,
        )

    def has_odd_lines(self) -> bool:
        """Return whether polars and Python's csv module may read some line differently.

        A line is odd if it has not one value for each column, or quotes within a value.
        """
        lines = pl.scan_csv(
            self.path,
            glob=False,
            separator="\x1f",
            quote_char=None,
            new_columns=["line"],
            infer_schema=False,
        )
        line = pl.col("line")
        delimiter = re.escape(self.delimiter)
        has_quote = line.str.contains('"', literal=True).fill_null(False)
        if self._has_odd_line(lines.filter(~has_quote), line, "\r"):
            return True
        # Each quoted value becomes one sign, behind which only a delimiter may stand.
        without_quoted_values = line.str.replace_all(
            rf'(^|{delimiter})"(?:[^"]|"")*"', "${1}\x1f"
        )
        odd_signs = rf'["\r]|\x1f[^{delimiter}]'
        return self._has_odd_line(
            lines.filter(has_quote), without_quoted_values, odd_signs
        )

    def _has_odd_line(self, lines: pl.LazyFrame, text: pl.Expr, odd_signs: str) -> bool:
        """Return whether a line has odd signs, or not one value for each column."""
        columns = len(self.header)
        values = text.str.count_matches(self.delimiter, literal=True) + 1
        is_odd = (values != columns) | text.str.contains(odd_signs)
        # A blank line is null here; in a file of one column it is a missing value.
        is_odd = is_odd.fill_null(columns > 1)
        found_odd = lines.select(is_odd.any()).collect(engine="streaming").item()
        return bool(found_odd)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the values of each row, as Python's csv reads them.

        Blank lines are skipped, but in a file of one column they are missing values.
        Raises DataError on a row that has not one value for each column.
        """
        columns = len(self.header)
        with self.open_text() as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            try:
                for _ in range(self.skipped_lines):
                    next(reader)
                next(filter(None, reader), None)  # the header
                for values in reader:
                    if len(values) == columns:
                        yield reader.line_num, values
                    elif columns == 1 and not values:
                        yield reader.line_num, [""]
                    elif len(values) > 1 or "".join(values).strip():
                        raise DataError(
                            f"{self.name}, line {reader.line_num}: {len(values)} values"
                            f" where the first line names {columns} columns."
                        )
            except csv.Error as error:
                raise DataError(
                    f"{self.name}, line {reader.line_num}: {error}."
                ) from None

    def copy_to_parquet(self, copy: Path) -> None:
        """Write all rows as a Parquet file of text, under the names in `positions`."""
        # pyarrow takes as long to import as polars, and few files need it.
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(position, pa.string()) for position in self.positions])
        rows = self.rows()
        with pq.ParquetWriter(copy, schema) as writer:
            while batch := [values for _, values in islice(rows, COPIED_ROWS)]:
                columns = [pa.array(values, pa.string()) for values in zip(*batch)]
                writer.write_table(pa.table(columns, schema=schema))


def detect_dialect(path: Path, name: str, encoding: str) -> CsvFile:
    """Find out how a CSV file is written; the delimiter makes most columns of the header.

    Raises UnicodeError if the file is not text in this encoding, and DataError if it is
    empty or names a column twice.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_BYTES)
        if "\0" in start or start.startswith("PAR1"):
            raise UnicodeError(f"{name} is not text in {encoding}.")
        # Excel writes such a first line.
        declaration = re.match(r'"?sep=(.)"?\r?\n', start)
        delimiters = declaration[1] if declaration else DELIMITERS
        headers: dict[str, list[str]] = {}
        for delimiter in delimiters:
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            if declaration:
                next(reader)
            headers[delimiter] = next(filter(None, reader), [])
    delimiter = max(headers, key=lambda delimiter: len(headers[delimiter]))
    header = [column.strip() for column in headers[delimiter]]
    if not header:
        raise DataError(f"{name} is empty.")
    for position, column in enumerate(header):
        if column and column in header[:position]:
            raise DataError(
                f"{name}: the first line names the column '{column}' twice."
            )
    return CsvFile(
        path=path,
        name=name,
        encoding=encoding,
        delimiter=delimiter,
        skipped_lines=1 if declaration else 0,
        header=header,
    )


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file, unpacked and decoded, with its line ends as they are."""
    return io.TextIOWrapper(open_unpacked(path), encoding, newline="")


def open_unpacked(path: Path) -> IO[bytes]:
    """Open the bytes of a file, unpacked by what its first bytes say.

    Raises DataError if a zip archive does not hold exactly one CSV file.
    """
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start.startswith(b"\xfd7zXZ"):
        return lzma.open(path)
    if start.startswith(b"PK\x03\x04"):
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


def check_encoding(encoding: str) -> None:
    """Raise DataError if Python does not know a text encoding of this name."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise DataError(
            f"data.encoding in settings.yml: Python knows no '{encoding}'."
        ) from None


def detect_unicode(path: Path) -> str:
    """Return utf-16 if a file begins with its byte order mark, else utf-8-sig."""
    with open_unpacked(path) as file:
        has_utf_16_mark = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return "utf-16" if has_utf_16_mark else "utf-8-sig"


def explain_undecodable(path: Path, name: str) -> str:
    """Return why a file cannot be decoded, with the encoding to write in settings.yml."""
    with open_unpacked(path) as file:
        start = file.read(START_BYTES)
        is_parquet = start.startswith(b"PAR1")
        # Every second byte of Latin text in UTF-16 is zero.
        if not is_parquet and start.count(b"\0") * 3 > len(start):
            order = "le" if start[1:2] == b"\0" else "be"
            return f"{name} is UTF-16: write data.encoding: utf-16-{order} in settings.yml."
        if is_parquet or b"\0" in start:
            return f"{name} is not a CSV file, though its name says so."
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                guess = line.decode("cp1252", "replace").strip()[:60]
                return (
                    f"{name}, line {number}: is not UTF-8: if it should read '{guess}',"
                    " write data.encoding: cp1252 in settings.yml, else the encoding"
                    " that the file was saved in."
                )
    return f"{name} is not a CSV file in UTF-8."
