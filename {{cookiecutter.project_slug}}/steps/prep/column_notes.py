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

# A column of text differs in nearly every row if it has at least this many values, and if
# at least this share of them is distinct.
MANY_VALUES = 50
NEARLY_ALL = 0.9
# The name of a column of ids has one of these words, such as customer_id and customerId.
ID_NAME = re.compile(
    r"(^|[^A-Za-z])(?i:id|uuid|guid)([^A-Za-z]|$)|[a-z]I[dD]$", re.ASCII
)
# Ids repeat if there are at least this many, and if each is in at least this many rows on
# average.
MANY_IDS = 20
ROWS_PER_ID = 2
# Numbers that programs write in place of a missing value.
SENTINELS = (-99, -999, -9999, -99999, -999999, 999, 9999, 99999, 999999)


def note_columns(
    statistics_by_name: dict[str, dict[str, Any]],
    prepared: Path,
    row_count: int,
    noted_columns: Iterable[str | None],
    sources: list[Source],
    roles: ColumnRoles,
) -> list[Note]:
    """Return a note on each feature from which a model can hardly learn.

    `prepared` is the folder of the prepared parts, `statistics_by_name` has the statistics
    of all their columns, and `row_count` is the number of their rows. Columns in
    `noted_columns` already have a note and get no other.
    """
    names_without_note = {*noted_columns, *roles.keys, roles.target, roles.group}
    features = [name for name in statistics_by_name if name not in names_without_note]

    text_by_name: dict[str, str] = {}
    for name in features:
        is_empty = statistics_by_name[name]["missing"] == row_count
        if is_empty:
            text_by_name[name] = f"column '{name}' holds no value."
    # A registered model needs its columns, so advice to ignore them would be wrong.
    if roles.model_columns is None:
        text_by_name |= _describe_doubtful_features(
            features, statistics_by_name, prepared, row_count, sources, roles
        )
    return [
        Note(text_by_name[name], column=name)
        for name in features
        if name in text_by_name
    ]


def _describe_doubtful_features(
    features: list[str],
    statistics_by_name: dict[str, dict[str, Any]],
    prepared: Path,
    row_count: int,
    sources: list[Source],
    roles: ColumnRoles,
) -> dict[str, str]:
    """Return the text of a note on each feature with distinct texts, ids or sentinels.

    A sentinel is a number such as -999 that stands for a missing value. `prepared` is the
    folder of the prepared parts, `statistics_by_name` has the statistics of all their
    columns, in order, and `row_count` is the number of their rows.
    """
    # Columns are selected by their positions, because polars would treat a name such as
    # `^a$` as a regular expression.
    all_positions = {name: i for i, name in enumerate(statistics_by_name)}
    distinct_texts: dict[str, int] = {}
    ids: dict[str, int] = {}
    numbers: dict[str, int] = {}
    # Each feature is examined for one kind of note.
    for name in features:
        statistics = statistics_by_name[name]
        value_count = row_count - statistics["missing"]
        distinct_count = statistics.get("distinct", 0)
        if value_count == 0:
            continue
        if value_count >= MANY_VALUES and distinct_count >= NEARLY_ALL * value_count:
            distinct_texts[name] = all_positions[name]
        elif is_named_like_an_id(name) and statistics["type"] in ("integer", "text"):
            ids[name] = all_positions[name]
        elif statistics["type"] in ("integer", "number"):
            numbers[name] = all_positions[name]

    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    text_by_name = _describe_distinct_texts(table, distinct_texts)
    if roles.group is None:
        text_by_name |= _describe_repeated_ids(table, ids)
    sentinels = _find_sentinels(table, numbers, statistics_by_name)
    text_by_name |= _describe_sentinels(sentinels, sources)
    return text_by_name


