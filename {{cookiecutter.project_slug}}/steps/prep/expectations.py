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

# Every 64-bit integer is smaller.
BEYOND_INT64 = 2**63
# The rules that compare the values of a column, so that they must suit its type.
RULES_ON_VALUES = ("min", "max", "values")


@dataclass(frozen=True)
class Check:
    """A rule of `data.expect` for a column of the data."""

    column: str
    #: The name of the rule, such as `min`.
    rule: str
    #: The value of the rule in settings.yml, such as 0 for `min: 0`.
    value: Any
    #: Is True in rows that break the rule. None for `unique`, because no row can break
    #: that rule alone.
    breaks_rule: pl.Expr | None = None


def parse_expectations(text: str) -> dict[str, dict[str, Any]]:
    """Parse the rules of each column from JSON, such as `{"age": {"min": 0}}`.

    Raises ValueError if the text is not JSON.
    """
    expectations: dict[str, dict[str, Any]] = json.loads(text)
    return expectations


def add_rules_for_training(
    roles: ColumnRoles, expectations: Mapping[str, Mapping[str, Any]]
) -> ColumnRoles:
    """Return the roles of the columns, with the rules for training data.

    An ignored column that has rules is read, but only to check these rules. `expectations`
    has the rules of data.expect in settings.yml, such as `{"age": {"min": 0}}`.
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
    """Return the roles of the columns, with the rules for new data that will be scored.

    The rules of the target are left out, because new data may lack the target.
    `expectations` has the rules of data.expect in settings.yml, such as
    `{"age": {"min": 0}}`. `ignore` lists the columns under data.ignore.
    """
    rules_by_column = {
        name: rules for name, rules in expectations.items() if name != target
    }
    if roles.model_columns is None:
        # An older model does not record which columns it was trained with, so new data may
        # lack any column that has rules.
        roles_with_rules = add_rules_for_training(roles, rules_by_column)
        return replace(roles_with_rules, optional=list(rules_by_column))

    # A column that is neither a key nor used by the model is read only to check its rules.
    used_columns = [*roles.model_columns, *roles.keys]
    only_checked = [name for name in rules_by_column if name not in used_columns]
    # If a column of the model is missing, `check_against_schema` decides whether this is an
    # error. New data may also lack the columns that were ignored in training.
    optional = [*roles.model_columns, *ignore]
    return replace(
        roles,
        expectations=rules_by_column,
        only_checked=only_checked,
        optional=optional,
    )


def create_checks(
    sources: list[Source], types: Mapping[str, pl.DataType], roles: ColumnRoles
) -> list[Check]:
    """Return a check for each rule whose column is in any file.

    `types` has the types of the prepared columns by name. Raises a DataError that lists all
    rules whose column is missing or has a type that does not suit the rule.
    """
    checks: list[Check] = []
    problems: list[str] = []
    for name in roles.expectations:
        is_absent = all(name not in source.columns for source in sources)
        if is_absent:
            if name not in roles.optional:
                problems.append(_explain_absence(name, sources))
            continue
        if name not in types:
            problems.append(
                f"data.expect in settings.yml names the column '{name}', whose values are"
                " neither numbers nor dates nor text: remove its rules, or convert it."
            )
            continue

        unsuitable_rules = _find_unsuitable_rules(name, types[name], sources, roles)
        if unsuitable_rules:
            problems += unsuitable_rules
            continue
        for check in _list_checks_of_column(name, sources, roles):
            breaks_rule = _express_broken_rule(check, types[name])
            checks.append(replace(check, breaks_rule=breaks_rule))
    if problems:
        raise DataError("\n".join(problems))
    return checks


def _find_unsuitable_rules(
    name: str, dtype: pl.DataType, sources: list[Source], roles: ColumnRoles
) -> list[str]:
    """Return sentences on each rule that does not suit the type of its column.

    For example, the rule `min: 0` does not suit a column of text. `dtype` is the type of
    the column in the prepared data.
    """
    # New data may hold fractions where the training data held integers. So a rule has to
    # suit the type that the column had in training, if there is a schema that records it.
    expected = roles.get_expected_column(name)
    type_in_training = dtype if expected is None else expected.type
    problems = []
    for check in _list_checks_of_column(name, sources, roles):
        problem = _find_problem(check, type_in_training)
        if problem is not None:
            problems.append(join_sentences(problem, _quote_note(name, sources)))
    return problems


def _list_checks_of_column(
    name: str, sources: list[Source], roles: ColumnRoles
) -> Iterator[Check]:
    """Yield a check for each of a column's rules, except for those that cannot be broken.

    In a column without values, rules on values, such as `min`, cannot be broken.
    """
    columns = [source.columns[name] for source in sources if name in source.columns]
    # A column without values has no type.
    is_empty = all(column.type is None for column in columns)
    for rule, value in roles.expectations[name].items():
        is_switched_off = rule == "unique" and not value
        cannot_be_broken = is_empty and rule in RULES_ON_VALUES
        if is_switched_off or cannot_be_broken:
            continue
        yield Check(name, rule, value)


def _explain_absence(name: str, sources: list[Source]) -> str:
    """Return sentences that say that no file has a column with rules, and how to fix it."""
    all_names = dict.fromkeys(column for source in sources for column in source.columns)
    problem = f"No file has a column '{name}', which data.expect in settings.yml names."
    hint = suggest_similar_name(name, all_names)
    if not hint:
        hint = "Correct the name, or remove its rules."
    return join_sentences(problem, hint)


def _quote_note(name: str, sources: list[Source]) -> str:
    """Return a sentence with the first note on a column, which may explain its type.

    Returns "" if there is no note on the column.
    """
    note = find_note(sources, name)
    return f"Note on this column: {note.text}" if note else ""


def _find_problem(check: Check, dtype: pl.DataType) -> str | None:
    """Return why a rule does not suit a column of type `dtype`, or None if it does."""
    if check.rule == "values":
        return _explain_unsuitable_values(check, dtype)
    if check.rule in ("min", "max"):
        return _explain_unsuitable_bound(check, dtype)
    return None


def _explain_unsuitable_values(check: Check, dtype: pl.DataType) -> str | None:
    """Return why the rule `values` does not suit the type of its column.

    Returns None if the rule suits the type. The rule lists the values that the column may
    have.
    """
    column = check.column
    if dtype.is_float():
        return (
            f"data.expect.{column}.values in settings.yml lists values, but the column"
            f" '{column}' is of type {get_type_name(dtype)}, whose values cannot be"
            " compared exactly: use min and max instead."
        )
    for value in check.value:
        if not _is_of_type(value, dtype):
            shown_value = json.dumps(value, ensure_ascii=False)
            return (
                f"data.expect.{column}.values in settings.yml lists {shown_value}, but the"
                f" column '{column}' is of type {get_type_name(dtype)}:"
                f" {_explain_how_to_write(dtype)}."
            )
    return None


def _explain_unsuitable_bound(check: Check, dtype: pl.DataType) -> str | None:
    """Return why the rule `min` or `max` does not suit the type of its column.

    Returns None if the rule suits the type.
    """
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
            f" {_explain_how_to_write(dtype)}."
        )
    return None


def _is_of_type(value: object, dtype: pl.DataType) -> bool:
    """Return whether a value in settings.yml can be compared with a column of a type."""
    if isinstance(value, bool):
        return dtype == BOOLEAN
    if isinstance(value, (int, float)):
        return dtype.is_numeric()
    if dtype.is_temporal():
        return _parse_date_or_time(str(value)) is not None
    return dtype == TEXT


def _explain_how_to_write(dtype: pl.DataType) -> str:
    """Return how to write a value of a type in settings.yml, as the end of a sentence."""
    if dtype == BOOLEAN:
        return "write true or false, without quotes"
    if dtype.is_numeric():
        return "write a number, without quotes"
    if dtype.is_temporal():
        return "write a date such as 2026-01-31"
    return "put it in quotes"


def _parse_date_or_time(text: str) -> date | datetime | None:
    """Parse a date in ISO 8601, with or without a time; return None for any other text.

    A time with a zone is converted to UTC without a zone, like the times in the data:
    "2026-01-31T10:00:00+02:00" gives 2026-01-31 08:00:00.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None)


