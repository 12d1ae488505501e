"""Find out how a CSV file is written: its packing, encoding, delimiter, header and quotes.

polars reads plain files itself. Other files are packed by zip, bz2 or xz, have another
encoding, or have odd quotes, line ends or blank lines. Python's csv module first copies
their rows as text into a Parquet file. Its errors name the line that is wrong.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl
from messages import join_sentences
from sources import ColumnRoles, DataError
from text_values import USUAL_FORMAT, TextFormat

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = ",;\t|"
SPACES = " "  # As a delimiter, it stands for one or more spaces.
FIRST_LINES = 50  # This many lines of a file are read to find its header and delimiter.
FEWEST_LINES = 2  # A table has at least a line of names and a line of values.
START_BYTES = 65_536  # This many bytes are read to find the delimiter and odd bytes.
BLOCK_BYTES = 2**20
COPIED_ROWS = 10_000  # This many rows are copied at once.

LONGEST_VALUE = 2**24  # in characters

csv.field_size_limit(LONGEST_VALUE)


@dataclass
class CsvFile:
    """A CSV file whose dialect is known.

    `skipped_lines` is the number of lines before the header, such as a title or `sep=;`.
    """

    path: Path
    name: str
    encoding: str
    delimiter: str
    skipped_lines: int
    header: list[str]

    @property
    def positions(self) -> list[str]:
        """Return the names "0", "1" and so on under which polars reads the columns.

        The names in the header cannot be used: polars treats a name such as `^a$` as a
        regular expression.
        """
        return [str(position) for position in range(len(self.header))]

    def open_text(self) -> IO[str]:
        """Open the file, unpacked and decoded."""
        return open_text(self.path, self.encoding)

    def count_row_bytes(self) -> int:
        """Count the bytes of all rows below the header, with one byte for each line end.

        Returns 0 if this number could not be compared with the lengths of the values that
        polars reads, because the file is packed or holds quotes.
        """
        size = 0
        block = b""
        with open_unpacked(self.path) as file:
            is_packed = not isinstance(file, io.BufferedReader)
            for _ in range(self.skipped_lines):
                file.readline()
            if is_packed or b'"' in file.readline():
                return 0
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                if b'"' in block:
                    return 0
                # Searching for one "\r" first is faster than counting them in each block.
                returns = block.count(b"\r") if b"\r" in block else 0
                size += len(block) - returns
        lacks_last_line_end = bool(block) and not block.endswith(b"\n")
        return size + lacks_last_line_end

    def is_plain(self) -> bool:
        """Return whether polars can read the file, judged by its name and its start."""
        is_packed = self.path.name.lower().endswith((".bz2", ".xz", ".zip"))
        if is_packed or self.encoding != "utf-8-sig" or self.delimiter == SPACES:
            return False
        with open_unpacked(self.path) as file:
            start = file.read(START_BYTES)
        has_lone_return = re.search(rb"\r[^\n]", start)
        lines = start.split(b"\n")[self.skipped_lines :]
        # Python's csv module takes the first line below that is not blank for the header.
        has_header = bool(lines) and lines[0].strip(b"\r") != b""
        return has_header and not has_lone_return

    def scan(self) -> pl.LazyFrame:
        """Read the rows by polars, as text in columns with the names in `positions`."""
        return pl.scan_csv(
            self.path,
            glob=False,
            skip_lines=self.skipped_lines,
            separator=self.delimiter,
            new_columns=self.positions,
            infer_schema=False,
        )

    def has_odd_lines(self) -> bool:
        """Return whether polars and Python's csv module may read some line differently.

        Such a line has more or fewer values than the header, or quotes within a value.
        """
        lines = pl.scan_csv(
            self.path,
            glob=False,
            skip_lines=self.skipped_lines,
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
        # Each quoted value is replaced by one character, "\x1f". Only a delimiter may
        # follow it, or else the line is odd.
        without_quoted_values = line.str.replace_all(
            rf'(^|{delimiter})"(?:[^"]|"")*"', "${1}\x1f"
        )
        odd_signs = rf'["\r]|\x1f[^{delimiter}]'
        return self._has_odd_line(
            lines.filter(has_quote), without_quoted_values, odd_signs
        )

    def _has_odd_line(self, lines: pl.LazyFrame, text: pl.Expr, odd_signs: str) -> bool:
        """Return whether any line has odd signs, or more or fewer values than the header.

        `odd_signs` is a regular expression.
        """
        columns = len(self.header)
        values = text.str.count_matches(self.delimiter, literal=True) + 1
        is_odd = (values != columns) | text.str.contains(odd_signs)
        # A blank line is null here. It is odd, except in a file of one column, in which
        # it is a missing value.
        is_odd = is_odd.fill_null(columns > 1)
        found_odd = lines.select(is_odd.any()).collect(engine="streaming").item()
        return bool(found_odd)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the values of each row, as Python's csv reads them.

        Blank lines are skipped, except in a file of one column, in which they are missing
        values. Raises DataError on a row with more or fewer values than the header.
        """
        columns = len(self.header)
        with self.open_text() as file:
            reader = _create_reader(file, self.delimiter, self.skipped_lines)
            try:
                next(filter(None, reader), None)  # the header
                for values in reader:
                    line = reader.line_num + self.skipped_lines
                    if self.delimiter == SPACES and len(values) == columns + 1:
                        # Spaces at the end of a line are not a value.
                        values = values[:-1] if not values[-1] else values
                    if len(values) == columns:
                        yield line, values
                    elif columns == 1 and not values:
                        yield line, [""]
                    elif len(values) > 1 or "".join(values).strip():
                        message = (
                            f"{self.name}, line {line}: {len(values)} values where the"
                            f" line of names has {columns} columns."
                        )
                        hint = self._suggest_settings()
                        raise DataError(join_sentences(message, hint))
            except csv.Error as error:
                line = reader.line_num + self.skipped_lines
                raise explain_csv_error(error, self.name, line) from None

    def find_line(self, row: int) -> int:
        """Return the number of the line in which a row ends. Rows count from 0.

        Values may span several lines, so the rows before it are read again.
        """
        line, _ = next(islice(self.rows(), row, None), (row, []))
        return line

    def _suggest_settings(self) -> str:
        """Return a sentence with settings by which an odd file may be read.

        It is empty if no settings are known that would help.
        """
        lines = self.read_first_lines()
        if len(self.header) == 1 and _hold_decimal_commas(lines[1:]):
            return (
                "If it is one column of numbers with decimal commas, write"
                " data.decimal: ',' in settings.yml."
            )
        layout = find_layout(lines)
        if layout is None:
            return ""
        if self._may_have_row_names(layout, lines):
            return (
                "If the first column holds names of rows, as R writes them, write a name"
                " for this column at the start of the line of names."
            )
        if layout.skipped_lines > self.skipped_lines:
            return layout.suggest_to_skip_lines()
        if layout.delimiter == SPACES:
            return (
                "If blanks separate the columns, write data.delimiter: ' ' in"
                " settings.yml."
            )
        return ""

    def _may_have_row_names(self, layout: Layout, lines: list[str]) -> bool:
        """Return whether all rows have a value more than the header, and hold numbers.

        A line without numbers below the header may be the header itself, below a title.
        """
        first_row = self.skipped_lines + 1
        if layout.delimiter != self.delimiter or layout.skipped_lines != first_row:
            return False
        if layout.columns != len(self.header) + 1:
            return False
        values = next(csv.reader([lines[first_row]], delimiter=self.delimiter), [])
        return any(re.fullmatch(r"[+-]?[\d.]+", value) for value in values)

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
    """Turn an error of Python's csv module into a DataError that names the line."""
    if "field limit" in str(error):
        return DataError(
            f"{name}, line {line}: a value has more than {LONGEST_VALUE // 2**20} million"
            " characters: shorten it, or close the quotes in which it stands."
        )
    return DataError(f"{name}, line {line}: {error}.")


