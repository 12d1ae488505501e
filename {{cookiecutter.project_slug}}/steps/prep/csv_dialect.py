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

START_CHARACTERS = 65_536  # This many characters are read to find the delimiter.
FIRST_ROWS = 50  # This many rows are divided by each delimiter.


def detect_dialect(
    path: Path, name: str, encoding: str, text_format: TextFormat = USUAL_FORMAT
) -> CsvFile:
    """Detect the delimiter and the header of a CSV file.

    Settings in `text_format` take precedence. Raises UnicodeError if the file is not text
    in this encoding, and DataError if it has no header.
    """
    with open_text(path, encoding) as file:
        start = file.read(START_CHARACTERS)
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
        reader = create_reader(file, delimiter, skipped_lines, strict=False)
        try:
            headers[delimiter] = read_header(reader)
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
    reader = create_reader(file, delimiter, skipped_lines, strict=False)
    rows = list(islice(filter(None, reader), FIRST_ROWS))
    if len(start) == START_CHARACTERS:
        # The file goes on, so the last of these rows may be cut off.
        rows = rows[:-1]
    return all(len(row) == columns for row in rows)


def resolve_repeated_names(file: CsvFile, roles: ColumnRoles) -> None:
    """Remove repeated names from the header if the model does not need these columns.

    Columns without a name are left out later. Raises DataError for other repeated names.
    """
    counts = Counter(file.header)
    for position, name in enumerate(file.header):
        if not name or counts[name] == 1:
            continue
        if roles.model_columns is None or roles.is_used(name):
            message = f"{file.name}: the first line names the column '{name}' twice."
            raise DataError(join_sentences(message, suggest_header(file.header)))
        file.header[position] = ""
