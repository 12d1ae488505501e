"""The values of a hyperparameter that a search tries, and how settings.yml writes them.

The values are a list, such as `[0, 1, 10]`, or a range, such as `{low: 0.01, high: 0.3}`. A
search draws numbers from a range. With `log: true` in the range, the search draws evenly from
the logarithms of the numbers, so that 0.01 to 0.1 is tried as often as 0.1 to 1.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BeforeValidator

from .rule import to_text
from .settings_models import refuse

RANGE_EXAMPLE = "{low: 1, high: 10}"


def check_values(values: Any) -> Any:
    """Check the values of a hyperparameter that a search should try, and return them.

    Raises PydanticCustomError if they are neither a list of single values nor a range.
    """
    if isinstance(values, dict):
        _check_range(values)
        return values
    if values is None:
        raise refuse("is empty", fix="list the values to try")
    if not isinstance(values, list):
        raise refuse(
            f"is {to_text(values)}, but must be a list or a range",
            fix=f"write [{values}], or a range such as {RANGE_EXAMPLE}",
        )
    if not values:
        raise refuse("is an empty list", fix="list the values to try")
    for value in values:
        if isinstance(value, (list, dict)):
            raise refuse(
                f"holds {to_text(value)}, but must hold numbers, texts, true, false or"
                " null",
                fix="correct it",
            )
    return values


ValuesToTry = Annotated[Any, BeforeValidator(check_values)]


def _check_range(values: dict[Any, Any]) -> None:
    """Refuse a range such as `{low: 1, high: 10}` if a name or a value in it is wrong.

    `low` and `high` must be in the range, and `log` may be. Raises PydanticCustomError.
    """
    for name in values:
        if name not in ("low", "high", "log"):
            raise refuse(
                f"has {name}, which a range cannot have",
                fix=f"write a range such as {RANGE_EXAMPLE}, perhaps with log: true",
            )
    for name in ("low", "high"):
        if name not in values:
            raise refuse(f"has no {name}", fix=f"add {name}")
        _check_limit(name, values[name])
    is_logarithmic = values.get("log", False)
    if not isinstance(is_logarithmic, bool):
        raise refuse(
            f"has log: {to_text(is_logarithmic)}, but log must be true or false",
            fix="write log: true",
        )
    _check_order(values["low"], values["high"], is_logarithmic)


def _check_limit(name: str, limit: Any) -> None:
    """Refuse a limit of a range that is not a finite number.

    `name` is `low` or `high`. Raises PydanticCustomError.
    """
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if is_number and math.isfinite(limit):
        return
    fix = "write a number"
    if isinstance(limit, str):
        # YAML reads 1e-3 as text, and 1.0e-3 as a number.
        with suppress(ValueError):
            fix = f"write {name}: {float(limit)}"
    raise refuse(f"has {name}: {to_text(limit)}, which is not a finite number", fix=fix)


def _check_order(low: float, high: float, is_logarithmic: bool) -> None:
    """Refuse a range if its limits are equal or in the wrong order.

    A logarithmic range is also refused if it does not begin above 0. Raises
    PydanticCustomError.
    """
    if low == high:
        raise refuse(f"has the same low and high, {low}", fix=f"write [{low}]")
    if low > high:
        raise refuse(f"is empty, as low is {low} and high is {high}", fix="swap them")
    if is_logarithmic and low <= 0:
        raise refuse(
            f"has log: true and low: {low}, but only numbers above 0 have a logarithm",
            fix="raise low, for example to 0.001, or delete log",
        )