def _express_broken_rule(check: Check, dtype: pl.DataType) -> pl.Expr | None:
    """Return an expression that is True in rows that break a rule, or None for `unique`.

    A single row cannot break the rule `unique`. A missing value only breaks the rule
    `missing`: for other rules, the expression is null in its row.
    """
    column = cs.by_name(check.column).as_expr()
    if check.rule == "unique":
        return None
    if check.rule == "missing":
        return column.is_null()
    if check.rule == "values":
        return ~_is_among(column, check.value, dtype)
    values, bound = _make_comparable(column, check.value)
    if check.rule == "min":
        return values < bound
    return values > bound


def _is_among(
    column: pl.Expr, allowed_values: list[Any], dtype: pl.DataType
) -> pl.Expr:
    """Return an expression that is True where the column's value is one of those allowed.

    `dtype` is the type of the column. The allowed values come from settings.yml, so dates
    are text.
    """
    if dtype.is_temporal():
        # A list of both dates and times does not fit into one series. So each value is
        # converted by itself, and a date becomes the time at which it begins.
        moments = [
            pl.Series([_parse_date_or_time(text)]).cast(TIMESTAMP)
            for text in allowed_values
        ]
        allowed = pl.concat(moments)
        return column.cast(TIMESTAMP).is_in(allowed.implode())
    if dtype.is_numeric():
        # Only columns of integers may have this rule. If new data holds fractions, its
        # column has another type, so the integers are converted. An integer of more than 64
        # bits becomes null, which equals no value of the data. Fractions equal none either,
        # but the conversion would cut them off.
        integers = [value for value in allowed_values if value == value // 1]
        allowed = pl.Series(integers, dtype=INTEGER, strict=False).cast(dtype)
        return column.is_in(allowed.implode())
    allowed = pl.Series(allowed_values, dtype=dtype)
    return column.is_in(allowed.implode())


def _make_comparable(column: pl.Expr, bound: float | str) -> tuple[pl.Expr, pl.Expr]:
    """Return a column and its bound, a min or max, as expressions of comparable types.

    If the bound is a date without a time, times in the column are reduced to their dates:
    2026-01-31 18:00 is not above the max 2026-01-31. A bound that is text must be a date or
    a time.
    """
    if isinstance(bound, str):
        moment = _parse_date_or_time(bound)
        if isinstance(moment, datetime):
            return column.cast(TIMESTAMP), pl.lit(moment, TIMESTAMP)
        return column.cast(DATE), pl.lit(moment, DATE)
    if abs(bound) >= BEYOND_INT64:
        # A 64-bit integer cannot hold the bound, but a float can.
        return column, pl.lit(float(bound))
    return column, pl.lit(bound)
