"""Detect the delimiter and the header of a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import IO

from csv_file import CsvFile, create_reader, explain_csv_error, read_header
from messages import join_sentences
from sources import ColumnRoles, DataError
from table_layout import DELIMITERS, SPACES, suggest_header
from text_values import USUAL_FORMAT, TextFormat
from unpack import open_text

# This many characters of a file are read to find its delimiter.
START_CHARACTERS = 65_536
# This many rows are split by each delimiter that the file may have.
FIRST_ROWS = 50


def detect_dialect(
    path: Path, name: str, encoding: str, text_format: TextFormat = USUAL_FORMAT
) -> CsvFile:
    """Detect the delimiter and the header of a CSV file.

    Settings in `text_format` take precedence over what is detected. `name` is the name of
    the file in messages. Raises UnicodeError if the file is not text in this encoding, and
    DataError if the file has no header.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_CHARACTERS)
        # Some encodings can decode any bytes, but text has no NUL.
        is_binary = "\0" in start
        if is_binary:
            raise UnicodeError(f"{name} is not text in {encoding}.")

        declared_delimiter = _find_declared_delimiter(start)
        skipped_lines = text_format.skip_lines
        if declared_delimiter:
            # The line that declares the delimiter is not the header.
            skipped_lines = max(1, skipped_lines)
        delimiters = _list_delimiters(text_format, declared_delimiter)
        headers = _read_headers(file, name, delimiters, skipped_lines)

    delimiter = _choose_delimiter(headers, start, skipped_lines, text_format)
    header = _clean_header(headers[delimiter], delimiter)
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


def _clean_header(header: list[str], delimiter: str) -> list[str]:
    """Return the names of the columns without the spaces around them."""
    names = [name.strip() for name in header]
    ends_with_spaces = delimiter == SPACES and names and not names[-1]
    if ends_with_spaces:
        # Spaces at the end of the line do not begin another column.
        return names[:-1]
    return names


def _find_declared_delimiter(start: str) -> str | None:
    """Return the delimiter that the first line of a file declares, or None.

    For example, the line `sep=;` declares a semicolon. Excel reads and writes such lines.
    `start` is the text at the start of the file.
    """
    declaration = re.match(r'"?sep=(.)"?\r?\n', start)
    return declaration[1] if declaration else None


def _list_delimiters(
    text_format: TextFormat, declared_delimiter: str | None
) -> list[str]:
    """Return the delimiters that the file may have.

    The delimiter in settings.yml takes precedence, then the one that the first line of the
    file declares.
    """
    if text_format.delimiter:
        return [text_format.delimiter]
    if declared_delimiter:
        return [declared_delimiter]
    return list(DELIMITERS)


def _read_headers(
    file: IO[str], name: str, delimiters: list[str], skipped_lines: int
) -> dict[str, list[str]]:
    """Split the header by each delimiter; return the names of the columns by delimiter.

    For example, the header `a;b,c` gives `{",": ["a;b", "c"], ";": ["a", "b,c"]}`. Raises
    DataError if the header cannot be read as CSV.
    """
    headers: dict[str, list[str]] = {}
    for delimiter in delimiters:
        file.seek(0)
        reader = create_reader(file, delimiter, skipped_lines, strict=False)
        try:
            headers[delimiter] = read_header(reader)
        except csv.Error as error:
            line_number = reader.line_num + skipped_lines
            raise explain_csv_error(error, name, line_number) from None
    return headers


def _choose_delimiter(
    headers: dict[str, list[str]],
    start: str,
    skipped_lines: int,
    text_format: TextFormat,
) -> str:
    """Choose the delimiter by which the values of a file are most probably separated.

    The best delimiters split the header and all first rows into the same number of values,
    which is at least two. Among these, or among all delimiters if no delimiter does so, the
    one that gives the most columns is chosen. `headers` has the names of the columns by
    delimiter, and `start` is the text at the start of the file.
    """
    width_by_delimiter = {
        delimiter: len(header) for delimiter, header in headers.items()
    }
    header_is_undivided = max(width_by_delimiter.values()) == 1
    has_several_delimiters = len(width_by_delimiter) > 1
    if header_is_undivided and has_several_delimiters:
        # The header holds none of the delimiters, so any of them gives a single column.
        # But the decimal mark, such as a comma, would split the numbers below the header.
        width_by_delimiter.pop(text_format.decimal, None)

    width_by_best_delimiter = {
        delimiter: width
        for delimiter, width in width_by_delimiter.items()
        if width > 1 and _rows_have_width(width, start, delimiter, skipped_lines)
    }
    candidates = width_by_best_delimiter or width_by_delimiter
    return max(candidates, key=lambda delimiter: candidates[delimiter])


def _rows_have_width(
    width: int, start: str, delimiter: str, skipped_lines: int
) -> bool:
    """Return whether a delimiter splits each of the first rows into `width` values.

    `start` is the text at the start of the file.
    """
    file = io.StringIO(start, newline="")
    reader = create_reader(file, delimiter, skipped_lines, strict=False)
    # The reader returns an empty list for a blank line.
    rows_without_blank_lines = filter(None, reader)
    rows = list(islice(rows_without_blank_lines, FIRST_ROWS))
    file_goes_on = len(start) == START_CHARACTERS
    if file_goes_on:
        # The text ends in the middle of the file, so the last of these rows may be cut off.
        rows = rows[:-1]
    return all(len(row) == width for row in rows)


def resolve_repeated_names(file: CsvFile, roles: ColumnRoles) -> None:
    """Remove repeated names from the header if the model does not need these columns.

    The names become "", because columns without a name are left out when the rows are
    read. Raises DataError if a name repeats and its column is needed. All columns are
    needed in training, and for a model that does not record its columns.
    """
    counts = Counter(file.header)
    all_are_needed = roles.model_columns is None
    for position, name in enumerate(file.header):
        if not name or counts[name] == 1:
            continue
        if all_are_needed or roles.is_used(name):
            message = (
                f"{file.name}: the header names the column '{name}' more than once."
            )
            raise DataError(join_sentences(message, suggest_header(file.header)))
        file.header[position] = ""
