"""Find out what has changed in prep since the registered model was trained.

If prep has changed, the registered model is judged on values that its own prep might have
prepared differently. It may then look worse, or better, than it is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# A message names at most this many columns.
SHOWN_COLUMNS = 3


def list_prep_changes(
    new: Mapping[str, Any], old: Mapping[str, Any], columns: Iterable[str]
) -> list[str]:
    """Return what differs between the prep of two models, as parts of a sentence.

    `new` and `old` are the schemas of the models, and `columns` are those that the old
    model needs. Something that one of the schemas does not contain is not compared.
    """
    changes: list[str] = []
    if "code" in new and "code" in old and new["code"] != old["code"]:
        changes.append("the files of steps/prep")

    if "text_format" in new and "text_format" in old:
        settings = dict.fromkeys([*new["text_format"], *old["text_format"]])
        for name in settings:
            if new["text_format"].get(name) != old["text_format"].get(name):
                changes.append(f"data.{name}")

    if "columns" in new and "columns" in old:
        changed_columns = [
            column
            for column in columns
            if _read_type(new, column) != _read_type(old, column)
        ]
        for column in changed_columns[:SHOWN_COLUMNS]:
            changes.append(f"the type of '{column}'")
        if len(changed_columns) > SHOWN_COLUMNS:
            more = len(changed_columns) - SHOWN_COLUMNS
            changes.append(f"the types of {more} more columns")
    return changes


def _read_type(schema: Mapping[str, Any], column: str) -> str | None:
    """Return the type that prep gave a column, or None if the raw data does not have it."""
    if column not in schema["columns"]:
        return None
    return str(schema["columns"][column]["type"])


def describe_prep_changes(changes: list[str], version: str) -> str:
    """Return a sentence about the changes of prep since a version was trained."""
    return (
        f"prep has changed since version {version} was trained ({', '.join(changes)}), so"
        " that version may have been judged on other values than it was trained on"
    )
