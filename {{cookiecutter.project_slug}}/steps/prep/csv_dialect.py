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
from typing import IO, TYPE_CHECKING

import polars as pl
from sources import DataError
from text_values import USUAL_FORMAT, TextFormat

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = ",;\t|"
BLANK = " "  # as a delimiter, which any number of blanks is then
FIRST_LINES = 50  # of a file, in which the header and the delimiter are looked for
FEWEST_LINES = 2  # that make a table: one of names and one of values
START_BYTES = 65_536  # of a file, in which its delimiter and odd bytes are looked for
BLOCK_BYTES = 2**20
COPIED_ROWS = 10_000  # at a time

LONGEST_VALUE = 2**24  # in characters

csv.field_size_limit(LONGEST_VALUE)


@dataclass
class CsvFile:
    """A CSV file whose dialect is known.

    `skipped_lines` stand before the header, such as a title or `sep=;`. polars reads the columns under the
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
        if self.delimiter == BLANK:
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
            reader = _create_reader(file, self.delimiter, self.skipped_lines)
            try:
                next(filter(None, reader), None)  # the header
                for values in reader:
                    line = reader.line_num + self.skipped_lines
                    if self.delimiter == BLANK and len(values) == columns + 1:
                        # Blanks at the end of a line are no value.
                        values = values[:-1] if not values[-1] else values
                    if len(values) == columns:
                        yield line, values
                    elif columns == 1 and not values:
                        yield line, [""]
                    elif len(values) > 1 or "".join(values).strip():
                        raise DataError(
                            f"{self.name}, line {line}: {len(values)} values where the"
                            f" line of names has {columns} columns"
                            f"{self._suggest_settings()}."
                        )
            except csv.Error as error:
                line = reader.line_num + self.skipped_lines
                raise explain_csv_error(error, self.name, line) from None

    def _suggest_settings(self) -> str:
        """Return which settings may read an odd file, as the end of a sentence."""
        lines = self.read_first_lines()
        if len(self.header) == 1 and _hold_decimal_commas(lines[1:]):
            return (
                ": if it is one column of numbers with decimal commas, write"
                " data.decimal: ',' in settings.yml"
            )
        layout = find_layout(lines)
        if layout is None:
            return ""
        if layout.skipped_lines > self.skipped_lines:
            return layout.suggest_to_skip_lines()
        if layout.delimiter == BLANK:
            return (
                ": if blanks separate the columns, write data.delimiter: ' ' in"
                " settings.yml"
            )
        return ""

    def read_first_lines(self) -> list[str]:
        """Return the first lines of the file, those above the header too."""
        with self.open_text() as file:
            return list(islice(file, FIRST_LINES))

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


def explain_csv_error(error: csv.Error, name: str, line: int) -> DataError:
    """Return an error that names the line at which Python's csv module has stopped."""
    if "field limit" in str(error):
        return DataError(
            f"{name}, line {line}: a value has more than {LONGEST_VALUE // 2**20} million"
            " characters: shorten it, or close the quotes in which it stands."
        )
    return DataError(f"{name}, line {line}: {error}.")


@dataclass(frozen=True)
class Layout:
    """A delimiter that gives equally many values on each line behind some others."""

    delimiter: str
    skipped_lines: int
    columns: int

    def suggest_to_skip_lines(self) -> str:
        """Return which settings read the table below some lines, as the end of a note."""
        settings = f"data.skip_lines: {self.skipped_lines}"
        if self.delimiter == BLANK:
            settings += " and data.delimiter: ' '"
        return (
            f": if the names are in line {self.skipped_lines + 1}, write {settings} in"
            " settings.yml"
        )


def find_layout(lines: list[str]) -> Layout | None:
    """Return the layout in which the first lines of a file are a table, or None.

    It has as few lines before the table as possible, then as many columns.
    """
    lines = "".join(lines).rstrip().splitlines()
    layouts = []
    for delimiter in DELIMITERS + BLANK:
        counts = [_count_values(line, delimiter) for line in lines]
        columns = counts[-1] if counts else 0
        skipped_lines = len(counts)
        while skipped_lines and counts[skipped_lines - 1] == columns:
            skipped_lines -= 1
        if columns > 1 and len(counts) - skipped_lines >= FEWEST_LINES:
            layouts.append(Layout(delimiter, skipped_lines, columns))
    if not layouts:
        return None
    return min(layouts, key=lambda layout: (layout.skipped_lines, -layout.columns))


def _count_values(line: str, delimiter: str) -> int:
    """Count the values of a line."""
    if delimiter == BLANK:
        return len(line.split())
    return len(next(csv.reader([line], delimiter=delimiter), []))


