"""Read the rows of a CSV file whose delimiter, encoding and header are known.

polars reads most files itself. It cannot read files correctly that are packed by zip, bz2
or xz, that have another encoding than UTF-8, or that have unusual quotes, line ends or
blank lines. Python's csv module copies the rows of such files as text into a Parquet file
first. Its errors name the line that is wrong.
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
START_BYTES = 65_536  # This many bytes show whether polars can read a file.
BLOCK_BYTES = 2**20
COPIED_ROWS = 10_000  # This many rows are copied at once.
LONGEST_VALUE = 2**24  # in characters
# A control character that occurs in no file of text.
UNUSED = "\x1f"


@dataclass
class CsvFile:
    """A CSV file whose delimiter, encoding and header are known."""

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
        """Open the file as text, unpacked and decoded."""
        return open_text(self.path, self.encoding)

    def count_row_bytes(self) -> int | None:
        """Return the length of all rows below the header in bytes.

        The caller compares this length with the values that polars reads: it adds up the
        lengths of the values, and one byte for each delimiter and each line end. Therefore,
        carriage returns ("\\r") do not count here, and the last line counts as if it had a
        line end. Returns None if the lengths cannot be compared, because the file is packed
        or holds quotes.
        """
        if is_compressed(self.path):
            return None
        byte_count = 0
        last_byte = b""
        with self.path.open("rb") as file:
            for _ in range(self.skipped_lines):
                file.readline()
            header = file.readline()
            if b'"' in header:
                return None
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                if b'"' in block:
                    return None
                # Most blocks have no "\r". Searching for the first one is faster than
                # counting.
                carriage_returns = block.count(b"\r") if b"\r" in block else 0
                byte_count += len(block) - carriage_returns
                last_byte = block[-1:]

        # If there are no rows, `last_byte` is empty.
        last_line_has_no_end = last_byte not in (b"", b"\n")
        return byte_count + 1 if last_line_has_no_end else byte_count

    def polars_can_read(self) -> bool:
        """Return whether polars can read the file, judged by its name and first bytes.

        Even then, polars may read a later line wrongly: see `has_odd_lines`.
        """
        # polars unpacks gzip, but none of these formats.
        if self.path.name.lower().endswith((".bz2", ".xz", ".zip")):
            return False
        # polars reads only UTF-8, which is called utf-8-sig here because a byte order mark
        # may come first. Its delimiter is a single character, but SPACES may be several.
        if self.encoding != "utf-8-sig" or self.delimiter == SPACES:
            return False

        with open_decompressed(self.path) as file:
            start = file.read(START_BYTES)
        # Lines of old Mac files end with a carriage return alone.
        has_old_line_ends = re.search(rb"\r[^\n]", start) is not None
        if has_old_line_ends:
            return False
        # Python's csv module skips a blank line above the header, and polars does not.
        lines = start.split(b"\n")[self.skipped_lines :]
        if not lines:
            return False
        header_is_blank = lines[0].strip(b"\r") == b""
        return not header_is_blank

    def scan(self) -> pl.LazyFrame:
        """Return the rows, read by polars, as columns of text named "0", "1" and so on."""
        return pl.scan_csv(
            self.path,
            glob=False,
            skip_lines=self.skipped_lines,
            separator=self.delimiter,
            new_columns=self.positions,
            infer_schema=False,
        )

    def has_odd_lines(self) -> bool:
        """Return whether polars may read a line differently from Python's csv module.

        A line is odd if it has more or fewer values than the header, or if one of its
        values has a line end or an unusual quote inside.
        """
        # UNUSED is a control character, which files of text do not contain. With this
        # separator, polars reads each line as a single value.
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
        lines_without_quotes = lines.filter(~has_quote)
        if self._any_line_is_odd(lines_without_quotes, line, forbidden="\r"):
            return True
        return self._any_quoted_line_is_odd(lines.filter(has_quote), line)

    def _any_quoted_line_is_odd(
        self, lines_with_quotes: pl.LazyFrame, line: pl.Expr
    ) -> bool:
        """Return whether any of the lines with quotes is odd: see `has_odd_lines`.

        `line` is the expression for the text of a line.
        """
        # Each quoted value is replaced by the character UNUSED, so that delimiters inside
        # the value do not count: ;"a;""b""";7 becomes ;UNUSED;7. A quoted value stands at
        # the start of the line or after a delimiter. Two quotes inside the value mean one.
        delimiter = re.escape(self.delimiter)
        quoted_value = rf'(^|{delimiter})"(?:[^"]|"")*"'
        shortened_line = line.str.replace_all(quoted_value, "${1}" + UNUSED)
        # No other quotes may be left, and only a delimiter may follow a quoted value.
        forbidden = rf'["\r]|{UNUSED}[^{delimiter}]'
        return self._any_line_is_odd(lines_with_quotes, shortened_line, forbidden)

    def _any_line_is_odd(
        self, lines: pl.LazyFrame, text: pl.Expr, forbidden: str
    ) -> bool:
        """Return whether any line has the wrong number of values, or forbidden text.

        `text` is the expression for the text of a line, in which quoted values may have
        been replaced. `forbidden` is a regular expression for text that no line may hold.
        """
        column_count = len(self.header)
        value_count = text.str.count_matches(self.delimiter, literal=True) + 1
        is_odd = (value_count != column_count) | text.str.contains(forbidden)
        # polars reads a blank line as null. In a file of one column, a blank line is a
        # missing value. In other files, it is odd.
        blank_is_odd = column_count > 1
        any_odd = is_odd.fill_null(blank_is_odd).any()
        return bool(lines.select(any_odd).collect(engine="streaming").item())

    def read_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the values of each row, read by Python's csv module.

        Blank lines are skipped, except in a file of one column, in which they are missing
        values. Raises DataError if a row has more or fewer values than the header.
        """
        column_count = len(self.header)
        has_fitting_row = False
        with self.open_text() as file:
            reader = create_reader(file, self.delimiter, self.skipped_lines)
            try:
                read_header(reader)
                for values in reader:
                    line = reader.line_num + self.skipped_lines
                    if len(values) == column_count:
                        has_fitting_row = True
                        yield line, values
                        continue
                    corrected = self._correct_row(
                        values, line, has_fitting_row=has_fitting_row
                    )
                    if corrected is not None:
                        yield line, corrected
            except csv.Error as error:
                line = reader.line_num + self.skipped_lines
                raise explain_csv_error(error, self.name, line) from None

    def _correct_row(
        self, values: list[str], line: int, *, has_fitting_row: bool
    ) -> list[str] | None:
        """Correct a row that has more or fewer values than the header.

        Only blank lines and spaces at the end of a line can be corrected. Returns the
        corrected values, or None if the row is a blank line that is to be skipped. Raises
        DataError for all other rows. `has_fitting_row` is True if an earlier row has as
        many values as the header.
        """
        column_count = len(self.header)
        if column_count == 1 and not values:
            # In a file of one column, a blank line is a missing value.
            return [""]
        is_blank = len(values) <= 1 and not "".join(values).strip()
        if is_blank:
            return None
        ends_with_spaces = (
            self.delimiter == SPACES
            and len(values) == column_count + 1
            and not values[-1]
        )
        if ends_with_spaces:
            return values[:-1]
        raise self._explain_wrong_width(
            len(values), line, has_fitting_row=has_fitting_row
        )

    def _explain_wrong_width(
        self, value_count: int, line: int, *, has_fitting_row: bool
    ) -> DataError:
        """Return the error for a row that has more or fewer values than the header.

        `has_fitting_row` is True if an earlier row has as many values as the header.
        """
        column_count = len(self.header)
        values = "1 value" if value_count == 1 else f"{value_count} values"
        message = (
            f"{self.name}, line {line}: the row has {values}, but the header has"
            f" {column_count}."
        )
        # If an earlier row fits, this row is at fault, and not the settings. But a header of
        # one column may be the title of the file. Then the rows that fit are further lines of
        # the title, and the setting for lines to skip is wrong.
        settings_may_be_wrong = column_count == 1 or not has_fitting_row
        if settings_may_be_wrong:
            hint = self._suggest_settings()
        elif value_count > column_count:
            hint = f"Remove the extra delimiter in line {line}, or put the value in quotes."
        else:
            hint = ""
        return DataError(join_sentences(message, hint))

    def find_line(self, row: int) -> int:
        """Return the number of the line in which a row ends. Rows count from 0.

        The file is read again up to this row, because a value may span several lines, so
        that the number of the line cannot be calculated.
        """
        for row_number, (line, _) in enumerate(self.read_rows()):
            if row_number == row:
                return line
        # There are fewer rows only if polars has counted `row` in a file with blank lines:
        # polars counts blank lines as rows, and the csv module skips them. The caller then
        # reads the file again with the csv module, so this number is never shown.
        return row

    def _suggest_settings(self) -> str:
        """Suggest how to make a file readable if its rows and header differ in length.

        Returns a sentence for the user, or "" if there is nothing to suggest.
        """
        lines = self.read_first_lines()
        if len(self.header) == 1 and are_decimal_commas(lines[1:]):
            return (
                "If the file is a single column of numbers with decimal commas, write"
                " data.decimal: ',' in settings.yml."
            )
        layout = find_layout(lines)
        if layout is None:
            return ""
        if self._may_have_row_names(layout, lines):
            return (
                "If the first column holds row names, as written by R, add a name for it"
                " at the start of the header."
            )
        if layout.skipped_lines > self.skipped_lines:
            return layout.suggest_skipping_lines()
        if layout.delimiter == SPACES:
            return (
                "If spaces separate the columns, write data.delimiter: ' ' in"
                " settings.yml."
            )
        return ""

    def _may_have_row_names(self, layout: Layout, lines: list[str]) -> bool:
        """Return whether the rows may begin with row names that have no name in the header.

        All rows then have one value more than the header. Therefore `layout`, the longest
        table of equally long rows at the end of `lines`, begins just below the header.
        `lines` are the first lines of the file.
        """
        lines_up_to_header = self.skipped_lines + 1
        layout_begins_below_header = layout.skipped_lines == lines_up_to_header
        if layout.delimiter != self.delimiter or not layout_begins_below_header:
            return False
        if layout.column_count != len(self.header) + 1:
            return False
        # A first row without a number may be the real header, below a line of a title.
        first_row = lines[lines_up_to_header]
        reader = csv.reader([first_row], delimiter=self.delimiter)
        values = next(reader, [])
        return any(looks_like_number(value) for value in values)

    def read_first_lines(self) -> list[str]:
        """Return the first lines of the file, including those above the header."""
        with self.open_text() as file:
            return list(islice(file, FIRST_LINES))

    def copy_to_parquet(self, copy: Path) -> None:
        """Write all rows to the Parquet file `copy`, as columns of text.

        The columns are named by their positions: "0", "1" and so on.
        """
        # pyarrow takes as long to import as polars, and few files need it.
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(position, pa.string()) for position in self.positions])
        rows = (values for _, values in self.read_rows())
        with pq.ParquetWriter(copy, schema) as writer:
            while batch := list(islice(rows, COPIED_ROWS)):
                columns = [pa.array(values, pa.string()) for values in zip(*batch)]
                writer.write_table(pa.table(columns, schema=schema))


def looks_like_number(text: str) -> bool:
    """Return whether a text has only digits and dots, such as -7, 0.5 or 1.234.567."""
    return re.fullmatch(r"[+-]?[\d.]+", text) is not None


def explain_csv_error(error: csv.Error, name: str, line: int) -> DataError:
    """Turn an error of Python's csv module into a DataError that names the line."""
    is_too_long = "field limit" in str(error)
    if is_too_long:
        return DataError(
            f"{name}, line {line}: a value has more than {LONGEST_VALUE // 2**20} million"
            " characters: shorten it, or close the quotes around it."
        )
    return DataError(f"{name}, line {line}: {error}.")


def create_reader(
    file: IO[str], delimiter: str, skipped_lines: int, *, strict: bool = True
) -> Reader:
    """Skip some lines of a file, and return a csv reader of the rows below them.

    The `line_num` of the reader does not count the skipped lines. A strict reader raises
    csv.Error if the quotes of a value are wrong.
    """
    # The limit holds for the whole process. Its default of 128 KB is too small for some
    # columns of text.
    csv.field_size_limit(LONGEST_VALUE)
    for _ in range(skipped_lines):
        file.readline()
    return csv.reader(
        file,
        delimiter=delimiter,
        # Consecutive spaces are one delimiter, so the spaces after the first are skipped.
        skipinitialspace=delimiter == SPACES,
        strict=strict,
    )


def read_header(reader: Reader) -> list[str]:
    """Return the values of the first line that is not blank.

    Returns an empty list if all lines are blank.
    """
    for values in reader:
        if values:
            return values
    return []
