"""Detect the delimiter and the header of a CSV file, and read its rows.

polars reads plain files itself. Files are not plain if they are packed by zip, bz2 or xz,
have another encoding than UTF-8, or have odd quotes, line ends or blank lines. Python's
csv module copies the rows of such files as text into a Parquet file first. Its errors name
the line that is wrong.
"""

from __future__ import annotations

import csv
import io
import re
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
from table_layout import (
    DELIMITERS,
    SPACES,
    Layout,
    are_decimal_commas,
    find_layout,
    suggest_header,
)
from text_values import USUAL_FORMAT, TextFormat
from unpack import is_packed, open_text, open_unpacked

if TYPE_CHECKING:
    from _csv import Reader

FIRST_LINES = 50  # This many lines of a file are read to find its header and delimiter.
START_BYTES = 65_536  # This many bytes are read to find the delimiter and odd bytes.
BLOCK_BYTES = 2**20
COPIED_ROWS = 10_000  # This many rows are copied at once.
LONGEST_VALUE = 2**24  # in characters
# A control character that text does not contain.
UNUSED = "\x1f"


@dataclass
class CsvFile:
    """A CSV file whose dialect is known."""

    path: Path
    #: The name of the file in messages.
    name: str
    encoding: str
    delimiter: str
    #: The number of lines before the header, such as a title or `sep=;`.
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

        The number is compared with the lengths of the values that polars reads. Returns 0
        if this is not possible, because the file is packed or holds quotes.
        """
        if is_packed(self.path):
            return 0
        size = 0
        block = b""
        with self.path.open("rb") as file:
            for _ in range(self.skipped_lines):
                file.readline()
            header = file.readline()
            if b'"' in header:
                return 0
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                if b'"' in block:
                    return 0
                # Searching for one "\r" first is faster than counting them in each block.
                carriage_returns = block.count(b"\r") if b"\r" in block else 0
                size += len(block) - carriage_returns

        last_line_has_no_end = block != b"" and not block.endswith(b"\n")
        return size + 1 if last_line_has_no_end else size

    def is_plain(self) -> bool:
        """Return whether polars can read the file, judged by its name and its start."""
        # polars unpacks gzip itself.
        if self.path.name.lower().endswith((".bz2", ".xz", ".zip")):
            return False
        if self.encoding != "utf-8-sig" or self.delimiter == SPACES:
            return False

        with open_unpacked(self.path) as file:
            start = file.read(START_BYTES)
        has_lone_return = re.search(rb"\r[^\n]", start) is not None
        if has_lone_return:
            return False
        # Python's csv module skips a blank line above the header, and polars does not.
        lines = start.split(b"\n")[self.skipped_lines :]
        return bool(lines) and lines[0].strip(b"\r") != b""

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
        # No line contains the separator, so each line is read as a single value.
        lines = pl.scan_csv(
            self.path,
            glob=False,
            skip_lines=self.skipped_lines,
            separator=UNUSED,
            quote_char=None,
            new_columns=["line"],
            infer_schema=False,
        )
        line = pl.col("line")
        has_quote = line.str.contains('"', literal=True).fill_null(False)
        if self._has_odd_line(lines.filter(~has_quote), line, forbidden="\r"):
            return True

        # In lines with quotes, each quoted value is replaced by an unused character, which
        # only a delimiter may follow. No other quotes may be left.
        delimiter = re.escape(self.delimiter)
        quoted_value = rf'(^|{delimiter})"(?:[^"]|"")*"'
        without_quoted_values = line.str.replace_all(quoted_value, "${1}" + UNUSED)
        forbidden = rf'["\r]|{UNUSED}[^{delimiter}]'
        return self._has_odd_line(
            lines.filter(has_quote), without_quoted_values, forbidden
        )

    def _has_odd_line(self, lines: pl.LazyFrame, text: pl.Expr, forbidden: str) -> bool:
        """Return whether a line has the wrong number of values, or a forbidden character.

        `text` is the text of the lines. `forbidden` is a regular expression.
        """
        columns = len(self.header)
        values = text.str.count_matches(self.delimiter, literal=True) + 1
        is_odd = (values != columns) | text.str.contains(forbidden)
        # A blank line is null. It is odd, except in a file of one column, in which it is a
        # missing value.
        blank_is_odd = columns > 1
        any_odd = is_odd.fill_null(blank_is_odd).any()
        return bool(lines.select(any_odd).collect(engine="streaming").item())

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the values of each row, read by Python's csv module.

        Blank lines are skipped, except in a file of one column, in which they are missing
        values. Raises DataError on a row with more or fewer values than the header.
        """
        columns = len(self.header)
        with self.open_text() as file:
            reader = _create_reader(file, self.delimiter, self.skipped_lines)
            try:
                _read_header(reader)
                for values in reader:
                    line = reader.line_num + self.skipped_lines
                    if len(values) == columns:
                        yield line, values
                        continue
                    corrected = self._correct_row(values, line)
                    if corrected is not None:
                        yield line, corrected
            except csv.Error as error:
                line = reader.line_num + self.skipped_lines
                raise explain_csv_error(error, self.name, line) from None

    def _correct_row(self, values: list[str], line: int) -> list[str] | None:
        """Correct a row that has more or fewer values than the header has columns.

        Returns None for a blank line. Raises DataError if the row cannot be corrected.
        """
        columns = len(self.header)
        if columns == 1 and not values:
            return [""]
        is_blank = len(values) <= 1 and not "".join(values).strip()
        if is_blank:
            return None
        # Spaces at the end of a line are not a value.
        if self.delimiter == SPACES and len(values) == columns + 1 and not values[-1]:
            return values[:-1]
        message = (
            f"{self.name}, line {line}: {len(values)} values where the line of names has"
            f" {columns} columns."
        )
        raise DataError(join_sentences(message, self._suggest_settings()))

    def find_line(self, row: int) -> int:
        """Return the number of the line in which a row ends. Rows count from 0.

        Values may span several lines, so all rows above this one are read again.
        """
        for position, (line, _) in enumerate(self.rows()):
            if position == row:
                return line
        # polars may count blank lines as rows, which the csv module skips.
        return row

    def _suggest_settings(self) -> str:
        """Suggest settings that may make an odd file readable; return "" without any."""
        lines = self.read_first_lines()
        if len(self.header) == 1 and are_decimal_commas(lines[1:]):
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
        """Return whether all rows have one value more than the header.

        The first row must hold a number. Otherwise it may be the header, below a title.
        """
        first_row = self.skipped_lines + 1
        if layout.delimiter != self.delimiter or layout.skipped_lines != first_row:
            return False
        if layout.columns != len(self.header) + 1:
            return False
        reader = csv.reader([lines[first_row]], delimiter=self.delimiter)
        values = next(reader, [])
        return any(re.fullmatch(r"[+-]?[\d.]+", value) for value in values)

    def read_first_lines(self) -> list[str]:
        """Return the first lines of the file, including those above the header."""
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
            " characters: shorten it, or close the quotes around it."
        )
    return DataError(f"{name}, line {line}: {error}.")