def _describe_distinct_texts(
    table: pl.LazyFrame, position_by_name: dict[str, int]
) -> dict[str, str]:
    """Return the text of a note on each column of text that differs in nearly every row.

    `position_by_name` has the positions of these columns. The note advises to ignore a
    column only if its values do not all have the same form, such as INV-7 and INV-12.
    """
    text_by_name: dict[str, str] = {}
    for name, example in _find_examples_of_form(table, position_by_name).items():
        if example is None:
            text_by_name[name] = (
                f"column '{name}' is text that differs in nearly every row, from which a"
                " model can hardly learn: list it under data.ignore."
            )
        else:
            text_by_name[name] = (
                f"column '{name}' is text that differs in nearly every row, but always has"
                f" the same form, such as '{example}': if it identifies the rows, list it"
                " under data.keys; if it holds a number or a date, derive a column from it"
                " in features() in prep.py."
            )
    return text_by_name


def is_named_like_an_id(name: str) -> bool:
    """Return whether the name of a column has a word for ids, such as customer_id."""
    return ID_NAME.search(name) is not None


def _describe_repeated_ids(
    table: pl.LazyFrame, position_by_name: dict[str, int]
) -> dict[str, str]:
    """Return the text of a note on each column of ids that repeat in several rows.

    `position_by_name` has the positions of columns that are named like ids.
    """
    if not position_by_name:
        return {}
    aggregations = []
    for position in position_by_name.values():
        ids = pl.nth(position).drop_nulls()
        aggregations += [
            ids.len().alias(f"{position} rows"),
            # 64-bit hashes take less memory than text.
            ids.hash().n_unique().alias(f"{position} ids"),
        ]
    counts = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    text_by_name: dict[str, str] = {}
    for name, position in position_by_name.items():
        rows = counts[f"{position} rows"]
        ids = counts[f"{position} ids"]
        if ids >= MANY_IDS and rows >= ROWS_PER_ID * ids:
            text_by_name[name] = (
                f"column '{name}' has {ids} ids in {rows} rows. If rows with the same id"
                f" belong together, write data.group: {name} in settings.yml. A model is"
                " then judged on ids that it has not been trained on. If not, list the"
                " column under data.ignore."
            )
    return text_by_name


