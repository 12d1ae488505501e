"""Check the rules of `data.expect` in settings.yml.

The rules are polars expressions, which are evaluated in the pass that writes the prepared
parts. Only counts and the number of the first row that breaks a rule are kept in memory.
The rule `unique` is an exception, see `find_repeats`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from messages import join_sentences, show_text, suggest_similar_name
from sources import (
    BOOLEAN,
    DATE,
    FILE,
    INTEGER,
    ROW_NUMBER,
    TEXT,
    TIMESTAMP,
    ColumnRoles,
    DataError,
    Source,
    find_note,
    type_name,
)

SHOWN_CHARACTERS = 40  # of a value in a message
SHOWN_VALUES = 10  # of a rule in a message
# The largest number of hashes that are compared at once, to find repeated values.
HASHES_AT_A_TIME = 2_000_000
# Values are compared by two hashes, one of each seed. Among a few billion values, some two
# probably share one hash of 64 bits. No two will share both hashes.
SEEDS = (0, 1)
# Every integer of 64 bits is smaller.
TWO_TO_THE_63 = 2**63
# The rules that compare the values of a column, so that they must fit its type.
RULES_ON_VALUES = ("min", "max", "values")


@dataclass(frozen=True)
class Check:
    """A rule for a column that the data has.

    `breaks_rule` is True in rows that break the rule. It is None for `unique`, because
    a row cannot break this rule alone.
    """

    column: str
    rule: str
    value: Any
    breaks_rule: pl.Expr | None = None


@dataclass(frozen=True)
class BrokenRows:
    """The number of rows that break a rule, and the first of them.

    `file` is the position of its file among all files, and `row` its row in this file,
    counted from 0. Both are None if no row breaks the rule.
    """

    count: int
    file: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class CheckResult:
    """The number of rows that break a rule, and a sentence if the rule is violated."""

    name: str
    rows: int
    violation: str | None = None


# Choosing the checks


def parse_expectations(text: str) -> dict[str, dict[str, Any]]:
    """Parse the rules of each column from JSON. Raises ValueError if it is not JSON."""
    expectations: dict[str, dict[str, Any]] = json.loads(text)
    return expectations


def expect_of_training_data(
    roles: ColumnRoles, expectations: Mapping[str, Mapping[str, Any]]
) -> ColumnRoles:
    """Add the rules that training data must follow to the roles of the columns.

    Ignored columns that have a rule are read, too, but only to check them.
    """
    return replace(
        roles,
        ignore=[name for name in roles.ignore if name not in expectations],
        expectations=expectations,
        only_checked=[name for name in roles.ignore if name in expectations],
    )


def expect_of_new_data(
    roles: ColumnRoles,
    expectations: Mapping[str, Mapping[str, Any]],
    ignore: Sequence[str],
    target: str | None,
) -> ColumnRoles:
    """Add the rules that data to score must follow to the roles of the columns.

    The target is not checked. Columns that the model does not need may be missing, even
    if they have a rule. `ignore` are the ignored columns of settings.yml.
    """
    checked = {name: expectations[name] for name in expectations if name != target}
    if roles.model_columns is None:
        # An older model does not record which columns it was trained with.
        roles = expect_of_training_data(roles, checked)
        return replace(roles, optional=list(checked))
    read_by_model = [*roles.model_columns, *roles.keys]
    return replace(
        roles,
        expectations=checked,
        only_checked=[name for name in checked if name not in read_by_model],
        optional=[*roles.model_columns, *ignore],
    )


def choose_checks(
    sources: list[Source], types: Mapping[str, pl.DataType], roles: ColumnRoles
) -> list[Check]:
    """Return a check for each rule whose column the files have.

    Raises DataError that lists all rules that do not fit the columns.
    """
    checks: list[Check] = []
    problems: list[str] = []
    for name, rules in roles.expectations.items():
        columns = [s.columns[name] for s in sources if name in s.columns]
        if not columns:
            if name not in roles.optional:
                problems.append(_explain_absence(name, sources))
            continue
        if name not in types:
            problems.append(
                f"data.expect in settings.yml names the column '{name}', whose values are"
                " neither numbers nor dates nor text: remove its rules, or convert it."
            )
            continue

        is_empty = all(column.type is None for column in columns)
        for rule, value in _list_effective_rules(rules, is_empty=is_empty):
            problem = _find_problem(name, rule, value, types[name], roles)
            if problem is None:
                checks.append(_build_check(name, rule, value, types[name]))
            else:
                problems.append(join_sentences(problem, _quote_note(name, sources)))
    if problems:
        raise DataError("\n".join(problems))
    return checks


def _list_effective_rules(
    rules: Mapping[str, Any], *, is_empty: bool
) -> Iterator[tuple[str, Any]]:
    """Yield the rules of a column that are to be checked, with their values."""
    for rule, value in rules.items():
        is_switched_off = rule == "unique" and not value
        # No value of an empty column can break such a rule, and the column has no type
        # that the rule could contradict.
        is_pointless = is_empty and rule in RULES_ON_VALUES
        if not is_switched_off and not is_pointless:
            yield rule, value


def _explain_absence(name: str, sources: list[Source]) -> str:
    """Return the sentence that no file has a column for which there are rules."""
    names = dict.fromkeys(column for source in sources for column in source.columns)
    problem = f"No file has a column '{name}', which data.expect in settings.yml names."
    hint = suggest_similar_name(name, names) or "Correct the name, or remove its rules."
    return join_sentences(problem, hint)


def _quote_note(name: str, sources: list[Source]) -> str:
    """Return a sentence with the first note on a column, which may explain its type."""
    note = find_note(sources, name)
    return f"In detail: {note.text}" if note else ""


def _find_problem(
    name: str, rule: str, value: Any, dtype: pl.DataType, roles: ColumnRoles
) -> str | None:
    """Return a sentence if a rule does not fit the type of its column, or None."""
    if rule not in RULES_ON_VALUES:
        return None
    expected = roles.get_expected_column(name)
    if expected is not None:
        # New data may hold fractions where the training data held integers. The rule
        # still fits then, and the fractions break it.
        dtype = expected.type
    if rule == "values":
        return _find_problem_of_values(name, value, dtype)
    return _find_problem_of_bound(name, rule, value, dtype)


def _find_problem_of_values(
    name: str, values: Sequence[Any], dtype: pl.DataType
) -> str | None:
    """Return a sentence if the rule `values` does not fit a column's type, or None."""
    if dtype.is_float():
        return (
            f"data.expect.{name}.values in settings.yml lists values, but the column"
            f" '{name}' is of type {type_name(dtype)}, whose values cannot be compared"
            " exactly: use min and max."
        )
    for value in values:
        if not _is_of_type(value, dtype):
            shown_value = json.dumps(value, ensure_ascii=False)
            return (
                f"data.expect.{name}.values in settings.yml lists {shown_value}, but the"
                f" column '{name}' is of type {type_name(dtype)}:"
                f" {_explain_spelling(dtype)}."
            )
    return None


