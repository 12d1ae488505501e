"""List what has changed in the step prep since the registered model was trained.

If prep has changed, the registered model is evaluated on values that were prepared
differently from its training data. It may then look worse, or better, than it is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# A message names at most this many columns.
SHOWN_COLUMNS = 3


def list_prep_changes(
    new: Mapping[str, Any], old: Mapping[str, Any], columns: Iterable[str]
) -> list[str]:
    """Return what has changed in the preparation of data between two models.

    `new` and `old` are the schemas of the models, which record how the step prep read the
    training data. `columns` are the columns that the old model needs. The result is a list
    of noun phrases, such as `["the files of steps/prep", "data.decimal"]`. A part that is
    missing from either schema is not compared.
    """
    changes: list[str] = []
    if "code" in new and "code" in old and new["code"] != old["code"]:
        changes.append("the files of steps/prep")
    if "text_format" in new and "text_format" in old:
        changes += _list_setting_changes(new["text_format"], old["text_format"])
    if "columns" in new and "columns" in old:
        changes += _list_type_changes(new, old, columns)
    return changes


def _list_setting_changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Return the settings of settings.yml whose values differ, such as "data.decimal"."""
    # The keys of a dict are distinct, and keep their order.
    names = dict.fromkeys([*new, *old])
    return [f"data.{name}" for name in names if new.get(name) != old.get(name)]


def _list_type_changes(
    new: Mapping[str, Any], old: Mapping[str, Any], columns: Iterable[str]
) -> list[str]:
    """Return the columns whose types differ between two schemas, as noun phrases.

    At most SHOWN_COLUMNS columns are named. The others are counted.
    """
    changed_columns = [
        column
        for column in columns
        if _read_type(new, column) != _read_type(old, column)
    ]
    changes = [f"the type of '{column}'" for column in changed_columns[:SHOWN_COLUMNS]]
    if len(changed_columns) > SHOWN_COLUMNS:
        other_columns = len(changed_columns) - SHOWN_COLUMNS
        changes.append(f"the types of {other_columns} more columns")
    return changes


def _read_type(schema: Mapping[str, Any], column: str) -> str | None:
    """Return the type of a column in a schema, or None if the schema has no such column."""
    if column not in schema["columns"]:
        return None
    return str(schema["columns"][column]["type"])


def describe_prep_changes(changes: list[str], version: str) -> str:
    """Return a sentence on the changes in prep since a registered version was trained."""
    return (
        f"prep has changed since version {version} was trained ({', '.join(changes)}), so"
        " that version may have been evaluated on values that were prepared differently"
        " from its training data"
    )
