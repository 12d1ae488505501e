"""Read the rows of a CSV file whose dialect is known.

polars reads plain files itself. Files are not plain if they are packed by zip, bz2 or xz,
have another encoding than UTF-8, or have odd quotes, line ends or blank lines. Python's
csv module copies the rows of such files as text into a Parquet file first. Its errors name
the line that is wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import polars as pl
from messages import join_sentences
from sources import DataError
from table_layout import SPACES, Layout, are_decimal_commas, find_layout
from unpack import is_compressed, open_decompressed, open_text

if TYPE_CHECKING:
    from _csv import Reader

FIRST_LINES = 50  # This many lines of a file are read to find its layout.
START_BYTES = 65_536  # This many bytes are read to find odd bytes.
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
        if is_compressed(self.path):
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

        with open_decompressed(self.path) as file:
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
        follows_fitting_row = False
        with self.open_text() as file:
            reader = create_reader(file, self.delimiter, self.skipped_lines)
            try:
                read_header(reader)
                for values in reader:
                    line = reader.line_num + self.skipped_lines
                    if len(values) == columns:
                        follows_fitting_row = True
                        yield line, values
                        continue
                    corrected = self._correct_row(values, line, follows_fitting_row)
                    if corrected is not None:
                        yield line, corrected
            except csv.Error as error:
                line = reader.line_num + self.skipped_lines
                raise explain_csv_error(error, self.name, line) from None

    def _correct_row(
        self, values: list[str], line: int, follows_fitting_row: bool
    ) -> list[str] | None:
        """Correct a row that has more or fewer values than the header has columns.

        `follows_fitting_row` is whether an earlier row has as many values as the header,
        so that the fault is in this row and not in the settings. Returns None for a blank
        line. Raises DataError if the row cannot be corrected.
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
        # Most lines of a title have one column, whatever the layout of the table is.
        if columns == 1 or not follows_fitting_row:
            hint = self._suggest_settings()
        elif len(values) > columns:
            hint = (
                f"Remove the surplus separator in line {line}, or put the value in"
                " quotes."
            )
        else:
            hint = ""
        raise DataError(join_sentences(message, hint))

    def find_line(self, row: int) -> int:
        """Return the number of the line in which a row ends. Rows count from 0.

        Values may span several lines, so all rows above this one are read again.
        """
        for position, (line, _) in enumerate(self.rows()):
            if position == row:
                return line
        # polars counts blank lines as rows, which the csv module skips. A file that has any
        # is read again by the csv module, so nobody sees this number.
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
        if layout.column_count != len(self.header) + 1:
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


def create_reader(
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


def read_header(reader: Reader) -> list[str]:
    """Return the values of the first line that is not blank, or an empty list."""
    for values in reader:
        if values:
            return values
    return []
