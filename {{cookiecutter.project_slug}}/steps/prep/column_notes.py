"""Notes on the columns of the prepared table: of little use, or with odd numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from sources import ColumnRoles, Source, find_first_values

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
    noted_names = {quoted for note in notes for quoted in note.split("'")}
    distinct_texts: dict[str, int] = {}
    numbers: dict[str, int] = {}
    new_notes: dict[str, str] = {}
    for position, (name, column) in enumerate(columns.items()):
        if name == roles.target or name in roles.keys or name in noted_names:
            continue
        values = rows - column["missing"]
        distinct = column.get("distinct", 0)
        if not values:
            new_notes[name] = f"column '{name}' holds no value."
        elif roles.schema is not None:
            # Its columns are those of the model, and not to be ignored.
            continue
        elif values >= MANY_VALUES and distinct >= NEARLY_ALL * values:
            distinct_texts[name] = position
        elif column["type"] in ("integer", "number"):
            numbers[name] = position

    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    new_notes |= _note_distinct_texts(table, distinct_texts)
    new_notes |= _note_sentinels(_find_sentinels(table, numbers, columns), sources)
    return [new_notes[name] for name in columns if name in new_notes]


def _note_distinct_texts(
    table: pl.LazyFrame, columns: dict[str, int]
) -> dict[str, str]:
    """Return notes on columns of text of which nearly every value differs.

    `columns` has their positions by their names. A note only advises to ignore the column
    if its values are not written in one form.
    """
    notes: dict[str, str] = {}
    for name, example in _find_forms(table, columns).items():
        if example is None:
            notes[name] = (
                f"column '{name}' is text with a value of its own in nearly every row, of"
                " which little can be learned: list it under data.ignore."
            )
        else:
            notes[name] = (
                f"column '{name}' is text with a value of its own in nearly every row,"
                f" all in one form, such as '{example}': if it names the rows, list it"
                " under data.keys; if it holds a number or a date, make a column of it in"
                " features() in prep.py."
            )
    return notes


def _find_forms(table: pl.LazyFrame, columns: dict[str, int]) -> dict[str, str | None]:
    """Return the first value of each column if all have one form, with digits; else None.

    `columns` has their positions by their names. Two values have one form if they are equal but for the letters and the digits in a
    row of these, such as INV-7 and AB-1234, or have letters or digits at the same places.
    """
    if not columns:
        return {}
    figures = []
    for position in columns.values():
        text = pl.nth(position).drop_nulls()
        runs = text.str.replace_all(r"\p{L}+", "a").str.replace_all(r"\d+", "0")
        places = text.str.replace_all(r"[\p{L}\d]", "0")
        figures += [
            text.first().alias(f"{position} first"),
            text.str.contains(r"\d").all().alias(f"{position} has digits"),
            runs.n_unique().alias(f"{position} run forms"),
            places.n_unique().alias(f"{position} place forms"),
        ]
    row = table.select(figures).collect(engine="streaming").row(0, named=True)

    forms: dict[str, str | None] = {}
    for name, position in columns.items():
        is_one_form = 1 in (
            row[f"{position} run forms"],
            row[f"{position} place forms"],
        )
        has_form = row[f"{position} has digits"] and is_one_form
        forms[name] = row[f"{position} first"] if has_form else None
    return forms


@dataclass(frozen=True)
class Sentinel:
    """A number that may stand for a missing value, as it is far from all others.

    It is in `count` rows of its column. The other numbers of the column lie between
    `smallest` and `largest`.
    """

    name: str
    number: float
    count: int
    smallest: float
    largest: float


def _find_sentinels(
    table: pl.LazyFrame, positions: dict[str, int], columns: dict[str, dict[str, Any]]
) -> list[Sentinel]:
    """Return the sentinels of some columns, whose positions are given by their names."""
    candidates: list[tuple[str, float]] = []
    for name in positions:
        for figure in ("smallest", "largest"):
            number = float(columns[name][figure])
            if number in SENTINELS:
                candidates.append((name, number))
    if not candidates:
        return []

    figures = []
    for i, (name, number) in enumerate(candidates):
        values = pl.nth(positions[name])
        others = pl.when(values != number).then(values)
        figures += [
            (values == number).sum().alias(f"{i} count"),
            others.min().alias(f"{i} smallest"),
            others.max().alias(f"{i} largest"),
        ]
    row = table.select(figures).collect(engine="streaming").row(0, named=True)

    sentinels = []
    for i, (name, number) in enumerate(candidates):
        smallest = row[f"{i} smallest"]
        largest = row[f"{i} largest"]
        if smallest is not None and _is_far_away(number, smallest, largest):
            count = row[f"{i} count"]
            sentinels.append(Sentinel(name, number, count, smallest, largest))
    return sentinels


def _is_far_away(sentinel: float, smallest: float, largest: float) -> bool:
    """Return whether a number is farther from others than these are from each other."""
    if sentinel < 0 <= smallest:
        return True
    distance = smallest - sentinel if sentinel < smallest else sentinel - largest
    return distance > largest - smallest


def _note_sentinels(sentinels: list[Sentinel], sources: list[Source]) -> dict[str, str]:
    """Return a note on a sentinel of each column that has one."""
    notes: dict[str, str] = {}
    for sentinel, spelling in zip(sentinels, _find_spellings(sentinels, sources)):
        name = sentinel.name
        rows = "1 row" if sentinel.count == 1 else f"{sentinel.count} rows"
        if spelling is None:
            fix = "replace it by null in features() in prep.py"
        else:
            fix = f"write data.missing: ['{spelling}'] in settings.yml"
        note = (
            f"column '{name}' holds {sentinel.number:.0f} in {rows}, and otherwise numbers"
            f" from {sentinel.smallest} to {sentinel.largest}: if it stands for a missing"
            f" value, {fix}."
        )
        notes.setdefault(name, note)
    return notes


def _find_spellings(
    sentinels: list[Sentinel], sources: list[Source]
) -> list[str | None]:
    """Return the first spelling of each number in the CSV files; None if it is in none."""
    spellings: list[str | None] = [None] * len(sentinels)
    for source in sources:
        texts: dict[int, pl.Expr] = {}
        for i, sentinel in enumerate(sentinels):
            column = source.columns.get(sentinel.name)
            # Only the columns of CSV files have a text.
            if spellings[i] is None and column and column.text is not None:
                is_sentinel = column.values == sentinel.number
                texts[i] = pl.when(is_sentinel).then(column.text)
        found = find_first_values(source.frame, list(texts.values()))
        for i, text in zip(texts, found):
            spellings[i] = None if text is None else str(text)
    return spellings
