"""Check what the user expects of the columns: the rules of `data.expect` in settings.yml.

The rules are polars expressions, which are computed in the pass that writes the prepared
parts. Only counts and the number of the first row are held in memory, whatever the number
of rows. The exception is `unique`, see `find_repeats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import islice
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
# Values are compared by a hash of each seed. That two values share one hash of 64 bits is
# likely among a few billion values. That they share both will not happen.
SEEDS = (0, 1)


@dataclass(frozen=True)
class Check:
    """A rule for a column that the data has.

    `breaks_rule` tells for each row whether it breaks the rule. It is None for `unique`,
    which no row can break alone.
    """

    column: str
    rule: str
    value: Any
    breaks_rule: pl.Expr | None = None


@dataclass(frozen=True)
class BrokenRows:
    """How many rows break a rule, and the first of them.

    `file` is the position of its file among all files, and `row` its row in this file,
    counted from 0. Both are None if there is no such row.
    """

    count: int
    file: int | None = None
    row: int | None = None


@dataclass(frozen=True)
class CheckResult:
    """How many rows break a rule, and a sentence on it if the rule does not allow that."""

    name: str
    rows: int
    violation: str | None = None


# Choosing the checks


def parse_expectations(text: str) -> dict[str, dict[str, Any]]:
    """Return the rules of each column from JSON. Raises ValueError if it is none."""
    expectations: dict[str, dict[str, Any]] = json.loads(text)
    return expectations


def expect_of_training_data(
    roles: ColumnRoles, expectations: Mapping[str, Mapping[str, Any]]
) -> ColumnRoles:
    """Return the roles of columns with the rules that training data must follow.

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
    """Return the roles of columns with the rules that data to score must follow.

    The target is not checked. New data may lack every column with a rule that the model
    does not need. `ignore` are the ignored columns of settings.yml.
    """
    checked = {name: expectations[name] for name in expectations if name != target}
    if roles.model_columns is None:
        # An older model does not tell which columns it was trained with.
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

    Raises DataError that lists all rules which do not fit the columns.
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

        # A column without any value has no type that could contradict a rule.
        is_empty = all(column.type is None for column in columns)
        for rule, value in rules.items():
            needs_type = rule in ("min", "max", "values")
            is_switched_off = rule == "unique" and not value
            if is_switched_off or (needs_type and is_empty):
                continue
            problem = None
            if needs_type:
                problem = _explain_misfit(name, rule, value, types[name], roles)
            if problem is None:
                checks.append(_build_check(name, rule, value, types[name]))
            else:
                problems.append(problem + _quote_note(name, sources))
    if problems:
        raise DataError("\n".join(problems))
    return checks


def _explain_absence(name: str, sources: list[Source]) -> str:
    """Return the sentence that no file has a column for which there are rules."""
    names = list(dict.fromkeys(name for source in sources for name in source.columns))
    problem = f"No file has a column '{name}', which data.expect in settings.yml names."
    hint = suggest_similar_name(name, names) or "Correct the name, or remove its rules."
    return join_sentences(problem, hint)


def _quote_note(name: str, sources: list[Source]) -> str:
    """Return the first note on a column, which often says why it has its type."""
    note = find_note(sources, name)
    return f" In detail: {note.text}" if note else ""


