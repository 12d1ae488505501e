"""Find the rows that break the rules of `data.expect` in settings.yml.

The rules are evaluated in the pass that writes the prepared parts. Only counts and the
number of the first row that breaks a rule are kept in memory. The rule `unique` is an
exception, see `find_repeats`.
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

SHOWN_CHARACTERS = 40  # of a value in a message
SHOWN_VALUES = 10  # of a rule in a message
# The largest number of hashes that are compared at once, to find repeated values.
HASHES_AT_A_TIME = 2_000_000
# Values are compared by two hashes, one of each seed. Among a few billion values, some two
# probably share one hash of 64 bits. No two will share both hashes.
SEEDS = (0, 1)


@dataclass(frozen=True)
class BrokenRows:
    """The number of rows that break a rule, and the first of them.

    `file` is the position of its file among all files, and `row` its row in this file,
    counted from 0. Both are None if no row breaks the rule. `extreme` is the smallest value
    of a rule `min`, the largest one of a rule `max`, and None of other rules.
    """

    count: int
    file: int | None = None
    row: int | None = None
    extreme: Any = None


@dataclass(frozen=True)
class CheckResult:
    """The number of rows that break a rule, and a sentence if the rule is violated."""

    name: str
    rows: int
    violation: str | None = None


def aggregate_broken_rows(checks: Sequence[Check]) -> list[pl.Expr]:
    """Return aggregations that count the rows that break each rule, and find the first.

    For the rules `min` and `max`, the aggregations also find the smallest or the largest
    value. They are computed for each file, and `evaluate_checks` reads them.
    """
    aggregations = []
    for number, check in enumerate(checks):
        if check.breaks_rule is None:
            continue
        first_row = pl.when(check.breaks_rule).then(pl.col(ROW_NUMBER)).min()
        aggregations.append(check.breaks_rule.sum().alias(f"broken {number}"))
        aggregations.append(first_row.alias(f"first broken {number}"))
        column = cs.by_name(check.column).as_expr()
        if check.rule == "min":
            aggregations.append(column.min().alias(f"extreme {number}"))
        if check.rule == "max":
            aggregations.append(column.max().alias(f"extreme {number}"))
    return aggregations


def select_hashes(rows: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame | None:
    """Select the hashes of columns that must be unique, or None without such columns.

    Each row has the number of its file, its own number, and a hash of each seed.
    """
    hashes = []
    for number, check in enumerate(checks):
        if check.rule != "unique":
            continue
        values = cs.by_name(check.column).as_expr()
        for seed, name in zip(SEEDS, _name_hashes(number)):
            hash_of_value = pl.when(values.is_not_null()).then(values.hash(seed))
            hashes.append(hash_of_value.alias(name))
    if not hashes:
        return None
    return rows.select(FILE, ROW_NUMBER, *hashes)


def _name_hashes(number: int) -> list[str]:
    """Return the names of the columns with the hashes of a check, by its number."""
    return [f"{number} {seed}" for seed in SEEDS]


def evaluate_checks(
    sources: list[Source],
    checks: Sequence[Check],
    summary: pl.DataFrame,
    hashes: Path,
) -> list[CheckResult]:
    """Return the result of each check, with a sentence for each rule that is violated.

    `summary` has the number of rows and the aggregations of `aggregate_broken_rows` for each
    file. `hashes` is the file with the rows of `select_hashes`.
    """
    total = int(summary["rows"].sum())
    results = []
    for number, check in enumerate(checks):
        if check.rule == "unique":
            broken = find_repeats(hashes, _name_hashes(number), total)
        else:
            broken = _read_broken_rows(summary, check, number)
        violation = None
        if broken.count and not _is_allowed(check, broken, total):
            violation = _describe_violation(check, broken, total, sources)
        name = f"{check.column} {check.rule}"
        results.append(CheckResult(name, broken.count, violation))
    return results


def _is_allowed(check: Check, broken: BrokenRows, total: int) -> bool:
    """Return whether the rule `missing` allows this share of rows without a value."""
    return check.rule == "missing" and broken.count / total <= check.value


def _read_broken_rows(summary: pl.DataFrame, check: Check, number: int) -> BrokenRows:
    """Return the rows that break the rule of a check, from the summary of all files."""
    broken_files = summary.filter(pl.col(f"broken {number}") > 0).sort(FILE)
    if broken_files.is_empty():
        return BrokenRows(0)
    extreme = None
    if check.rule == "min":
        extreme = broken_files[f"extreme {number}"].min()
    if check.rule == "max":
        extreme = broken_files[f"extreme {number}"].max()
    return BrokenRows(
        count=int(broken_files[f"broken {number}"].sum()),
        file=broken_files[FILE][0],
        row=broken_files[f"first broken {number}"][0],
        extreme=extreme,
    )


def find_repeats(hashes: Path, names: Sequence[str], rows: int) -> BrokenRows:
    """Find the rows that repeat a value of an earlier row, by the hashes of the values.

    `names` are the columns of the hashes. To limit the memory, the hashes are compared in
    portions of about HASHES_AT_A_TIME. Equal values have equal hashes, so they are in the
    same portion.
    """
    portions = math.ceil(rows / HASHES_AT_A_TIME)
    repeated_rows = 0
    first_repeats = []
    for portion in range(portions):
        is_in_portion = pl.col(names[0]) % portions == portion
        portion_hashes = (
            pl.scan_parquet(hashes, glob=False)
            .select(FILE, ROW_NUMBER, *names)
            .filter(is_in_portion)
            .collect(engine="streaming")
        )
        repeats = _select_repeats(portion_hashes, names)
        repeated_rows += len(repeats)
        first_repeats += repeats.head(1).rows()
    if not first_repeats:
        return BrokenRows(0)
    file, row = min(first_repeats)
    return BrokenRows(repeated_rows, file, row)


def _select_repeats(hashes: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the file and row of each hash that an earlier row has, in their order."""
    sorted_hashes = hashes.sort(*names, FILE, ROW_NUMBER)
    is_repeat = pl.all_horizontal(
        pl.col(name) == pl.col(name).shift() for name in names
    )
    repeats = sorted_hashes.filter(is_repeat)
    return repeats.select(FILE, ROW_NUMBER).sort(FILE, ROW_NUMBER)