def _find_problem_of_bound(
    name: str, rule: str, bound: Any, dtype: pl.DataType
) -> str | None:
    """Return a sentence if the rule `min` or `max` does not fit a column's type, or None."""
    if not (dtype.is_numeric() or dtype.is_temporal()):
        return (
            f"data.expect.{name}.{rule} in settings.yml is {bound}, but the column"
            f" '{name}' is of type {type_name(dtype)}, and only numbers and dates have a"
            f" {rule}: correct the data, or remove the rule."
        )
    if not _is_of_type(bound, dtype):
        kind = "a date" if isinstance(bound, str) else "a number"
        return (
            f"data.expect.{name}.{rule} in settings.yml is {bound}, {kind}, but the column"
            f" '{name}' is of type {type_name(dtype)}: {_explain_spelling(dtype)}."
        )
    return None


def _is_of_type(value: object, dtype: pl.DataType) -> bool:
    """Return whether a value of settings.yml can be compared with those of a column."""
    if isinstance(value, bool):
        return dtype == BOOLEAN
    if isinstance(value, (int, float)):
        return dtype.is_numeric()
    if dtype.is_temporal():
        return _parse_date(str(value)) is not None
    return dtype == TEXT


def _explain_spelling(dtype: pl.DataType) -> str:
    """Return how to spell the values of a column of this type in settings.yml."""
    if dtype == BOOLEAN:
        return "write true or false, without quotes"
    if dtype.is_numeric():
        return "write a number, without quotes"
    if dtype.is_temporal():
        return "write a date such as 2026-01-31"
    return "put it in quotes"


