"""Find the rows that break the rules of `data.expect` in settings.yml.

The rules are evaluated in the same pass that writes the prepared parts. Only counts and the
number of the first row that breaks a rule are kept in memory. The rule `unique` is an
exception: it compares the hashes of all values, which are kept in a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from expectations import Check
from messages import show_text
from sources import FILE, ROW_NUMBER, TEXT, Source

# A message shows this many characters of a value.
SHOWN_CHARACTERS = 40
# A message shows this many values of a rule.
SHOWN_VALUES = 10
# To find repeated values, about this many hashes are compared at once.
HASHES_AT_A_TIME = 2_000_000
# Each value has two hashes of 64 bits, with different seeds. Among a few billion values, two
# different ones may share one hash, but they will hardly share both.
SEEDS = (0, 1)


@dataclass(frozen=True)
class BrokenRows:
    """The number of rows that break a rule, and the first of these rows."""

    count: int
    #: The number of the first row's file, and the number of the row in this file. Both are
    #: counted from 0, and None if no row breaks the rule.
    file: int | None = None
    row: int | None = None
    #: The smallest value of the column for a rule `min`, and the largest for a rule `max`.
    #: None for other rules.
    extreme: Any = None


@dataclass(frozen=True)
class CheckResult:
    """How many rows break a rule, and a sentence if this violates the rule."""

    name: str
    rows: int
    violation: str | None = None


@dataclass(frozen=True)
class AggregationNames:
    """The names of the aggregations of a check in the summary of the files."""

    broken: str
    first_broken: str
    extreme: str


def _name_aggregations(check_number: int) -> AggregationNames:
    """Return the names of a check's aggregations. The first check has the number 0."""
    return AggregationNames(
        broken=f"broken {check_number}",
        first_broken=f"first broken {check_number}",
        extreme=f"extreme {check_number}",
    )


def _name_hashes(check_number: int) -> list[str]:
    """Return the names of the columns with a check's hashes, one for each seed."""
    return [f"{check_number} {seed}" for seed in SEEDS]


def aggregate_broken_rows(checks: Sequence[Check]) -> list[pl.Expr]:
    """Return expressions that summarize for each file which of its rows break the rules.

    For each check, the expressions count the rows that break its rule, and find the first
    of these rows. For the rules `min` and `max`, they also find the smallest or the largest
    value of the column. `evaluate_checks` reads the results.
    """
    aggregations = []
    for check_number, check in enumerate(checks):
        # `breaks_rule` is an expression that is True in rows that break the rule. The rule
        # `unique` has none, because no row breaks it alone: see `select_hashes`.
        if check.breaks_rule is None:
            continue
        names = _name_aggregations(check_number)
        first_row = pl.when(check.breaks_rule).then(pl.col(ROW_NUMBER)).min()
        aggregations.append(check.breaks_rule.sum().alias(names.broken))
        aggregations.append(first_row.alias(names.first_broken))
        # `pl.col` would read a name such as `^a$` as a pattern.
        column = cs.by_name(check.column).as_expr()
        if check.rule == "min":
            aggregations.append(column.min().alias(names.extreme))
        if check.rule == "max":
            aggregations.append(column.max().alias(names.extreme))
    return aggregations