def _describe_violation(
    check: Check, broken: BrokenRows, total: int, sources: list[Source]
) -> str:
    """Return the sentence on a violated rule, with the first row that breaks it."""
    assert broken.file is not None
    assert broken.row is not None
    source = sources[broken.file]
    place = describe_place(source, broken.row)
    rows = f"{broken.count} of {total} rows"
    if check.rule == "missing":
        share = broken.count / total
        return (
            f"the column '{check.column}' has no value in {rows} ({share:.2%}), more than"
            f" the share of {check.value} that may be missing; the first is {place}."
        )
    value = _spell_value(source, check.column, broken.row)
    if check.rule == "unique":
        return (
            f"the column '{check.column}', which must be unique, repeats an earlier value"
            f" in {rows}; the first such value is {value}, in {place}."
        )
    if check.rule == "values":
        return (
            f"the column '{check.column}' is none of the values"
            f" {_list_values(check.value)} in {rows}; the first other value is {value}, in"
            f" {place}."
        )
    relation = "below" if check.rule == "min" else "above"
    message = (
        f"the column '{check.column}' is {relation} the {check.rule} of {check.value} in"
        f" {rows}; the first such value is {value}, in {place}"
    )
    if broken.count == 1:
        return f"{message}."
    superlative = "smallest" if check.rule == "min" else "largest"
    # It is written as settings.yml needs it, with a decimal point.
    return f"{message}; the {superlative} is {broken.extreme}."


def _list_values(values: Sequence[str | int]) -> str:
    """Return the first values of a rule as settings.yml has them, such as "free, pro"."""
    texts = []
    for value in values[:SHOWN_VALUES]:
        # YAML writes booleans in lower case.
        texts.append(str(value).lower() if isinstance(value, bool) else str(value))
    if len(values) > SHOWN_VALUES:
        texts.append("…")
    return ", ".join(texts)


def describe_place(source: Source, row: int) -> str:
    """Return where a row is, such as "line 7 of a.csv"."""
    file = source.csv_file
    if file is None:
        return f"row {row + 1} of {source.name}"
    if source.expected_bytes:
        # Each row is one line, because no value of the file has a line break.
        line_of_names = file.skipped_lines + 1
        return f"line {line_of_names + 1 + row} of {source.name}"
    return f"line {file.find_line(row)} of {source.name}"


def _spell_value(source: Source, name: str, row: int) -> str:
    """Return a value as its file spells it. Text is in quotes."""
    column = source.columns[name]
    spelling = column.values if column.csv_text is None else column.csv_text
    value = source.frame.slice(row, 1).select(spelling).collect().item()
    shown = show_text(value)[:SHOWN_CHARACTERS]
    return f"'{shown}'" if column.type == TEXT else shown