def _find_examples_of_form(
    table: pl.LazyFrame, position_by_name: dict[str, int]
) -> dict[str, str | None]:
    """Return an example of each column whose values all have the same form, else None.

    The example is the column's first value. `position_by_name` has the positions of the
    columns. Values have the same form if each of them has a digit, and if they are
    equal in one of two simplified forms:

    - Each run of letters becomes `a`, and each run of digits 0, so that INV-7 and AB-1234
      are both `a-0`.
    - Each letter and each digit becomes 0, so that 7A-x and B4-9 are both `00-0`.
    """
    if not position_by_name:
        return {}
    aggregations = []
    for position in position_by_name.values():
        text = pl.nth(position).drop_nulls()
        simplified_runs = text.str.replace_all(r"\p{L}+", "a").str.replace_all(
            r"\d+", "0"
        )
        simplified_characters = text.str.replace_all(r"[\p{L}\d]", "0")
        aggregations += [
            text.first().alias(f"{position} first"),
            text.str.contains(r"\d").all().alias(f"{position} all have digits"),
            simplified_runs.n_unique().alias(f"{position} forms of runs"),
            simplified_characters.n_unique().alias(f"{position} forms of characters"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    example_by_name: dict[str, str | None] = {}
    for name, position in position_by_name.items():
        runs_are_equal = row[f"{position} forms of runs"] == 1
        characters_are_equal = row[f"{position} forms of characters"] == 1
        all_have_digits = row[f"{position} all have digits"]
        if all_have_digits and (runs_are_equal or characters_are_equal):
            example_by_name[name] = row[f"{position} first"]
        else:
            example_by_name[name] = None
    return example_by_name


@dataclass(frozen=True)
class Sentinel:
    """A number such as -999, far from all others of its column: it may mean "missing".

    The number is in `count` rows of its column. The other numbers of the column lie
    between `smallest` and `largest`.
    """

    column: str
    number: float
    count: int
    smallest: float
    largest: float


def _find_sentinels(
    table: pl.LazyFrame,
    position_by_name: dict[str, int],
    statistics_by_name: dict[str, dict[str, Any]],
) -> list[Sentinel]:
    """Return the sentinels of the columns in `position_by_name`.

    A sentinel is one of the numbers in SENTINELS, such as -999, that is far from the other
    numbers of its column. `statistics_by_name` has the smallest and the largest number of
    each column.
    """
    candidates = _find_sentinel_candidates(position_by_name, statistics_by_name)
    if not candidates:
        return []

    aggregations = []
    for i, (name, number) in enumerate(candidates):
        values = pl.nth(position_by_name[name])
        other_values = pl.when(values != number).then(values)
        aggregations += [
            (values == number).sum().alias(f"{i} count"),
            other_values.min().alias(f"{i} smallest"),
            other_values.max().alias(f"{i} largest"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    sentinels = []
    for i, (name, number) in enumerate(candidates):
        smallest = row[f"{i} smallest"]
        largest = row[f"{i} largest"]
        column_has_other_numbers = smallest is not None
        if column_has_other_numbers and _is_far_from_range(number, smallest, largest):
            count = row[f"{i} count"]
            sentinels.append(Sentinel(name, number, count, smallest, largest))
    return sentinels


def _find_sentinel_candidates(
    names: Iterable[str], statistics_by_name: dict[str, dict[str, Any]]
) -> list[tuple[str, float]]:
    """Return each column with its smallest or largest number, if it is one of SENTINELS.

    Other numbers of a column lie between these two, so they are not far from all others.
    """
    candidates: list[tuple[str, float]] = []
    for name in names:
        for statistic in ("smallest", "largest"):
            number = float(statistics_by_name[name][statistic])
            if number in SENTINELS:
                candidates.append((name, number))
    return candidates


def _is_far_from_range(number: float, smallest: float, largest: float) -> bool:
    """Return whether a number is far from the range of the other numbers of its column.

    A number is far away if it is the only negative number, or if its distance to the range
    is larger than the range itself: 999 is far from numbers between 0 and 120.
    """
    is_only_negative = number < 0 <= smallest
    if is_only_negative:
        return True
    distance = smallest - number if number < smallest else number - largest
    return distance > largest - smallest


def _describe_sentinels(
    sentinels: list[Sentinel], sources: list[Source]
) -> dict[str, str]:
    """Return the text of a note on each column with a sentinel, by the column's name.

    The note is about the first sentinel of the column, and tells how to make its values
    missing.
    """
    text_by_name: dict[str, str] = {}
    spellings = _find_spellings(sentinels, sources)
    for sentinel, spelling in zip(sentinels, spellings, strict=True):
        if sentinel.column in text_by_name:
            continue
        if spelling is None:
            fix = "replace it with null in features() in prep.py"
        else:
            fix = f"write data.missing: ['{spelling}'] in settings.yml"
        rows = "1 row" if sentinel.count == 1 else f"{sentinel.count} rows"
        text_by_name[sentinel.column] = (
            f"column '{sentinel.column}' holds {sentinel.number:.0f} in {rows}, while all"
            f" other numbers are between {sentinel.smallest} and {sentinel.largest}. If it"
            f" stands for a missing value, {fix}."
        )
    return text_by_name


def _find_spellings(
    sentinels: list[Sentinel], sources: list[Source]
) -> list[str | None]:
    """Return how each sentinel is written where it occurs first in the CSV files.

    For example, -999 may be written as "-999.0". The spelling is None if no CSV file
    holds the sentinel.
    """
    spellings: list[str | None] = [None] * len(sentinels)
    for source in sources:
        text_by_index: dict[int, pl.Expr] = {}
        for i, sentinel in enumerate(sentinels):
            column = source.columns.get(sentinel.column)
            # Only the columns of CSV files keep their text.
            if spellings[i] is None and column and column.csv_text is not None:
                # The text is null in all rows without the sentinel.
                is_sentinel = column.values == sentinel.number
                text_by_index[i] = pl.when(is_sentinel).then(column.csv_text)
        first_texts = find_first_values(source.frame, list(text_by_index.values()))
        for i, text in zip(text_by_index, first_texts, strict=True):
            spellings[i] = None if text is None else str(text)
    return spellings
