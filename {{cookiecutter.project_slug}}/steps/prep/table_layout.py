"""Find the layout of a CSV file: its delimiter, and the line in which its table begins."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

# The characters that may separate the values of a line, the most frequent first.
DELIMITERS = ",;\t|"
# This delimiter stands for one or more spaces. It is tried last, because text such as a
# title has spaces, too.
SPACES = " "
# A table has at least a line of names and a line of values.
MIN_LINES = 2


@dataclass(frozen=True)
class Layout:
    """One way to read the first lines of a file as a table."""

    delimiter: str
    #: The number of lines above the table.
    skipped_lines: int
    #: The number of values in each line of the table.
    column_count: int

    def suggest_skipping_lines(self) -> str:
        """Return a sentence with the settings that skip the lines above the table."""
        settings = f"data.skip_lines: {self.skipped_lines}"
        if self.delimiter == SPACES:
            settings += " and data.delimiter: ' '"
        return (
            f"If the names are in line {self.skipped_lines + 1}, write {settings} in"
            " settings.yml."
        )


def find_layout(first_lines: list[str]) -> Layout | None:
    """Return the layout of a file, judged by its first lines.

    Returns None if the lines hold no table. If several delimiters give a table, the table
    with the fewest lines above it is chosen, and among such tables the one with the most
    columns.
    """
    # Blank lines at the end are not part of the table.
    lines = "".join(first_lines).rstrip().splitlines()
    if not lines:
        return None
    layouts = [_measure_layout(lines, delimiter) for delimiter in DELIMITERS + SPACES]
    tables = []
    for layout in layouts:
        table_lines = len(lines) - layout.skipped_lines
        if layout.column_count > 1 and table_lines >= MIN_LINES:
            tables.append(layout)
    if not tables:
        return None
    # The fewest skipped lines come first, and then the most columns.
    return min(tables, key=lambda layout: (layout.skipped_lines, -layout.column_count))


def _measure_layout(lines: list[str], delimiter: str) -> Layout:
    """Return the layout of a table whose values are separated by a delimiter.

    The last line is taken to belong to the table, so its number of values is the number of
    columns. The table begins below the last line with a different number of values.
    """
    value_counts = [_count_values(line, delimiter) for line in lines]
    column_count = value_counts[-1]
    # Walk up from the last line while the lines have the same number of values.
    table_start = len(lines)
    while table_start > 0 and value_counts[table_start - 1] == column_count:
        table_start -= 1
    return Layout(delimiter, skipped_lines=table_start, column_count=column_count)


def _count_values(line: str, delimiter: str) -> int:
    """Count the values of a line that are separated by a delimiter."""
    if delimiter == SPACES:
        return len(line.split())
    reader = csv.reader([line], delimiter=delimiter)
    values = next(reader, [])
    return len(values)


def are_decimal_commas(lines: list[str]) -> bool:
    """Return whether all lines are numbers with a decimal comma, such as 1,5.

    Empty lines do not matter.
    """
    filled_lines = [line for line in lines if line]
    return all(re.fullmatch(r"[+-]?\d*,\d+", line.strip()) for line in filled_lines)


def suggest_header(names: list[str]) -> str:
    """Return a sentence that suggests a line of names if the first line seems to be data.

    `names` are the names of the columns, which come from the first line. Returns "" if they
    look like names.
    """
    if not _has_value(names) and not _are_unsorted_integers(names):
        return ""
    return (
        "The first line seems to be data: write a line with the names of the columns"
        " above it."
    )


def _has_value(names: list[str]) -> bool:
    """Return whether any of the names is a negative integer or a fraction.

    Examples are -7, 0.5 and 1.5e-3. Other integers, such as 2026, may well be names.
    """
    value = r"-\d+|[+-]?\d*\.\d+(?:[eE][+-]?\d+)?"
    return any(re.fullmatch(value, name) for name in names)


def _are_unsorted_integers(names: list[str]) -> bool:
    """Return whether all names are integers that are not in rising order.

    Integers in rising order may be names, such as years or positions.
    """
    integers = [int(name) for name in names if re.fullmatch(r"\d{1,18}", name)]
    if len(names) < 2 or len(integers) < len(names):
        return False
    return integers != sorted(set(integers))