def _hold_decimal_commas(lines: list[str]) -> bool:
    """Return whether each line is a number with a decimal comma."""
    return all(re.fullmatch(r"[+-]?\d*,\d+", line.strip()) for line in lines if line)


def detect_dialect(
    path: Path, name: str, encoding: str, text_format: TextFormat = USUAL_FORMAT
) -> CsvFile:
    """Find out how a CSV file is written, by the settings and by its first lines.

    Raises UnicodeError if the file is not text in this encoding, and DataError if it is
    empty or names a column twice.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_BYTES)
        if "\0" in start or start.startswith("PAR1"):
            raise UnicodeError(f"{name} is not text in {encoding}.")
        # Excel writes such a first line.
        declaration = re.match(r'"?sep=(.)"?\r?\n', start)
        skipped_lines = text_format.skip_lines
        if declaration:
            skipped_lines = max(1, skipped_lines)
        delimiters = DELIMITERS
        if text_format.delimiter:
            delimiters = text_format.delimiter
        elif declaration:
            delimiters = declaration[1]
        headers: dict[str, list[str]] = {}
        for delimiter in delimiters:
            file.seek(0)
            reader = _create_reader(file, delimiter, skipped_lines, strict=False)
            try:
                headers[delimiter] = next(filter(None, reader), [])
            except csv.Error as error:
                line = reader.line_num + skipped_lines
                raise explain_csv_error(error, name, line) from None
    delimiter = _choose_delimiter(headers, start, skipped_lines, text_format)
    header = [column.strip() for column in headers[delimiter]]
    if delimiter == BLANK and header and not header[-1]:
        header = header[:-1]
    if not header:
        raise DataError(f"{name} is empty.")
    for position, column in enumerate(header):
        if column and column in header[:position]:
            raise DataError(
                f"{name}: the first line names the column '{column}' twice"
                f"{suggest_header(header)}."
            )
    return CsvFile(
        path=path,
        name=name,
        encoding=encoding,
        delimiter=delimiter,
        skipped_lines=skipped_lines,
        header=header,
    )


def _create_reader(
    file: IO[str], delimiter: str, skipped_lines: int, *, strict: bool = True
) -> Reader:
    """Return a reader of the rows behind some lines, which do not count in `line_num`."""
    for _ in range(skipped_lines):
        file.readline()
    return csv.reader(
        file,
        delimiter=delimiter,
        skipinitialspace=delimiter == BLANK,
        strict=strict,
    )


def _choose_delimiter(
    headers: dict[str, list[str]],
    start: str,
    skipped_lines: int,
    text_format: TextFormat,
) -> str:
    """Return the delimiter that makes most columns of the header.

    One that makes as many values of the lines below is preferred.
    """
    columns = {delimiter: len(header) for delimiter, header in headers.items()}
    if max(columns.values()) == 1 and len(columns) > 1:
        # The file has one column, whose decimal numbers no delimiter may divide.
        columns.pop(text_format.decimal, None)

    def rank(delimiter: str) -> tuple[bool, int]:
        is_consistent = columns[delimiter] > 1 and _lines_have(
            columns[delimiter], start, delimiter, skipped_lines
        )
        return is_consistent, columns[delimiter]

    return max(columns, key=rank)


def _lines_have(columns: int, start: str, delimiter: str, skipped_lines: int) -> bool:
    """Return whether the first rows of a file have one value for each column."""
    reader = _create_reader(
        io.StringIO(start, newline=""), delimiter, skipped_lines, strict=False
    )
    rows = list(islice(filter(None, reader), FIRST_LINES))
    if len(start) == START_BYTES:
        rows = rows[:-1]  # It may be cut.
    return all(len(row) == columns for row in rows)


def suggest_header(names: list[str]) -> str:
    """Return the advice to write a header if names look like values, or nothing.

    They do if one is a fraction or negative, or if all are integers out of order.
    """
    has_value = any(re.fullmatch(r"-\d+|-?\d+\.\d+", name) for name in names)
    integers = [int(name) for name in names if re.fullmatch(r"\d{1,18}", name)]
    is_row = len(integers) == len(names) > 1 and integers != sorted(set(integers))
    if not has_value and not is_row:
        return ""
    return (
        ": its first line seems to be data, so write a line with the names of the columns"
        " above it"
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
    """Return utf-32 or utf-16 if a file begins with that mark, else utf-8-sig."""
    with open_unpacked(path) as file:
        start = file.read(4)
    # The mark of UTF-16 is also the beginning of one of UTF-32.
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig"


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
