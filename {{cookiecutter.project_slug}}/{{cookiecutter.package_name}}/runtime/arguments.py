"""The command line of a step, written in `pipelines.py` as keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def build_arguments(**options: Any) -> list[Any]:
    """Return the arguments of a step's script: `test_fraction=0.2` becomes `--test-fraction 0.2`.

    A list becomes one argument for each of its items, and a dict becomes its names and
    values in turn. Options that are None or empty are left out.
    """
    arguments: list[Any] = []
    for name, value in options.items():
        values = _list_values(value)
        if values:
            option = "--" + name.replace("_", "-")
            arguments += [option, *values]
    return arguments


def _list_values(value: Any) -> list[Any]:
    """Return the arguments that follow an option."""
    if value is None:
        return []
    if isinstance(value, dict):
        return _flatten(value.items())
    if isinstance(value, list):
        return value
    return [value]


def _flatten(pairs: Iterable[tuple[str, Any]]) -> list[Any]:
    """Return names and values in turn: `[("a", 1), ("b", 2)]` becomes `["a", 1, "b", 2]`."""
    return [item for pair in pairs for item in pair]