def _explain_misfit(
    name: str, rule: str, value: Any, dtype: pl.DataType, roles: ColumnRoles
) -> str | None:
    """Return the sentence that a rule does not fit the type of its column, or None."""
    expected = roles.get_expected_column(name)
    if expected is not None:
        # New data may hold fractions where the training data held integers. The fractions
        # then break the rule, which itself is right.
        dtype = expected.type
    column_type = type_name(dtype)
    if rule == "values":
        if dtype.is_float():
            return (
                f"data.expect.{name}.{rule} in settings.yml lists values, but the column"
                f" '{name}' is of type {column_type}, whose values cannot be compared"
                " exactly: use min and max."
            )
        for item in value:
            if not _is_of_type(item, dtype):
                shown_item = json.dumps(item, ensure_ascii=False)
                return (
                    f"data.expect.{name}.{rule} in settings.yml lists {shown_item}, but"
                    f" the column '{name}' is of type {column_type}:"
                    f" {_explain_spelling(dtype)}."
                )
        return None
    if not (dtype.is_numeric() or dtype.is_temporal()):
        return (
            f"data.expect.{name}.{rule} in settings.yml is {value}, but the column"
            f" '{name}' is of type {column_type}, and only numbers and dates have a"
            f" {rule}: correct the data, or remove the rule."
        )
    if not _is_of_type(value, dtype):
        kind = "a date" if isinstance(value, str) else "a number"
        return (
            f"data.expect.{name}.{rule} in settings.yml is {value}, {kind}, but the column"
            f" '{name}' is of type {column_type}: {_explain_spelling(dtype)}."
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
    """Return how settings.yml must spell values that are compared with a column."""
    if dtype == BOOLEAN:
        return "write true or false, without quotes"
    if dtype.is_numeric():
        return "write a number, without quotes"
    if dtype.is_temporal():
        return "write a date such as 2026-01-31"
    return "put it in quotes"


def _parse_date(text: str) -> date | datetime | None:
    """Parse a date or a time in ISO 8601, which may have a zone; None for other text."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    # Times of the data are in UTC, too, and have no zone.
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _build_check(name: str, rule: str, value: Any, dtype: pl.DataType) -> Check:
    """Return the check of a rule that fits its column."""
    column = cs.by_name(name).as_expr()
    if rule == "unique":
        return Check(name, rule, value)
    if rule == "missing":
        return Check(name, rule, value, column.is_null())
    if rule == "values":
        return Check(name, rule, value, ~_is_among(column, value, dtype))
    if rule == "min":
        values, bound = _make_comparable(column, value)
        return Check(name, rule, value, values < bound)
    values, bound = _make_comparable(column, value)
    return Check(name, rule, value, values > bound)


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
    """Return a column and a min or max, in types that can be compared.

    A date without a time stands for the whole day, so times are compared by their day.
    """
    if isinstance(bound, str):
        moment = _parse_date(bound)
        if isinstance(moment, datetime):
            return column.cast(TIMESTAMP), pl.lit(moment, TIMESTAMP)
        return column.cast(DATE), pl.lit(moment, DATE)
    if abs(bound) >= 2**63:
        # An integer of 64 bits could not hold the bound.
        return column, pl.lit(float(bound))
    return column, pl.lit(bound)


# Finding the violations


def count_broken_rows(checks: Sequence[Check]) -> list[pl.Expr]:
    """Return the figures that `find_violations` needs of the rows of each file."""
    figures = []
    for number, check in enumerate(checks):
        if check.breaks_rule is None:
            continue
        first_row = pl.when(check.breaks_rule).then(pl.col(ROW_NUMBER)).min()
        figures.append(check.breaks_rule.sum().alias(f"broken {number}"))
        figures.append(first_row.alias(f"first broken {number}"))
    return figures


def select_hashes(rows: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame | None:
    """Return the hashes by which `unique` is checked, or None without such a rule.

    Each value has a hash of each seed, next to the numbers of its file and row.
    """
    hashes = []
    for number, check in enumerate(checks):
        if check.rule == "unique":
            values = cs.by_name(check.column).as_expr()
            hashes += [
                pl.when(values.is_not_null()).then(values.hash(seed)).alias(name)
                for seed, name in zip(SEEDS, _name_hashes(number))
            ]
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

    `summary` has the figures of `count_broken_rows` for each file. `hashes` is the file
    with the rows of `select_hashes`.
    """
    total = int(summary["rows"].sum())
    results = []
    for number, check in enumerate(checks):
        if check.rule == "unique":
            broken = find_repeats(hashes, _name_hashes(number), total)
        else:
            broken = _read_figures(summary, number)
        name = f"{check.column} {check.rule}"
        if not broken.count or _is_allowed(check, broken, total):
            results.append(CheckResult(name, broken.count))
            continue
        sentence = _describe_violation(check, broken, total, sources)
        results.append(CheckResult(name, broken.count, sentence))
    return results


def _is_allowed(check: Check, broken: BrokenRows, total: int) -> bool:
    """Return whether a rule allows so many rows to lack a value."""
    return check.rule == "missing" and broken.count / total <= check.value


def _read_figures(summary: pl.DataFrame, number: int) -> BrokenRows:
    """Return which rows break a rule, from the figures of all files."""
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

    `names` are the columns of the hashes. Equal values have equal hashes, so the hashes
    are compared in portions, each of those that leave the same remainder. So the memory
    is that of HASHES_AT_A_TIME hashes, whatever the number of rows.
    """
    portions = -(-rows // HASHES_AT_A_TIME)
    first_hash = pl.col(names[0])
    is_repeat = pl.all_horizontal(
        pl.col(name) == pl.col(name).shift() for name in names
    )
    count = 0
    first_rows = []
    for portion in range(portions):
        sorted_hashes = (
            pl.scan_parquet(hashes, glob=False)
            .select(FILE, ROW_NUMBER, *names)
            .filter(first_hash % portions == portion)
            .collect(engine="streaming")
            .sort(*names, FILE, ROW_NUMBER)
        )
        repeats = sorted_hashes.filter(is_repeat).select(FILE, ROW_NUMBER)
        count += len(repeats)
        first_rows += repeats.sort(FILE, ROW_NUMBER).head(1).rows()
    if not first_rows:
        return BrokenRows(0)
    file, row = min(first_rows)
    return BrokenRows(count, file, row)


def _describe_violation(
    check: Check, broken: BrokenRows, total: int, sources: list[Source]
) -> str:
    """Return the sentence on a rule that is violated, with its first row and value."""
    assert broken.file is not None
    assert broken.row is not None
    source = sources[broken.file]
    rows = f"{broken.count} of {total} rows"
    place = _find_place(source, broken.row)
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
    texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    if len(texts) > SHOWN_VALUES:
        texts[SHOWN_VALUES:] = ["…"]
    return ", ".join(texts)


def _find_place(source: Source, row: int) -> str:
    """Return where a row is, such as "line 7 of a.csv"."""
    if source.csv_file is None:
        return f"row {row + 1} of {source.name}"
    if source.expected_bytes:
        # No value of the file has a line break. The names are in line 1.
        return f"line {row + 2} of {source.name}"
    # A value may span several lines, so the row's line is looked up in the file.
    line, _ = next(islice(source.csv_file.rows(), row, None), (row + 1, []))
    return f"line {line} of {source.name}"


def _spell_value(source: Source, name: str, row: int) -> str:
    """Return a value as its file spells it; text is in quotes."""
    column = source.columns[name]
    spelling = column.values if column.text is None else column.text
    value = source.frame.slice(row, 1).select(spelling).collect().item()
    shown = show_text(value)[:SHOWN_CHARACTERS]
    return f"'{shown}'" if column.type == TEXT else shown