@dataclass(frozen=True)
class Layout:
    """A way to read the first lines of a file as a table.

    Below the `skipped_lines`, the delimiter divides every line into as many values as the
    table has `columns`.
    """

    delimiter: str
    skipped_lines: int
    columns: int

    def suggest_to_skip_lines(self) -> str:
        """Return a sentence with the settings that skip the lines above the table."""
        settings = f"data.skip_lines: {self.skipped_lines}"
        if self.delimiter == SPACES:
            settings += " and data.delimiter: ' '"
        return (
            f"If the names are in line {self.skipped_lines + 1}, write {settings} in"
            " settings.yml."
        )


def find_layout(lines: list[str]) -> Layout | None:
    """Find a layout by which the first lines of a file, with their line ends, are a table.

    If there are several, the one that skips the fewest lines is returned, and among
    these the one with the most columns. Returns None if there is none.
    """
    # Blank lines at the end are not part of the table.
    lines = "".join(lines).rstrip().splitlines()
    if not lines:
        return None

    layouts = []
    for delimiter in DELIMITERS + SPACES:
        value_counts = [_count_values(line, delimiter) for line in lines]
        # The last line belongs to the table, so it tells the number of columns. The table
        # begins behind the last line that has another number of values.
        columns = value_counts[-1]
        skipped_lines = len(lines)
        while skipped_lines and value_counts[skipped_lines - 1] == columns:
            skipped_lines -= 1
        table_lines = len(lines) - skipped_lines
        if columns > 1 and table_lines >= FEWEST_LINES:
            layouts.append(Layout(delimiter, skipped_lines, columns))
    if not layouts:
        return None
    return min(layouts, key=lambda layout: (layout.skipped_lines, -layout.columns))


def _count_values(line: str, delimiter: str) -> int:
    """Count the values into which a delimiter divides a line."""
    if delimiter == SPACES:
        return len(line.split())
    return len(next(csv.reader([line], delimiter=delimiter), []))


