"""The type of a setting that says which values of a hyperparameter a search tries.

They are a list, such as `[0, 1, 10]`, or a range, such as `{low: 0.01, high: 0.3, log: true}`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from .rule import to_text
from .settings_models import refuse

RANGE_EXAMPLE = "{low: 1, high: 10}"


def check_values(values: Any) -> Any:
    """Return the values to try. Raises the error of `refuse` if they cannot be used."""
    if isinstance(values, dict):
        _check_range(values)
        return values
    if not isinstance(values, list):
        raise refuse(
            f"is {to_text(values)}, but must be a list or a range",
            fix=f"write [{values}], or a range such as {RANGE_EXAMPLE}",
        )
    if not values:
        raise refuse("is an empty list", fix="write the values to try into it")
    for value in values:
        if isinstance(value, (list, dict)):
            raise refuse(
                f"holds {to_text(value)}, but must hold numbers, texts, true, false or"
                " null",
                fix="correct it",
            )
    return values


ValuesToTry = Annotated[Any, BeforeValidator(check_values)]


def _check_range(limits: dict[Any, Any]) -> None:
    """Raise the error of `refuse` unless the limits are those of a range."""
    for name in limits:
        if name not in ("low", "high", "log"):
            raise refuse(
                f"has {name}, which no range has",
                fix=f"write a range as {RANGE_EXAMPLE}, perhaps with log: true",
            )
    for name in ("low", "high"):
        if name not in limits:
            raise refuse(f"has no {name}", fix=f"add {name}")
        _check_limit(name, limits[name])
    is_logarithmic = limits.get("log", False)
    if not isinstance(is_logarithmic, bool):
        raise refuse(
            f"has log: {to_text(is_logarithmic)}, but log must be true or false",
            fix="write log: true",
        )

    low = limits["low"]
    high = limits["high"]
    if low == high:
        raise refuse(f"has {low} as low and as high", fix=f"write [{low}]")
    if low > high:
        raise refuse(
            f"is empty, as low is {low} and high is {high}", fix="exchange them"
        )
    if is_logarithmic and low <= 0:
        raise refuse(
            f"has log: true and low: {low}, but only numbers above 0 have a logarithm",
            fix="raise low, for example to 0.001, or delete log",
        )


def _check_limit(name: str, limit: Any) -> None:
    """Raise the error of `refuse` unless a limit of a range is a finite number."""
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if is_number and math.isfinite(limit):
        return
    fix = "write a number"
    if isinstance(limit, str):
        try:
            # YAML reads 1e-3 as text, and 1.0e-3 as a number.
            fix = f"write {name}: {float(limit)}"
        except ValueError:
            pass
    raise refuse(f"has {name}: {to_text(limit)}, which is no number", fix=fix)