def _parse_date(text: str) -> date | datetime | None:
    """Parse a date or a time in ISO 8601; return None for other text.

    A time with a zone is converted to UTC, as the times of the data are.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        return time
    return time.astimezone(UTC).replace(tzinfo=None)


def _build_check(name: str, rule: str, value: Any, dtype: pl.DataType) -> Check:
    """Return the check of a rule that fits its column."""
    column = cs.by_name(name).as_expr()
    if rule == "unique":
        return Check(name, rule, value)
    if rule == "missing":
        return Check(name, rule, value, breaks_rule=column.is_null())
    if rule == "values":
        is_allowed = _is_among(column, value, dtype)
        return Check(name, rule, value, breaks_rule=~is_allowed)
    values, bound = _make_comparable(column, value)
    if rule == "min":
        return Check(name, rule, value, breaks_rule=values < bound)
    return Check(name, rule, value, breaks_rule=values > bound)


def _is_among(column: pl.Expr, allowed: list[Any], dtype: pl.DataType) -> pl.Expr:
    """Return whether each value of a column is one of those that are allowed."""
    if dtype.is_temporal():
        times = pl.Series([_parse_date(text) for text in allowed], dtype=TIMESTAMP)
        return column.cast(TIMESTAMP).is_in(times.implode())
    if dtype.is_numeric():
        # An integer beyond 64 bits becomes null, which no value of the data equals.
        numbers = pl.Series(allowed, dtype=INTEGER, strict=False)
        return column.is_in(numbers.cast(dtype).implode())
    return column.is_in(pl.Series(allowed, dtype=dtype).implode())


def _make_comparable(column: pl.Expr, bound: float | str) -> tuple[pl.Expr, pl.Expr]:
    """Convert a column and its min or max to types that can be compared.

    If the bound is a date without a time, the times of the column are compared by their
    days.
    """
    if isinstance(bound, str):
        moment = _parse_date(bound)
        if isinstance(moment, datetime):
            return column.cast(TIMESTAMP), pl.lit(moment, TIMESTAMP)
        return column.cast(DATE), pl.lit(moment, DATE)
    if abs(bound) >= TWO_TO_THE_63:
        # An integer of 64 bits cannot hold the bound.
        return column, pl.lit(float(bound))
    return column, pl.lit(bound)


# Finding the violations


def count_broken_rows(checks: Sequence[Check]) -> list[pl.Expr]:
    """Return aggregations that count the rows that break each rule, and find the first.

    They are computed for each file, and `find_violations` reads them.
    """
    aggregations = []
    for number, check in enumerate(checks):
        if check.breaks_rule is None:
            continue
        first_row = pl.when(check.breaks_rule).then(pl.col(ROW_NUMBER)).min()
        aggregations.append(check.breaks_rule.sum().alias(f"broken {number}"))
        aggregations.append(first_row.alias(f"first broken {number}"))
    return aggregations


def select_hashes(rows: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame | None:
    """Select the hashes of columns that must be unique; None if there is no such column.

    Each value has a hash of each seed, next to the numbers of its file and row.
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


def find_violations(
    sources: list[Source],
    checks: Sequence[Check],
    summary: pl.DataFrame,
    hashes: Path,
) -> list[CheckResult]:
    """Return the result of each check, with a sentence for each rule that is violated.

    `summary` has the number of rows and the aggregations of `count_broken_rows` for each
    file. `hashes` is the file with the rows of `select_hashes`.
    """
    total = int(summary["rows"].sum())
    results = []
    for number, check in enumerate(checks):
        if check.rule == "unique":
            broken = find_repeats(hashes, _name_hashes(number), total)
        else:
            broken = _read_broken_rows(summary, number)
        violation = None
        if broken.count and not _is_allowed(check, broken, total):
            violation = _describe_violation(check, broken, total, sources)
        name = f"{check.column} {check.rule}"
        results.append(CheckResult(name, broken.count, violation))
    return results


def _is_allowed(check: Check, broken: BrokenRows, total: int) -> bool:
    """Return whether the rule `missing` allows this share of rows without a value."""
    return check.rule == "missing" and broken.count / total <= check.value


def _read_broken_rows(summary: pl.DataFrame, number: int) -> BrokenRows:
    """Return the rows that break the rule of a check, from the summary of all files."""
    broken_files = summary.filter(pl.col(f"broken {number}") > 0).sort(FILE)
    if broken_files.is_empty():
        return BrokenRows(0)
    return BrokenRows(
        count=int(broken_files[f"broken {number}"].sum()),
        file=broken_files[FILE][0],
        row=broken_files[f"first broken {number}"][0],
    )


def find_repeats(hashes: Path, names: Sequence[str], rows: int) -> BrokenRows:
    """Find the rows that repeat a value of an earlier row, by the hashes of the values.

    `names` are the columns of the hashes. The hashes are divided into portions by the
    remainder of a division, so that equal values are in the same portion. The memory that
    this takes is that of HASHES_AT_A_TIME hashes, whatever the number of rows.
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
    place = _find_place(source, broken.row)
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
    return (
        f"the column '{check.column}' is {relation} the {check.rule} of {check.value} in"
        f" {rows}; the first such value is {value}, in {place}."
    )


def _list_values(values: Sequence[str | int]) -> str:
    """Return the first values of a rule as settings.yml has them, such as "free, pro"."""
    texts = []
    for value in values[:SHOWN_VALUES]:
        # YAML writes booleans in lower case.
        texts.append(str(value).lower() if isinstance(value, bool) else str(value))
    if len(values) > SHOWN_VALUES:
        texts.append("…")
    return ", ".join(texts)


def _find_place(source: Source, row: int) -> str:
    """Return where a row is, such as "line 7 of a.csv"."""
    if source.csv_file is None:
        return f"row {row + 1} of {source.name}"
    if source.expected_bytes:
        # No value of the file has a line break. The names are in line 1.
        return f"line {row + 2} of {source.name}"
    return f"line {source.csv_file.find_line(row)} of {source.name}"


def _spell_value(source: Source, name: str, row: int) -> str:
    """Return a value as its file spells it. Text is in quotes."""
    column = source.columns[name]
    spelling = column.values if column.text is None else column.text
    value = source.frame.slice(row, 1).select(spelling).collect().item()
    shown = show_text(value)[:SHOWN_CHARACTERS]
    return f"'{shown}'" if column.type == TEXT else shown
