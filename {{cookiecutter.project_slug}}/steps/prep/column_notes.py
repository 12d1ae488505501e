"""Write notes on columns of the prepared table that are empty or doubtful.

Doubtful columns hold a different text in nearly every row, ids that may tell which rows
belong together, or a number such as -999 that stands for a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
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
    """Return a note on each feature that is empty or doubtful.

    A feature is doubtful if it holds text that differs in nearly every row, ids that
    repeat, or a number such as -999 that may stand for a missing value. `prepared` is the
    folder of the prepared parts, `statistics_by_name` has the statistics of all columns of
    the parts, and `row_count` is the number of their rows. Columns in `noted_columns`
    already have a note and get no other.
    """
    excluded_names = {*noted_columns, *roles.keys, roles.target, roles.group}
    features = [name for name in statistics_by_name if name not in excluded_names]

    text_by_name: dict[str, str] = {}
    for name in features:
        is_empty = statistics_by_name[name]["missing"] == row_count
        if is_empty:
            text_by_name[name] = f"column '{name}' holds no value."
    # A registered model needs its columns, so advice to ignore them would be wrong.
    if roles.model_columns is None:
        table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
        doubtful = _select_doubtful_features(features, statistics_by_name, row_count)
        text_by_name |= _describe_distinct_texts(table, doubtful.distinct_texts)
        # If settings.yml names a group, it already says which rows belong together.
        if roles.group is None:
            text_by_name |= _describe_repeated_ids(table, doubtful.ids)
        sentinels = _find_sentinels(table, doubtful.numbers, statistics_by_name)
        text_by_name |= _describe_sentinels(sentinels, sources)
    return [
        Note(text_by_name[name], column=name)
        for name in features
        if name in text_by_name
    ]


@dataclass
class DoubtfulFeatures:
    """Features that may need a note, divided by the kind of note.

    Each dictionary has the position of a feature in the prepared table by its name.
    Columns are selected by their positions, because polars would treat a name such as
    `^a$` as a regular expression.
    """

    #: Text that differs in nearly every row.
    distinct_texts: dict[str, int] = field(default_factory=dict)
    #: Features that are named like ids. They need a note if the ids repeat.
    ids: dict[str, int] = field(default_factory=dict)
    #: Numbers. They need a note if one of them, such as -999, stands for a missing value.
    numbers: dict[str, int] = field(default_factory=dict)


def _select_doubtful_features(
    features: list[str],
    statistics_by_name: dict[str, dict[str, Any]],
    row_count: int,
) -> DoubtfulFeatures:
    """Divide features by the kind of note that each of them may need.

    Features without values, and features of other types, such as dates, are left out.
    `statistics_by_name` has the statistics of all columns of the prepared table, in order,
    and `row_count` is the number of rows.
    """
    position_by_name = {name: i for i, name in enumerate(statistics_by_name)}
    doubtful = DoubtfulFeatures()
    for name in features:
        position = position_by_name[name]
        statistics = statistics_by_name[name]
        value_count = row_count - statistics["missing"]
        if value_count == 0:
            continue
        # Only text and booleans have a number of distinct values.
        distinct_count = statistics.get("distinct", 0)
        nearly_all_differ = distinct_count >= NEARLY_ALL * value_count
        may_hold_ids = statistics["type"] in ("integer", "text")
        is_numeric = statistics["type"] in ("integer", "number")

        # A feature gets one note, so it is put under the first kind that fits.
        if value_count >= MANY_VALUES and nearly_all_differ:
            doubtful.distinct_texts[name] = position
        elif may_hold_ids and is_named_like_an_id(name):
            doubtful.ids[name] = position
        elif is_numeric:
            doubtful.numbers[name] = position
    return doubtful


def _describe_distinct_texts(
    table: pl.LazyFrame, position_by_name: dict[str, int]
) -> dict[str, str]:
    """Return the text of a note on each column of text that differs in nearly every row.

    `position_by_name` has the positions of these columns in the table. If all values of a
    column have the same form, as INV-7 and INV-12 have, the column may be useful, and the
    note says how. Otherwise, the note advises the user to ignore the column.
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
    """Return the text of a note on each column whose ids are in several rows each.

    For example, a column customer_id may hold 100 ids in 1000 rows. `position_by_name` has
    the positions of the columns that are named like ids.
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
        row_count = counts[f"{position} rows"]
        id_count = counts[f"{position} ids"]
        if id_count >= MANY_IDS and row_count >= ROWS_PER_ID * id_count:
            text_by_name[name] = (
                f"column '{name}' has {id_count} ids in {row_count} rows. If rows with the"
                f" same id belong together, write data.group: {name} in settings.yml, so"
                " that the model is judged on ids that it was not trained on. Otherwise,"
                " list the column under data.ignore."
            )
    return text_by_name


def _find_examples_of_form(
    table: pl.LazyFrame, position_by_name: dict[str, int]
) -> dict[str, str | None]:
    """Return an example value of each column, or None if its values differ in form.

    The example is the column's first value. The values INV-7 and INV-12 have the same form:
    see `_express_same_form`. `position_by_name` has the positions of the columns.
    """
    if not position_by_name:
        return {}
    aggregations = []
    for position in position_by_name.values():
        text = pl.nth(position).drop_nulls()
        aggregations += [
            text.first().alias(f"{position} first"),
            _express_same_form(text).alias(f"{position} have same form"),
        ]
    row = table.select(aggregations).collect(engine="streaming").row(0, named=True)

    example_by_name: dict[str, str | None] = {}
    for name, position in position_by_name.items():
        have_same_form = row[f"{position} have same form"]
        example_by_name[name] = row[f"{position} first"] if have_same_form else None
    return example_by_name


def _express_same_form(text: pl.Expr) -> pl.Expr:
    """Return an expression that is True if all values of a text have the same form.

    Values have the same form if each of them has a digit, and if they become equal by one
    of two simplifications:

    - Each run of letters becomes `a`, and each run of digits 0, so that INV-7 and AB-1234
      both become `a-0`.
    - Each letter and each digit becomes 0, so that 7A-x and B4-9 both become `00-0`.
    """
    with_letters_as_a = text.str.replace_all(r"\p{L}+", "a")
    simplified_runs = with_letters_as_a.str.replace_all(r"\d+", "0")
    simplified_characters = text.str.replace_all(r"[\p{L}\d]", "0")

    all_have_digits = text.str.contains(r"\d").all()
    runs_are_equal = simplified_runs.n_unique() == 1
    characters_are_equal = simplified_characters.n_unique() == 1
    return all_have_digits & (runs_are_equal | characters_are_equal)


@dataclass(frozen=True)
class Sentinel:
    """A number such as -999 that may stand for a missing value.

    The number is in `count` rows of a column, and is far from all other numbers of this
    column, which lie between `smallest` and `largest`.
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
    """Return pairs of a column and a number that may stand for a missing value.

    The number is one of SENTINELS, such as -999, and is the smallest or the largest number
    of the column.
    """
    candidates: list[tuple[str, float]] = []
    for name in names:
        # Only these two can be sentinels: a sentinel is far from all other numbers of its
        # column, and every other number lies between these two.
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

    A sentinel is a number such as -999 that may stand for a missing value. The note is
    about the first sentinel of the column, and tells how to turn it into a missing value.
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

    A sentinel is a number such as -999 that may stand for a missing value, and that a file
    may write as "-999.0". The spelling is None if no CSV file holds the sentinel.
    """
    spelling_by_sentinel: dict[Sentinel, str] = {}
    for source in sources:
        # A sentinel that was found in an earlier file is not searched for again.
        unfound_sentinels = [
            sentinel for sentinel in sentinels if sentinel not in spelling_by_sentinel
        ]
        spelling_by_sentinel |= _find_spellings_in_file(unfound_sentinels, source)
    return [spelling_by_sentinel.get(sentinel) for sentinel in sentinels]


def _find_spellings_in_file(
    sentinels: list[Sentinel], source: Source
) -> dict[Sentinel, str]:
    """Return how each sentinel that a file holds is written where it occurs first.

    A sentinel is a number such as -999 that may stand for a missing value. The result is
    empty for a Parquet file, in which numbers have no spelling.
    """
    text_by_sentinel: dict[Sentinel, pl.Expr] = {}
    for sentinel in sentinels:
        column = source.columns.get(sentinel.column)
        # Only the columns of CSV files keep their text.
        if column is None or column.csv_text is None:
            continue
        # The text is null in all rows without the sentinel.
        is_sentinel = column.values == sentinel.number
        text_by_sentinel[sentinel] = pl.when(is_sentinel).then(column.csv_text)

    first_texts = find_first_values(source.frame, list(text_by_sentinel.values()))
    return {
        sentinel: str(text)
        for sentinel, text in zip(text_by_sentinel, first_texts, strict=True)
        if text is not None
    }
