"""Write notes on columns of the prepared table from which a model can hardly learn.

Such columns hold no value, a different text in nearly every row, a number such as -999
that stands for a missing value, or ids that may tell which rows belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from sources import ColumnRoles, Note, Source, find_first_values

# A text column identifies its rows if it has at least MANY_VALUES values, of which at
# least NEARLY_ALL are distinct.
MANY_VALUES = 50
NEARLY_ALL = 0.9
# The name of a column of ids has one of these words, such as customer_id and customerId.
ID_NAME = re.compile(
    r"(^|[^A-Za-z])(?i:id|uuid|guid)([^A-Za-z]|$)|[a-z]I[dD]$", re.ASCII
)
# There are at least this many ids, each of which is in at least two rows on average.
MANY_IDS = 20
ROWS_PER_ID = 2
# Numbers that programs write in place of a missing value.
SENTINELS = (-99, -999, -9999, -99999, -999999, 999, 9999, 99999, 999999)


def note_columns(
    columns: dict[str, dict[str, Any]],
    prepared: Path,
    rows: int,
    noted_columns: Iterable[str | None],
    sources: list[Source],
    roles: ColumnRoles,
) -> list[Note]:
    """Return notes on features that need a look, except those in `noted_columns`.

    `columns` has the statistics of each column of the prepared parts, and `rows` is the
    number of rows.
    """
    skipped_names = {*noted_columns, *roles.keys, roles.target, roles.group}
    text_positions: dict[str, int] = {}
    id_positions: dict[str, int] = {}
    number_positions: dict[str, int] = {}
    texts_by_name: dict[str, str] = {}
    for position, (name, column) in enumerate(columns.items()):
        if name in skipped_names:
            continue
        values = rows - column["missing"]
        distinct = column.get("distinct", 0)
        if not values:
            texts_by_name[name] = f"column '{name}' holds no value."
        elif roles.model_columns is not None:
            # The model needs these columns, so advice to ignore them would be wrong.
            continue
        elif values >= MANY_VALUES and distinct >= NEARLY_ALL * values:
            text_positions[name] = position
        elif is_named_like_an_id(name) and column["type"] in ("integer", "text"):
            id_positions[name] = position
        elif column["type"] in ("integer", "number"):
            number_positions[name] = position

    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    texts_by_name |= _describe_distinct_texts(table, text_positions)
    if roles.group is None:
        texts_by_name |= _describe_repeated_ids(table, id_positions)
    sentinels = _find_sentinels(table, number_positions, columns)
    texts_by_name |= _describe_sentinels(sentinels, sources)
    return [
        Note(texts_by_name[name], column=name)
        for name in columns
        if name in texts_by_name
    ]


def _describe_distinct_texts(
    table: pl.LazyFrame, positions: dict[str, int]
) -> dict[str, str]:
    """Return a sentence on each column of text of which nearly every value differs.

    It only advises to ignore the column if its values do not have a common form.
    `positions` has the position of each column by its name.
    """
    texts_by_name: dict[str, str] = {}
    for name, example in _find_examples_of_form(table, positions).items():
        if example is None:
            texts_by_name[name] = (
                f"column '{name}' is text with a value of its own in nearly every row, from"
                " which a model can hardly learn: list it under data.ignore."
            )
        else:
            texts_by_name[name] = (
                f"column '{name}' is text with a value of its own in nearly every row,"
                f" all in one form, such as '{example}': if it identifies the rows, list it"
                " under data.keys; if it holds a number or a date, make a column of it in"
                " features() in prep.py."
            )
    return texts_by_name


def is_named_like_an_id(name: str) -> bool:
    """Return whether a column has a name like those of ids, such as customer_id."""
    return ID_NAME.search(name) is not None


def _describe_repeated_ids(
    table: pl.LazyFrame, positions: dict[str, int]
) -> dict[str, str]:
    """Return a sentence on each column of ids that are in several rows.

    `positions` has the position of each column by its name.
    """
    if not positions:
        return {}
    aggregations = []
    for position in positions.values():
        ids = pl.nth(position).drop_nulls()
        aggregations += [
            ids.len().alias(f"{position} rows"),
            # Hashes of 64 bits take less memory than texts.
            ids.hash().n_unique().alias(f"{position} ids"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    texts_by_name: dict[str, str] = {}
    for name, position in positions.items():
        rows = row[f"{position} rows"]
        ids = row[f"{position} ids"]
        if ids >= MANY_IDS and rows >= ROWS_PER_ID * ids:
            texts_by_name[name] = (
                f"column '{name}' has {ids} ids in {rows} rows. If rows with the same id"
                f" belong together, write data.group: {name} in settings.yml: a model is"
                " then judged on ids that it has not been trained on. Otherwise, list it"
                " under data.ignore."
            )
    return texts_by_name


def _find_examples_of_form(
    table: pl.LazyFrame, positions: dict[str, int]
) -> dict[str, str | None]:
    """Return the first value of each column whose values have one form, else None.

    All values have a digit. They have one form if they become equal when each run of
    letters and each run of digits is replaced by one character, such as INV-7 and
    AB-1234, or if letters and digits are at the same positions, such as 7A and B4.
    """
    if not positions:
        return {}
    aggregations = []
    for position in positions.values():
        text = pl.nth(position).drop_nulls()
        without_runs = text.str.replace_all(r"\p{L}+", "a").str.replace_all(r"\d+", "0")
        without_signs = text.str.replace_all(r"[\p{L}\d]", "0")
        aggregations += [
            text.first().alias(f"{position} first"),
            text.str.contains(r"\d").all().alias(f"{position} has digits"),
            without_runs.n_unique().alias(f"{position} forms of runs"),
            without_signs.n_unique().alias(f"{position} forms of positions"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    examples: dict[str, str | None] = {}
    for name, position in positions.items():
        is_one_form = (
            row[f"{position} forms of runs"] == 1
            or row[f"{position} forms of positions"] == 1
        )
        has_form = row[f"{position} has digits"] and is_one_form
        examples[name] = row[f"{position} first"] if has_form else None
    return examples


@dataclass(frozen=True)
class Sentinel:
    """A number that may stand for a missing value, because it is far from all others.

    It is in `count` rows of its column. The other numbers of the column lie between
    `smallest` and `largest`.
    """

    column: str
    number: float
    count: int
    smallest: float
    largest: float


def _find_sentinels(
    table: pl.LazyFrame, positions: dict[str, int], columns: dict[str, dict[str, Any]]
) -> list[Sentinel]:
    """Return the sentinels of the columns in `positions`.

    Only the smallest and the largest number of a column can be one. `columns` has them.
    """
    candidates: list[tuple[str, float]] = []
    for name in positions:
        for statistic in ("smallest", "largest"):
            number = float(columns[name][statistic])
            if number in SENTINELS:
                candidates.append((name, number))
    if not candidates:
        return []

    aggregations = []
    for i, (name, number) in enumerate(candidates):
        values = pl.nth(positions[name])
        others = pl.when(values != number).then(values)
        aggregations += [
            (values == number).sum().alias(f"{i} count"),
            others.min().alias(f"{i} smallest"),
            others.max().alias(f"{i} largest"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    sentinels = []
    for i, (name, number) in enumerate(candidates):
        smallest = row[f"{i} smallest"]
        largest = row[f"{i} largest"]
        if smallest is not None and _is_far_away(number, smallest, largest):
            count = row[f"{i} count"]
            sentinels.append(Sentinel(name, number, count, smallest, largest))
    return sentinels


def _is_far_away(number: float, smallest: float, largest: float) -> bool:
    """Return whether a number is farther from others than these are from each other."""
    if number < 0 <= smallest:
        return True
    distance = smallest - number if number < smallest else number - largest
    return distance > largest - smallest


def _describe_sentinels(
    sentinels: list[Sentinel], sources: list[Source]
) -> dict[str, str]:
    """Return sentences on the first sentinel of each column, with the fix."""
    texts_by_name: dict[str, str] = {}
    for sentinel, spelling in zip(sentinels, _find_spellings(sentinels, sources)):
        if spelling is None:
            fix = "replace it by null in features() in prep.py"
        else:
            fix = f"write data.missing: ['{spelling}'] in settings.yml"
        rows = "1 row" if sentinel.count == 1 else f"{sentinel.count} rows"
        text = (
            f"column '{sentinel.column}' holds {sentinel.number:.0f} in {rows}, and"
            f" otherwise numbers from {sentinel.smallest} to {sentinel.largest}. If it"
            f" stands for a missing value, {fix}."
        )
        texts_by_name.setdefault(sentinel.column, text)
    return texts_by_name


def _find_spellings(
    sentinels: list[Sentinel], sources: list[Source]
) -> list[str | None]:
    """Return the first spelling of each number in the CSV files; None if it is in none."""
    spellings: list[str | None] = [None] * len(sentinels)
    for source in sources:
        texts: dict[int, pl.Expr] = {}
        for i, sentinel in enumerate(sentinels):
            column = source.columns.get(sentinel.column)
            # Only the columns of CSV files have a text.
            if spellings[i] is None and column and column.csv_text is not None:
                is_sentinel = column.values == sentinel.number
                texts[i] = pl.when(is_sentinel).then(column.csv_text)
        first_texts = find_first_values(source.frame, list(texts.values()))
        for i, text in zip(texts, first_texts):
            spellings[i] = None if text is None else str(text)
    return spellings
