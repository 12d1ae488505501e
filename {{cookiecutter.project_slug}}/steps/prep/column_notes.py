"""Notes on the columns of the prepared table: of little use, or with odd numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from sources import ColumnRoles, Source

# A text column with so many values, of which so large a share differ, names its rows.
MANY_VALUES = 50
NEARLY_ALL = 0.9
# Numbers that programs write in place of a missing value.
SENTINELS = (-99, -999, -9999, -99999, -999999, 999, 9999, 99999, 999999)


def note_columns(
    columns: dict[str, dict[str, Any]],
    prepared: Path,
    rows: int,
    notes: Sequence[str],
    sources: list[Source],
    roles: ColumnRoles,
) -> list[str]:
    """Return notes on features that need a look, unless one of the `notes` names them.

    `columns` has the figures of each column of the prepared parts, and `rows` is the
    number of rows.
    """
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    new_notes: list[str] = []
    for position, (name, column) in enumerate(columns.items()):
        has_note = any(f"'{name}'" in note for note in notes)
        if name == roles.target or name in roles.keys or has_note:
            continue
        values = rows - column["missing"]
        distinct = column.get("distinct", 0)
        if not values:
            new_notes.append(f"column '{name}' holds no value.")
        elif roles.schema is not None:
            # Its columns are those of the model, and not to be ignored.
            continue
        elif values >= MANY_VALUES and distinct >= NEARLY_ALL * values:
            new_notes.append(_note_distinct_text(table, position, name))
        elif note := _note_sentinel(table, position, name, column, sources):
            new_notes.append(note)
    return new_notes


def _note_distinct_text(table: pl.LazyFrame, position: int, name: str) -> str:
    """Return a note on a column of text of which nearly every value differs.

    It only advises to ignore the column if its values are not written in one form.
    """
    example = _find_form(table, position)
    if example is None:
        return (
            f"column '{name}' is text with a value of its own in nearly every row, of"
            " which little can be learned: list it under data.ignore."
        )
    return (
        f"column '{name}' is text with a value of its own in nearly every row, all in one"
        f" form, such as '{example}': if it names the rows, list it under data.keys; if"
        " it holds a number or a date, make a column of it in features() in prep.py."
    )


def _find_form(table: pl.LazyFrame, position: int) -> str | None:
    """Return the first value of a column if all have one form, with digits; else None.

    Two values have one form if they are equal but for the letters and the digits in a
    row of these, such as INV-7 and AB-1234, or have letters or digits at the same places.
    """
    text = pl.nth(position).drop_nulls()
    runs = text.str.replace_all(r"\p{L}+", "a").str.replace_all(r"\d+", "0")
    places = text.str.replace_all(r"[\p{L}\d]", "0")
    found = table.select(
        first=text.first(),
        has_digits=text.str.contains(r"\d").all(),
        run_forms=runs.n_unique(),
        place_forms=places.n_unique(),
    )
    row = found.collect(engine="streaming").row(0, named=True)
    is_one_form = row["run_forms"] == 1 or row["place_forms"] == 1
    return str(row["first"]) if row["has_digits"] and is_one_form else None


def _note_sentinel(
    table: pl.LazyFrame,
    position: int,
    name: str,
    column: dict[str, Any],
    sources: list[Source],
) -> str | None:
    """Return a note on a number such as -999 that is far from all others, or None."""
    if column["type"] not in ("integer", "number"):
        return None
    for figure in ("smallest", "largest"):
        sentinel = float(column[figure])
        if sentinel not in SENTINELS:
            continue
        values = pl.nth(position)
        others = pl.when(values != sentinel).then(values)
        figures = table.select(
            count=(values == sentinel).sum(),
            smallest=others.min(),
            largest=others.max(),
        )
        count, smallest, largest = figures.collect(engine="streaming").row(0)
        if smallest is None or not _is_far_away(sentinel, smallest, largest):
            continue
        rows = "1 row" if count == 1 else f"{count} rows"
        return (
            f"column '{name}' holds {sentinel:.0f} in {rows}, and otherwise numbers from"
            f" {smallest} to {largest}: if it stands for a missing value,"
            f" {_explain_missing_number(name, sentinel, sources)}."
        )
    return None


def _is_far_away(sentinel: float, smallest: float, largest: float) -> bool:
    """Return whether a number is farther from others than these are from each other."""
    if sentinel < 0 <= smallest:
        return True
    distance = smallest - sentinel if sentinel < smallest else sentinel - largest
    return distance > largest - smallest


def _explain_missing_number(name: str, sentinel: float, sources: list[Source]) -> str:
    """Return how to have a number read as a missing value, by its first spelling."""
    for source in sources:
        column = source.columns.get(name)
        # Only the columns of CSV files have a text.
        if column is None or column.text is None:
            continue
        spelling = source.frame.filter(column.values == sentinel).select(column.text)
        first = spelling.head(1).collect(engine="streaming")
        if not first.is_empty():
            return f"write data.missing: ['{first.item()}'] in settings.yml"
    return "replace it by null in features() in prep.py"