def detect_dialect(
    path: Path, name: str, encoding: str, text_format: TextFormat = USUAL_FORMAT
) -> CsvFile:
    """Detect the delimiter and the header of a CSV file.

    Settings in `text_format` take precedence. Raises UnicodeError if the file is not text
    in this encoding, and DataError if it has no header.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_BYTES)
        if "\0" in start or start.startswith("PAR1"):
            raise UnicodeError(f"{name} is not text in {encoding}.")

        declared_delimiter = _find_declared_delimiter(start)
        skipped_lines = text_format.skip_lines
        if declared_delimiter:
            skipped_lines = max(1, skipped_lines)
        candidates = _list_delimiters(text_format, declared_delimiter)
        headers = _read_headers(file, name, candidates, skipped_lines)

    delimiter = _choose_delimiter(headers, start, skipped_lines, text_format)
    header = [column.strip() for column in headers[delimiter]]
    if delimiter == SPACES and header and not header[-1]:
        # Spaces at the end of the line are not a name.
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


def _find_declared_delimiter(start: str) -> str | None:
    """Return the delimiter of a first line such as `sep=;`, which Excel writes, or None."""
    declaration = re.match(r'"?sep=(.)"?\r?\n', start)
    return declaration[1] if declaration else None


def _list_delimiters(
    text_format: TextFormat, declared_delimiter: str | None
) -> list[str]:
    """Return the delimiters that the file may have, by the settings or its first line."""
    if text_format.delimiter:
        return [text_format.delimiter]
    if declared_delimiter:
        return [declared_delimiter]
    return list(DELIMITERS)


def _read_headers(
    file: IO[str], name: str, delimiters: list[str], skipped_lines: int
) -> dict[str, list[str]]:
    """Split the header by each delimiter, and return the names of the columns.

    Raises DataError if the line cannot be read as CSV.
    """
    headers: dict[str, list[str]] = {}
    for delimiter in delimiters:
        file.seek(0)
        reader = _create_reader(file, delimiter, skipped_lines, strict=False)
        try:
            headers[delimiter] = _read_header(reader)
        except csv.Error as error:
            line = reader.line_num + skipped_lines
            raise explain_csv_error(error, name, line) from None
    return headers


def _choose_delimiter(
    headers: dict[str, list[str]],
    start: str,
    skipped_lines: int,
    text_format: TextFormat,
) -> str:
    """Choose the delimiter that splits the header and all rows into equally many values.

    If there are several such delimiters, or none, the one with the most columns is chosen.
    `headers` has the names of the columns by delimiter, and `start` is the file's start.
    """
    columns = {delimiter: len(header) for delimiter, header in headers.items()}
    if max(columns.values()) == 1 and len(columns) > 1:
        # The file has one column. Its decimal mark must not be taken for a delimiter.
        columns.pop(text_format.decimal, None)

    def rank(delimiter: str) -> tuple[bool, int]:
        width = columns[delimiter]
        has_table = width > 1 and _rows_have_width(
            width, start, delimiter, skipped_lines
        )
        return has_table, width

    return max(columns, key=rank)


def _rows_have_width(
    columns: int, start: str, delimiter: str, skipped_lines: int
) -> bool:
    """Return whether all of the first rows of a file have one value for each column."""
    file = io.StringIO(start, newline="")
    reader = _create_reader(file, delimiter, skipped_lines, strict=False)
    rows = list(islice(filter(None, reader), FIRST_LINES))
    if len(start) == START_BYTES:
        # The file goes on, so the last of these rows may be cut off.
        rows = rows[:-1]
    return all(len(row) == columns for row in rows)


def _create_reader(
    file: IO[str], delimiter: str, skipped_lines: int, *, strict: bool = True
) -> Reader:
    """Skip some lines of a file, and return a reader of the rows below them.

    The `line_num` of the reader does not count the skipped lines.
    """
    csv.field_size_limit(LONGEST_VALUE)
    for _ in range(skipped_lines):
        file.readline()
    return csv.reader(
        file,
        delimiter=delimiter,
        skipinitialspace=delimiter == SPACES,
        strict=strict,
    )


def _read_header(reader: Reader) -> list[str]:
    """Return the values of the first line that is not blank, or an empty list."""
    for values in reader:
        if values:
            return values
    return []


def check_repeated_names(file: CsvFile, roles: ColumnRoles) -> None:
    """Raise DataError if two columns have the same name.

    In data to score, columns that the model does not need may have the same name. These
    names are removed from the header, so that the columns are left out.
    """
    counts = Counter(file.header)
    for position, name in enumerate(file.header):
        if not name or counts[name] == 1:
            continue
        if roles.model_columns is None or roles.is_used(name):
            message = f"{file.name}: the first line names the column '{name}' twice."
            raise DataError(join_sentences(message, suggest_header(file.header)))
        file.header[position] = ""
