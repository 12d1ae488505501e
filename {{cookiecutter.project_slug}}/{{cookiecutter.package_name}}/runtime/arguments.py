"""Build the command line of a step from the keyword arguments in `pipelines.py`."""

from __future__ import annotations

from typing import Any


def build_arguments(**options: Any) -> list[Any]:
    """Return the command-line arguments for a step's script.

    `test_fraction=0.2` becomes `--test-fraction 0.2`. The items of a list follow the option
    as separate arguments, and so do the names and values of a dict: `{"depth": 3}` becomes
    `depth 3`. Options whose value is None, an empty list or an empty dict are left out.
    """
    arguments: list[Any] = []
    for name, value in options.items():
        values = _list_values(value)
        if values:
            option = "--" + name.replace("_", "-")
            arguments += [option, *values]
    return arguments


def _list_values(value: Any) -> list[Any]:
    """Return the arguments that are written after an option whose setting is `value`.

    A dictionary becomes name, value, name, value and so on. None becomes an empty list, and
    the option is left out.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        names_and_values: list[Any] = []
        for name, item in value.items():
            names_and_values += [name, item]
        return names_and_values
    if isinstance(value, list):
        return value
    return [value]
