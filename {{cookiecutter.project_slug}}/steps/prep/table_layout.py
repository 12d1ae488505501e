"""Find out which of the first lines of a CSV file are a table."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

DELIMITERS = ",;\t|"
SPACES = " "  # As a delimiter, it stands for one or more spaces.
FEWEST_LINES = 2  # A table has at least a line of names and a line of values.


@dataclass(frozen=True)
class Layout:
    """A way to read the first lines of a file as a table.

    After the `skipped_lines`, the delimiter divides every line into as many values as the
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
        # The last line belongs to the table, so it has the number of columns. The table
        # begins after the last line with another number of values.
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


def are_decimal_commas(lines: list[str]) -> bool:
    """Return whether each line is a number with a decimal comma."""
    return all(re.fullmatch(r"[+-]?\d*,\d+", line.strip()) for line in lines if line)


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
