"""Find the layout of a CSV file: its delimiter, and the first line of its table."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

DELIMITERS = ",;\t|"
SPACES = " "  # As a delimiter, it stands for one or more spaces.
FEWEST_LINES = 2  # A table has at least a line of names and a line of values.


@dataclass(frozen=True)
class Layout:
    """A way to read the first lines of a file as a table."""

    delimiter: str
    #: The number of lines above the table.
    skipped_lines: int
    #: The number of values in each line of the table.
    column_count: int

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
    """Find the layout of a file from its first lines, or return None if there is none.

    Of several layouts, the one that skips the fewest lines is returned, and among these the
    one with the most columns.
    """
    # Blank lines at the end are not part of the table.
    lines = "".join(lines).rstrip().splitlines()
    if not lines:
        return None
    layouts = [_measure_layout(lines, delimiter) for delimiter in DELIMITERS + SPACES]
    tables = [
        layout
        for layout in layouts
        if layout.column_count > 1 and len(lines) - layout.skipped_lines >= FEWEST_LINES
    ]
    if not tables:
        return None
    return min(tables, key=lambda layout: (layout.skipped_lines, -layout.column_count))


def _measure_layout(lines: list[str], delimiter: str) -> Layout:
    """Return the layout of a table that is divided by a delimiter.

    The last line belongs to the table, so it has the number of columns. The table begins
    after the last line that has another number of values.
    """
    value_counts = [_count_values(line, delimiter) for line in lines]
    columns = value_counts[-1]
    skipped_lines = len(lines)
    while skipped_lines and value_counts[skipped_lines - 1] == columns:
        skipped_lines -= 1
    return Layout(delimiter, skipped_lines, columns)


def _count_values(line: str, delimiter: str) -> int:
    """Count the values into which a delimiter divides a line."""
    if delimiter == SPACES:
        return len(line.split())
    reader = csv.reader([line], delimiter=delimiter)
    values = next(reader, [])
    return len(values)


def are_decimal_commas(lines: list[str]) -> bool:
    """Return whether each line is a number with a decimal comma."""
    filled_lines = [line for line in lines if line]
    return all(re.fullmatch(r"[+-]?\d*,\d+", line.strip()) for line in filled_lines)


def suggest_header(names: list[str]) -> str:
    """Advise to write a header if the names of the columns look like values.

    Returns "" if they do not.
    """
    if not _has_value(names) and not _are_unsorted_integers(names):
        return ""
    return (
        "The first line seems to be data: write a line with the names of the columns"
        " above it."
    )


def _has_value(names: list[str]) -> bool:
    """Return whether a name is a fraction or a negative integer."""
    value = r"-\d+|[+-]?\d*\.\d+(?:[eE][+-]?\d+)?"
    return any(re.fullmatch(value, name) for name in names)


def _are_unsorted_integers(names: list[str]) -> bool:
    """Return whether all names are integers, which are not in rising order.

    Integers in rising order may be years or positions.
    """
    integers = [int(name) for name in names if re.fullmatch(r"\d{1,18}", name)]
    if len(names) < 2 or len(integers) < len(names):
        return False
    return integers != sorted(set(integers))
