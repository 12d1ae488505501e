"""Which type each column of a file has, and how its values are read as that type.

A column of a CSV file gets the narrowest type that loses none of its values. The first
rows rule most types out, so that one or two are tried on the whole file. If the first
rows are trusted, no type is tried on more than these, and each row that is written is
checked instead: it is a misfit if it contradicts a type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import polars as pl
from csv_dialect import CsvFile
from sources import (
    BOOLEAN,
    DATE,
    FIRST_ROWS,
    INTEGER,
    NUMBER,
    TEXT,
    TIMESTAMP,
    Column,
    ColumnRoles,
    Source,
    count_values,
)
from text_values import (
    MISSING_WORDS,
    TextFormat,
    null_if_empty,
    null_if_missing,
    parse_text,
)

# polars reads these many times as fast as a fraction of any length, %.f.
ISO_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%6f",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%6f",
)


@dataclass
class Candidate:
    """A column of a CSV file read as one type.

    The column is of that type if every value that is `filled` can be read, and none of
    the `values` is odd. `filled_or_word` also counts the spellings of a missing value.
    """

    type: pl.DataType
    values: pl.Expr
    filled: pl.Expr
    filled_or_word: pl.Expr
    is_odd: Callable[[pl.Expr], pl.Expr] | None = None

    @property
    def fitting(self) -> pl.Expr:
        """Return the values that are not odd."""
        if self.is_odd is None:
            return self.values
        return pl.when(~self.is_odd(self.values)).then(self.values)


@dataclass(frozen=True)
class CandidateCounts:
    """How many values of a candidate fit its type, of how many that are filled."""

    fitting: int
    filled: int
    filled_or_word: int

    @property
    def all_fit(self) -> bool:
        """Return whether the type loses no value."""
        return self.fitting == self.filled


def infer_csv_columns(
    frame: pl.LazyFrame,
    file: CsvFile,
    text_format: TextFormat,
    roles: ColumnRoles,
    *,
    trust_first_rows: bool,
) -> Source:
    """Return a CSV file with the narrowest type that each column has in all its rows.

    If the first rows are trusted, the types are theirs, and the source tells which of
    its rows are misfits. A column without a name stands under "\\0" and its position.
    """
    stripped = {
        position: pl.col(position).str.strip_chars() for position in file.positions
    }
    if trust_first_rows:
        # Many expressions read each row at once, and polars would strip it for each.
        frame = frame.with_columns(
            text.name.suffix(" stripped") for text in stripped.values()
        )
        stripped = {
            position: pl.col(f"{position} stripped") for position in file.positions
        }
    candidates = [
        list_candidates(name, pl.col(position), stripped[position], text_format, roles)
        for position, name in zip(file.positions, file.header)
    ]

    first_rows = frame.head(FIRST_ROWS).collect(engine="streaming").lazy()
    candidates = _rule_out(candidates, first_rows.head(100))
    candidates = _rule_out(candidates, first_rows)
    chosen = _choose_types(candidates, first_rows if trust_first_rows else frame)

    columns: dict[str, Column] = {}
    for position, (candidate, counts) in enumerate(chosen):
        name = file.header[position] or nameless(position)
        columns[name] = Column(
            type=candidate.type if counts.filled else None,
            values=candidate.fitting,
            text=stripped[file.positions[position]],
            missing_words=counts.filled_or_word - counts.filled,
        )
    source = Source(file.name, frame, columns)
    if trust_first_rows:
        _check_all_rows(source, [candidate for candidate, _ in chosen])
    return source


def nameless(position: int) -> str:
    """Return what stands for the name of a column that has none in the first line."""
    return f"\0{position}"


def list_candidates(
    name: str,
    text: pl.Expr,
    stripped: pl.Expr,
    text_format: TextFormat,
    roles: ColumnRoles,
) -> list[Candidate]:
    """Return the types that a column may have, the narrowest first and text last.

    A key is its text, blanks included, unless all of its values are plain integers. In a
    target that is text, words such as NA and none are classes.
    """
    if name in roles.ignore:
        return [Candidate(TEXT, text, text, text)]
    if name in roles.keys:
        written = pl.when(text != "").then(text)
        is_integer = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
        integers = pl.when(is_integer).then(text.cast(pl.Int64, strict=False))
        return [
            Candidate(INTEGER, integers, written, written),
            Candidate(TEXT, written, written, written),
        ]
    not_empty = null_if_empty(stripped)
    not_missing = null_if_missing(stripped, text_format)
    as_text = not_empty if name == roles.target else not_missing
    candidates: list[Candidate] = []
    for type in (INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP):
        candidates += _list_fast_candidates(text, type, text_format)
        values = parse_text(not_missing, type, text_format)
        candidates.append(Candidate(type, values, not_missing, as_text))
    candidates.append(Candidate(TEXT, as_text, as_text, not_empty))
    return candidates


def _list_fast_candidates(
    text: pl.Expr, type: pl.DataType, text_format: TextFormat
) -> list[Candidate]:
    """Return quicker readings of text that holds neither blanks nor missing words."""
    if text_format.missing:
        return []
    if type in (INTEGER, NUMBER):
        if text_format.decimal != "." or text_format.thousands:
            return []
        values = text.cast(type, strict=False)
        return [Candidate(type, values, text, text, partial(_is_odd_number, text))]
    if type == TIMESTAMP:
        return [
            Candidate(type, _to_timestamp(text, iso), text, text)
            for iso in ISO_TIMESTAMPS
        ]
    return [Candidate(type, parse_text(text, type, text_format), text, text)]


def _to_timestamp(text: pl.Expr, time_format: str) -> pl.Expr:
    """Return text as timestamps, without the cache that is slow for different values."""
    return text.str.to_datetime(time_format, time_unit="us", strict=False, cache=False)


def _is_odd_number(text: pl.Expr, number: pl.Expr) -> pl.Expr:
    """Return whether a number may be a code, is huge or NaN, or has a plus sign.

    It compares text by its order, in which : follows 9 and + precedes -, because that is
    quicker than to look for patterns.
    """
    is_code = text.is_between(pl.lit("00"), pl.lit("0:"))
    is_negative_code = text.is_between(pl.lit("-00"), pl.lit("-0:"))
    # NaN is between nothing, so it is not usual either.
    is_usual = number.is_between(-(10**18), 10**18, closed="none")
    return (text < "-") | is_code | is_negative_code | ~is_usual


def _rule_out(
    candidates: list[list[Candidate]], rows: pl.LazyFrame
) -> list[list[Candidate]]:
    """Return the candidates of each column that fit all of its values in these rows."""
    flat = [candidate for column in candidates for candidate in column]
    lossy = {
        id(candidate)
        for candidate, counts in zip(flat, _count(flat, rows))
        if not counts.all_fit
    }
    return [
        [candidate for candidate in column if id(candidate) not in lossy]
        for column in candidates
    ]


def _choose_types(
    candidates: list[list[Candidate]], rows: pl.LazyFrame
) -> list[tuple[Candidate, CandidateCounts]]:
    """Return the first candidate of each column that fits all rows, with its counts.

    Text, the last candidate, always fits.
    """
    chosen: dict[int, tuple[Candidate, CandidateCounts]] = {}
    untried = [iter(column) for column in candidates]
    while len(chosen) < len(candidates):
        undecided = [i for i in range(len(candidates)) if i not in chosen]
        tried = [next(untried[i]) for i in undecided]
        for i, candidate, counts in zip(undecided, tried, _count(tried, rows)):
            if counts.all_fit:
                chosen[i] = (candidate, counts)
    return [chosen[i] for i in range(len(candidates))]


def _count(candidates: list[Candidate], rows: pl.LazyFrame) -> list[CandidateCounts]:
    """Count the values of each candidate, all in one pass over the rows."""
    fitting = [candidate.fitting for candidate in candidates]
    filled = [candidate.filled for candidate in candidates]
    filled_or_word = [candidate.filled_or_word for candidate in candidates]
    counts = count_values(rows, [*fitting, *filled, *filled_or_word])
    size = len(candidates)
    return [
        CandidateCounts(*of_candidate)
        for of_candidate in zip(
            counts[:size], counts[size : 2 * size], counts[2 * size :]
        )
    ]


def _check_all_rows(source: Source, candidates: list[Candidate]) -> None:
    """Make the source tell which rows contradict the types of the first rows."""
    values_by_name: dict[str, pl.Expr] = {}
    misfits = [source.is_misfit]
    for column, candidate in zip(source.columns.values(), candidates):
        # The values are computed once, for the output and for the checks.
        name = f"{len(values_by_name)} values"
        values_by_name[name] = candidate.values
        column.values = pl.col(name)
        is_null = column.values.is_null()
        if column.type is None:
            # A column without a value must stay so, and without missing words, too, if
            # the first rows hold none.
            expected = (
                candidate.filled if column.missing_words else candidate.filled_or_word
            )
            misfits.append(expected.is_not_null())
        elif candidate.filled is not candidate.values:
            misfits.append(is_null & candidate.filled.is_not_null())
        if candidate.is_odd is not None:
            misfits.append(candidate.is_odd(column.values))
        if candidate.filled_or_word is not candidate.filled:
            is_word_or_filled = candidate.filled_or_word.is_not_null()
            column.is_missing_word = is_null & is_word_or_filled
    source.frame = source.frame.with_columns(**values_by_name)
    source.is_misfit = pl.any_horizontal(misfits)


def infer_parquet_columns(frame: pl.LazyFrame, roles: ColumnRoles) -> dict[str, Column]:
    """Return the columns of a Parquet file, without the index that pandas keeps in it."""
    columns: dict[str, Column] = {}
    for position, (name, dtype) in enumerate(frame.collect_schema().items()):
        is_index = name.startswith("__index_level_")
        if not is_index:
            columns[name] = _convert_parquet_column(
                frame, position, dtype, is_key=name in roles.keys
            )
    if not columns:
        return {}
    filled = [column.values for column in columns.values()]
    missing_words = [_missing_words(column) for column in columns.values()]
    counts = count_values(frame, [*filled, *missing_words])
    size = len(columns)
    for column, values, missing in zip(columns.values(), counts[:size], counts[size:]):
        column.missing_words = missing
        if not values:
            column.type = None
    return columns


def _missing_words(column: Column) -> pl.Expr:
    """Return the words of a Parquet column that would be missing values in a CSV file."""
    if column.type != TEXT:
        return pl.lit(None)
    return pl.when(column.values.is_in(MISSING_WORDS)).then(column.values)


def _convert_parquet_column(
    frame: pl.LazyFrame, position: int, dtype: pl.DataType, *, is_key: bool
) -> Column:
    """Return a column as one of the types of features, or as it is if none holds it.

    It is read by its position, because polars takes some names for patterns. A key keeps
    its type, but for integers and categories.
    """
    column = pl.nth(position)
    is_whole = dtype.is_integer() or (
        isinstance(dtype, pl.Decimal) and dtype.scale == 0
    )
    if is_whole:
        integers = column.cast(pl.Int64, strict=False)
        fits = integers.null_count() == column.null_count()
        if frame.select(fits).collect(engine="streaming").item():
            return Column(INTEGER, integers)
        if is_key:
            return Column(TEXT, column.cast(pl.String))
    is_category = isinstance(dtype, (pl.Categorical, pl.Enum))
    if is_key and not is_category:
        return Column(dtype, column.fill_nan(None) if dtype.is_float() else column)
    if dtype.is_numeric():
        return Column(NUMBER, column.cast(pl.Float64).fill_nan(None))
    if isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
        return Column(TIMESTAMP, utc.dt.replace_time_zone(None).cast(TIMESTAMP))
    if dtype == pl.String or is_category:
        text = column.cast(pl.String)
        return Column(TEXT, text if is_key else null_if_empty(text.str.strip_chars()))
    return Column(dtype, column)