def select_hashes(rows: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame | None:
    """Select the hashes of the columns that must be unique.

    Each row of the result has the number of its file, its number in this file, and two
    hashes for each column that must be unique. Two hashes with different seeds make it
    nearly impossible that different values look equal. The hash of a missing value is null.
    Returns None if no column must be unique.
    """
    hashes = []
    for check_number, check in enumerate(checks):
        if check.rule != "unique":
            continue
        # `pl.col` would read a name such as `^a$` as a pattern.
        values = cs.by_name(check.column).as_expr()
        for seed, name in zip(SEEDS, _name_hashes(check_number)):
            hash_of_value = pl.when(values.is_not_null()).then(values.hash(seed))
            hashes.append(hash_of_value.alias(name))
    if not hashes:
        return None
    return rows.select(FILE, ROW_NUMBER, *hashes)


def evaluate_checks(
    sources: list[Source],
    checks: Sequence[Check],
    summary: pl.DataFrame,
    hashes_file: Path,
) -> list[CheckResult]:
    """Return the result of each check, with a sentence if its rule is violated.

    `summary` has a row for each file, with the number of its rows and the results of
    `aggregate_broken_rows`. `hashes_file` holds the rows of `select_hashes`.
    """
    total_rows = int(summary["rows"].sum())
    results = []
    for check_number, check in enumerate(checks):
        if check.rule == "unique":
            names = _name_hashes(check_number)
            broken = find_repeats(hashes_file, names, total_rows)
        else:
            broken = _read_broken_rows(summary, check, check_number)
        violation = None
        if broken.count and not _is_allowed(check, broken, total_rows):
            violation = _describe_violation(check, broken, total_rows, sources)
        name = f"{check.column} {check.rule}"
        results.append(CheckResult(name, broken.count, violation))
    return results


def _is_allowed(check: Check, broken: BrokenRows, total_rows: int) -> bool:
    """Return whether a rule `missing` allows this share of rows without a value."""
    return check.rule == "missing" and broken.count / total_rows <= check.value


def _read_broken_rows(
    summary: pl.DataFrame, check: Check, check_number: int
) -> BrokenRows:
    """Return how many rows of all files break the rule of a check, and the first of them.

    `summary` has the results of `aggregate_broken_rows` for each file.
    """
    names = _name_aggregations(check_number)
    files_with_broken_rows = summary.filter(pl.col(names.broken) > 0).sort(FILE)
    if files_with_broken_rows.is_empty():
        return BrokenRows(count=0)
    # In a file with broken rows, the extreme value is one that breaks the rule.
    extreme = None
    if check.rule == "min":
        extreme = files_with_broken_rows[names.extreme].min()
    if check.rule == "max":
        extreme = files_with_broken_rows[names.extreme].max()
    return BrokenRows(
        count=int(files_with_broken_rows[names.broken].sum()),
        file=files_with_broken_rows[FILE][0],
        row=files_with_broken_rows[names.first_broken][0],
        extreme=extreme,
    )


def find_repeats(
    hashes_file: Path, names: Sequence[str], total_rows: int
) -> BrokenRows:
    """Find the rows that repeat a value of an earlier row, by the hashes of the values.

    `names` are the names of the hash columns in the file. To limit the memory, the hashes
    are compared in portions of about HASHES_AT_A_TIME rows. Equal values have equal hashes,
    so they are in the same portion. Rows without a value have no hash, and are in none.
    """
    portion_count = math.ceil(total_rows / HASHES_AT_A_TIME)
    repeated_rows = 0
    first_repeats = []
    for portion in range(portion_count):
        # Each of the hashes divides the rows about evenly, so the first one is used.
        is_in_portion = pl.col(names[0]) % portion_count == portion
        portion_hashes = (
            pl.scan_parquet(hashes_file, glob=False)
            .select(FILE, ROW_NUMBER, *names)
            .filter(is_in_portion)
            .collect(engine="streaming")
        )
        repeats = _select_repeats(portion_hashes, names)
        repeated_rows += len(repeats)
        first_repeats += repeats.head(1).rows()
    if not first_repeats:
        return BrokenRows(count=0)
    # Each row of `first_repeats` is the number of a file and the number of a row in it, so
    # the smallest one comes first in the data.
    file, row = min(first_repeats)
    return BrokenRows(repeated_rows, file, row)


def _select_repeats(hashes: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the rows with the same hashes as an earlier row, in the order of the data.

    The result has the number of each row's file, and the number of the row in this file.
    """
    # After sorting, rows with equal hashes follow each other.
    sorted_hashes = hashes.sort(*names, FILE, ROW_NUMBER)
    is_repeat = pl.all_horizontal(
        pl.col(name) == pl.col(name).shift() for name in names
    )
    repeats = sorted_hashes.filter(is_repeat)
    return repeats.select(FILE, ROW_NUMBER).sort(FILE, ROW_NUMBER)


def _describe_violation(
    check: Check, broken: BrokenRows, total_rows: int, sources: list[Source]
) -> str:
    """Return a sentence on a violated rule, with the first row that breaks it."""
    # A rule is only violated if a row breaks it, so there is a first row.
    assert broken.file is not None
    assert broken.row is not None
    source = sources[broken.file]
    place = describe_place(source, broken.row)
    rows = f"{broken.count} of {total_rows} rows"
    if check.rule == "missing":
        share = broken.count / total_rows
        return (
            f"the column '{check.column}' has no value in {rows} ({share:.2%}), but the"
            f" share of such rows may be at most {check.value}; the first is {place}."
        )
    value = _spell_value(source, check.column, broken.row)
    if check.rule == "unique":
        return (
            f"the column '{check.column}', which must be unique, repeats an earlier value"
            f" in {rows}; the first such value is {value}, in {place}."
        )
    if check.rule == "values":
        return (
            f"the column '{check.column}' has other values than"
            f" {_list_values(check.value)} in {rows}; the first is {value}, in {place}."
        )
    return _describe_broken_bound(check, broken, rows, value, place)


def _describe_broken_bound(
    check: Check, broken: BrokenRows, rows: str, value: str, place: str
) -> str:
    """Return a sentence on a violated `min` or `max` rule.

    `value` is the first value that breaks the rule, and `place` is its place, such as "line
    7 of a.csv". `rows` says how many rows break the rule, such as "3 of 40 rows".
    """
    if check.rule == "min":
        relation = "below the minimum"
        superlative = "smallest"
    else:
        relation = "above the maximum"
        superlative = "largest"
    message = (
        f"the column '{check.column}' is {relation} of {check.value} in {rows}; the first"
        f" such value is {value}, in {place}"
    )
    if broken.count == 1:
        return f"{message}."
    # `value` is spelled as in the file. The extreme value is spelled as in settings.yml, so
    # that it can be compared with the rule.
    return f"{message}; the {superlative} is {broken.extreme}."


def _list_values(values: Sequence[str | int]) -> str:
    """Return the first values of a rule as settings.yml spells them, such as "free, pro"."""
    spellings = []
    for value in values[:SHOWN_VALUES]:
        # YAML writes booleans in lower case.
        spelling = str(value).lower() if isinstance(value, bool) else str(value)
        spellings.append(spelling)
    if len(values) > SHOWN_VALUES:
        spellings.append("…")
    return ", ".join(spellings)


def describe_place(source: Source, row: int) -> str:
    """Return the place of a row, such as "line 7 of a.csv" or "row 7 of a.parquet".

    `row` is the number of the row in its file, counted from 0.
    """
    file = source.csv_file
    if file is None:
        return f"row {row + 1} of {source.name}"
    # The bytes of a file are only counted if it has no quotes. Then no value can contain a
    # line end, so each row is one line.
    has_one_line_per_row = source.expected_bytes > 0
    if has_one_line_per_row:
        header_line = file.skipped_lines + 1
        return f"line {header_line + 1 + row} of {source.name}"
    return f"line {file.find_line(row)} of {source.name}"


def _spell_value(source: Source, name: str, row: int) -> str:
    """Return a value of a column as the file spells it. Text is put in quotes.

    `row` is the number of the row in its file, counted from 0.
    """
    column = source.columns[name]
    spelling = column.values if column.csv_text is None else column.csv_text
    value = source.frame.slice(row, 1).select(spelling).collect().item()
    shown = show_text(value)[:SHOWN_CHARACTERS]
    return f"'{shown}'" if column.type == TEXT else shown