def _hold_decimal_commas(lines: list[str]) -> bool:
    """Return whether each line is a number with a decimal comma."""
    return all(re.fullmatch(r"[+-]?\d*,\d+", line.strip()) for line in lines if line)


def detect_dialect(
    path: Path, name: str, encoding: str, text_format: TextFormat = USUAL_FORMAT
) -> CsvFile:
    """Detect the delimiter and the header of a CSV file from the settings and its start.

    Raises UnicodeError if the file is not text in this encoding, and DataError if it is
    empty.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_BYTES)
        if "\0" in start or start.startswith("PAR1"):
            raise UnicodeError(f"{name} is not text in {encoding}.")
        # Excel writes a first line such as `sep=;` to declare the delimiter.
        declaration = re.match(r'"?sep=(.)"?\r?\n', start)
        skipped_lines = text_format.skip_lines
        if declaration:
            skipped_lines = max(1, skipped_lines)
        candidates = list(DELIMITERS)
        if text_format.delimiter:
            candidates = [text_format.delimiter]
        elif declaration:
            candidates = [declaration[1]]
        headers: dict[str, list[str]] = {}
        for delimiter in candidates:
            file.seek(0)
            reader = _create_reader(file, delimiter, skipped_lines, strict=False)
            try:
                headers[delimiter] = next(filter(None, reader), [])
            except csv.Error as error:
                line = reader.line_num + skipped_lines
                raise explain_csv_error(error, name, line) from None
    delimiter = _choose_delimiter(headers, start, skipped_lines, text_format)
    header = [column.strip() for column in headers[delimiter]]
    if delimiter == SPACES and header and not header[-1]:
        header = header[:-1]
    if not header:
        raise DataError(f"{name} is empty.")
    return CsvFile(
        path=path,
        name=name,
        encoding=encoding,
        delimiter=delimiter,
        skipped_lines=skipped_lines,
        header=header,
    )


def check_repeated_names(file: CsvFile, roles: ColumnRoles) -> None:
    """Check that no two columns have the same name.

    In data to score, columns that the model does not need may have the same name. It is
    removed from the header, so that they are left out like columns without a name.
    Raises DataError for other columns.
    """
    counts = Counter(file.header)
    for position, name in enumerate(file.header):
        if not name or counts[name] == 1:
            continue
        if roles.model_columns is None or roles.is_used(name):
            message = f"{file.name}: the first line names the column '{name}' twice."
            raise DataError(join_sentences(message, suggest_header(file.header)))
        file.header[position] = ""


def _create_reader(
    file: IO[str], delimiter: str, skipped_lines: int, *, strict: bool = True
) -> Reader:
    """Skip some lines of a file, and return a reader of the rows below them.

    The `line_num` of the reader does not count the skipped lines.
    """
    for _ in range(skipped_lines):
        file.readline()
    return csv.reader(
        file,
        delimiter=delimiter,
        skipinitialspace=delimiter == SPACES,
        strict=strict,
    )


def _choose_delimiter(
    headers: dict[str, list[str]],
    start: str,
    skipped_lines: int,
    text_format: TextFormat,
) -> str:
    """Choose one of the delimiters by the header into which each divides the first line.

    Delimiters that divide the lines below into as many values as the header are
    preferred. Among these, or else among all, the one with the most columns is chosen.
    """
    columns = {delimiter: len(header) for delimiter, header in headers.items()}
    if max(columns.values()) == 1 and len(columns) > 1:
        # The file has one column. Its decimal mark must not be taken for a delimiter.
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
        # The file goes on, so the last of these rows may be cut off.
        rows = rows[:-1]
    return all(len(row) == columns for row in rows)


def suggest_header(names: list[str]) -> str:
    """Return advice to write a header if the names of the columns look like values.

    They look like values if one of them is a fraction or a negative integer, or if all of
    them are integers that are not in rising order. Returns an empty text otherwise.
    """
    has_value = any(
        re.fullmatch(r"-\d+|[+-]?\d*\.\d+(?:[eE][+-]?\d+)?", name) for name in names
    )
    integers = [int(name) for name in names if re.fullmatch(r"\d{1,18}", name)]
    is_row = len(integers) == len(names) > 1 and integers != sorted(set(integers))
    if not has_value and not is_row:
        return ""
    return (
        "The first line seems to be data: write a line with the names of the columns"
        " above it."
    )


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a file as text: unpack and decode it, and keep its line ends."""
    return io.TextIOWrapper(open_unpacked(path), encoding, newline="")


def open_unpacked(path: Path) -> IO[bytes]:
    """Open the bytes of a file, and unpack them if its first bytes show a packed file.

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
    """Return utf-32 or utf-16 if a file begins with its byte order mark, else utf-8-sig."""
    with open_unpacked(path) as file:
        start = file.read(4)
    # The mark of UTF-32 begins with the one of UTF-16, so it is looked for first.
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
