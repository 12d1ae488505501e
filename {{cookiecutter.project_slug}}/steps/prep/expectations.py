"""Turn the rules of `data.expect` in settings.yml into checks of the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import polars.selectors as cs
from messages import join_sentences, suggest_similar_name
from sources import (
    BOOLEAN,
    DATE,
    INTEGER,
    TEXT,
    TIMESTAMP,
    ColumnRoles,
    DataError,
    Source,
    find_note,
    get_type_name,
)

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


def parse_expectations(text: str) -> dict[str, dict[str, Any]]:
    """Parse the rules of each column from JSON. Raises ValueError if it is not JSON."""
    expectations: dict[str, dict[str, Any]] = json.loads(text)
    return expectations


def add_rules_for_training(
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


def add_rules_for_scoring(
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
        roles = add_rules_for_training(roles, checked)
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

        # New data may hold fractions where the training data held integers. A rule for
        # integers still fits then, and the fractions break it.
        expected = roles.get_expected_column(name)
        expected_type = types[name] if expected is None else expected.type
        is_empty = all(column.type is None for column in columns)
        for check in _list_checks_of_column(name, rules, is_empty=is_empty):
            problem = _find_problem(check, expected_type)
            if problem is None:
                is_broken = _express_broken_rule(check, types[name])
                checks.append(replace(check, breaks_rule=is_broken))
            else:
                problems.append(join_sentences(problem, _quote_note(name, sources)))
    if problems:
        raise DataError("\n".join(problems))
    return checks


def _list_checks_of_column(
    name: str, rules: Mapping[str, Any], *, is_empty: bool
) -> Iterator[Check]:
    """Yield a check for each rule of a column that can be broken."""
    for rule, value in rules.items():
        is_switched_off = rule == "unique" and not value
        # No value of an empty column can break such a rule, and the column has no type
        # that the rule could contradict.
        is_pointless = is_empty and rule in RULES_ON_VALUES
        if not is_switched_off and not is_pointless:
            yield Check(name, rule, value)


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


def _find_problem(check: Check, dtype: pl.DataType) -> str | None:
    """Return what is wrong with a rule for the type of its column, or None."""
    if check.rule == "values":
        return _find_problem_of_values(check, dtype)
    if check.rule in ("min", "max"):
        return _find_problem_of_bound(check, dtype)
    return None


def _find_problem_of_values(check: Check, dtype: pl.DataType) -> str | None:
    """Return what is wrong with the rule `values` for the type, or None."""
    column = check.column
    if dtype.is_float():
        return (
            f"data.expect.{column}.values in settings.yml lists values, but the column"
            f" '{column}' is of type {get_type_name(dtype)}, whose values cannot be compared"
            " exactly: use min and max."
        )
    for value in check.value:
        if not _is_of_type(value, dtype):
            shown_value = json.dumps(value, ensure_ascii=False)
            return (
                f"data.expect.{column}.values in settings.yml lists {shown_value}, but the"
                f" column '{column}' is of type {get_type_name(dtype)}:"
                f" {_explain_spelling(dtype)}."
            )
    return None


def _find_problem_of_bound(check: Check, dtype: pl.DataType) -> str | None:
    """Return what is wrong with the rule `min` or `max` for the type, or None."""
    column = check.column
    rule = check.rule
    bound = check.value
    if not (dtype.is_numeric() or dtype.is_temporal()):
        return (
            f"data.expect.{column}.{rule} in settings.yml is {bound}, but the column"
            f" '{column}' is of type {get_type_name(dtype)}, and only numbers and dates"
            f" have a {rule}: correct the data, or remove the rule."
        )
    if not _is_of_type(bound, dtype):
        kind = "a date" if isinstance(bound, str) else "a number"
        return (
            f"data.expect.{column}.{rule} in settings.yml is {bound}, {kind}, but the"
            f" column '{column}' is of type {get_type_name(dtype)}:"
            f" {_explain_spelling(dtype)}."
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


def _express_broken_rule(check: Check, dtype: pl.DataType) -> pl.Expr | None:
    """Return an expression that is True in rows that break a rule; None for `unique`."""
    column = cs.by_name(check.column).as_expr()
    if check.rule == "unique":
        return None
    if check.rule == "missing":
        return column.is_null()
    if check.rule == "values":
        return ~_is_among(column, check.value, dtype)
    values, bound = _make_comparable(column, check.value)
    return values < bound if check.rule == "min" else values > bound


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
