"""Which type each column of a file has, and how its values are read as that type.

A column of a CSV file gets the narrowest type that loses none of its values. The first
rows rule most types out, so that one or two are tried on the whole file. If the first
rows are trusted, no type is tried on more than these, and each row that is written is
checked instead: it is a misfit if it contradicts a type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import polars as pl
from candidates import (
    Candidate,
    CandidateBuilder,
    CandidateCounts,
    ColumnBuilders,
    Fit,
    find_fits,
)
from csv_dialect import CsvFile
from date_formats import find_certain_format
from sources import (
    BOOLEAN,
    DATE,
    FILE,
    FIRST_ROWS,
    INTEGER,
    NUMBER,
    READABLE_TYPES,
    TEXT,
    TIMESTAMP,
    Column,
    ColumnRoles,
    Source,
    count_values,
)
from text_values import (
    Reading,
    TextFormat,
    is_time_of_day,
    list_date_readings,
    list_usual_readings,
    null_if_empty,
    null_if_missing,
    null_if_nan,
    parse_text,
)

# The types of a file are guessed from so many values, of at least so many rows.
FIRST_VALUES = 4_000_000
FEWEST_FIRST_ROWS = 100
ISO_DATE = "%Y-%m-%d"
DOTTED_DATE = "%Y.%m.%d"
# polars reads these many times as fast as a fraction of any length, %.f.
ISO_TIMESTAMPS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%6f",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%6f",
)


@dataclass(frozen=True)
class ColumnKind:
    """What decides which types a column may have.

    Words such as NA and none are values of some columns, and missing values of others.
    In a target, they are classes, but NaN is missing. `types` are tried in their order,
    before text. Times of day are numbers if `times_are_numbers`.
    """

    is_ignored: bool = False
    is_key: bool = False
    is_target: bool = False
    words_are_values: bool = False
    types: tuple[pl.DataType, ...] = (INTEGER, NUMBER, BOOLEAN, DATE, TIMESTAMP)
    times_are_numbers: bool = True

    def allows(self, reading: Reading) -> bool:
        """Return whether columns of this kind may be read so."""
        if is_time_of_day(reading) and not self.times_are_numbers:
            return False
        return reading.dtype in self.types

    def select_text(self, stripped: pl.Expr, text_format: TextFormat) -> pl.Expr:
        """Return the values of a column of text, and null for its missing values."""
        if self.words_are_values:
            return null_if_empty(stripped)
        if self.is_target:
            return null_if_nan(stripped)
        return null_if_missing(stripped, text_format, in_text=True)

    def select_filled(
        self, stripped: pl.Expr, not_missing: pl.Expr, text_format: TextFormat
    ) -> pl.Expr:
        """Return the values that a column of text would have, given those of another.

        It is the same expression, which polars computes once, unless words make a
        difference.
        """
        if self.is_target or self.words_are_values or text_format.not_missing:
            return self.select_text(stripped, text_format)
        return not_missing


def find_kind(name: str, roles: ColumnRoles) -> ColumnKind:
    """Return the kind of a column, by its name in settings.yml.

    A column of a model's schema has only the types that can be read as the schema's.
    """
    schema = roles.get_schema(name)
    if schema is not None:
        return ColumnKind(
            words_are_values=not schema.words_are_missing,
            types=READABLE_TYPES[schema.type],
            times_are_numbers=schema.holds_times,
        )
    return ColumnKind(
        is_ignored=not roles.is_read(name),
        is_key=name in roles.keys,
        is_target=name == roles.target,
    )


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
    most_rows = count_first_rows(file)
    first_rows = frame.head(most_rows).collect(engine="streaming")
    are_all_rows = len(first_rows) < most_rows
    builders = list_builders(file.header, text_format, roles)
    stripped = {
        position: pl.col(position).str.strip_chars() for position in file.positions
    }
    if are_all_rows:
        fits = find_first_fits(first_rows, builders)
    elif trust_first_rows:
        fits = find_first_fits(first_rows, builders)
        # Many expressions read each row at once, and polars would strip it for each.
        frame = frame.with_columns(
            text.name.suffix(" stripped") for text in stripped.values()
        )
        stripped = {
            position: pl.col(f"{position} stripped") for position in file.positions
        }
    else:
        fits = _find_fits_of_all_rows(first_rows, frame, builders, text_format)

    candidates = [
        fit.build(pl.col(position), text)
        for fit, (position, text) in zip(fits, stripped.items())
    ]
    columns = build_columns(file.header, fits, candidates, stripped, text_format, roles)
    source = Source(file.name, frame, columns, csv_file=file)
    if trust_first_rows and not are_all_rows:
        _check_all_rows(source, candidates)
    return source


def infer_text_column(
    frame: pl.LazyFrame,
    name: str,
    text: pl.Expr,
    text_format: TextFormat,
    roles: ColumnRoles,
) -> Column:
    """Return a column of text of a Parquet file, read as that of a CSV file would be."""
    texts = frame.select(text.alias("0"))
    first_rows = texts.head(FIRST_ROWS).collect(engine="streaming")
    builders = list_builders([name], text_format, roles)
    (fit,) = _find_fits_of_all_rows(first_rows, texts, builders, text_format)
    candidate = fit.build(text, text.str.strip_chars())
    return Column(
        type=candidate.reading.dtype if fit.counts.filled else None,
        values=candidate.fitting,
        holds_times=is_time_of_day(candidate.reading),
    )


def count_first_rows(file: CsvFile) -> int:
    """Return how many rows of a file the types are guessed from: fewer if it is wide."""
    return min(FIRST_ROWS, max(FEWEST_FIRST_ROWS, FIRST_VALUES // len(file.header)))


def find_first_fits(
    first_rows: pl.DataFrame, builders: Sequence[ColumnBuilders]
) -> list[Fit]:
    """Return the first candidate of each column that holds all of the first rows."""
    if first_rows.is_empty():
        return list_fits_without_rows(builders)
    texts = first_rows.select(pl.lit(0, pl.UInt32).alias(FILE), pl.all())
    return find_fits(texts, builders)[0]


def list_fits_without_rows(builders: Sequence[ColumnBuilders]) -> list[Fit]:
    """Return the first candidate of each column of a file without rows."""
    no_values = CandidateCounts(0, 0, 0)
    return [Fit(column_builders.usual[0], no_values) for column_builders in builders]


def build_columns(
    header: list[str],
    fits: list[Fit],
    candidates: list[Candidate],
    stripped: dict[str, pl.Expr],
    text_format: TextFormat,
    roles: ColumnRoles,
) -> dict[str, Column]:
    """Return the columns of a file by their names.

    `fits` and `candidates` have the reading of each column. `stripped` is the text of each
    column without blanks around it, under the name by which polars reads the column.
    """
    columns: dict[str, Column] = {}
    for index, text in enumerate(stripped.values()):
        counts = fits[index].counts
        candidate = candidates[index]
        name = header[index]
        column = Column(
            type=candidate.reading.dtype if counts.filled else None,
            values=candidate.fitting,
            text=text,
            holds_times=is_time_of_day(candidate.reading),
            missing_words=counts.filled_or_word - counts.filled,
        )
        if not counts.finite or column.type is None:
            # The column may hold nothing but words: none, NA, or Inf.
            column.as_text = find_kind(name, roles).select_text(text, text_format)
        columns[name or nameless(index)] = column
    return columns


def nameless(position: int) -> str:
    """Return what stands for the name of a column that has none in the first line."""
    return f"\0{position}"


def list_builders(
    header: list[str], text_format: TextFormat, roles: ColumnRoles
) -> list[ColumnBuilders]:
    """Return the readings that each column may have; columns of a kind share theirs."""
    builders_by_kind: dict[ColumnKind, ColumnBuilders] = {}
    builders = []
    for name in header:
        kind = find_kind(name, roles)
        if kind not in builders_by_kind:
            builders_by_kind[kind] = list_builders_of_kind(kind, text_format)
        builders.append(builders_by_kind[kind])
    return builders


def list_builders_of_kind(kind: ColumnKind, text_format: TextFormat) -> ColumnBuilders:
    """Return the readings that a column may have, the narrowest first and text last.

    A key is its text, blanks included, unless all of its values are plain integers.
    """
    if kind.is_ignored:
        return ColumnBuilders((_build_ignored,))
    if kind.is_key:
        return ColumnBuilders((_build_integer_key, _build_text_key))
    usual_readings = [
        reading
        for dtype in kind.types
        for reading in list_usual_readings(text_format)
        if reading.dtype == dtype and kind.allows(reading)
    ]
    builders: list[CandidateBuilder] = [
        partial(_build_as_written, reading=reading, kind=kind, text_format=text_format)
        for reading in usual_readings
        if looks_like_number(reading.date_format)
    ]
    for reading in usual_readings:
        builders += _list_fast_builders(reading, kind, text_format)
        builders.append(
            partial(_build_typed, reading=reading, kind=kind, text_format=text_format)
        )
    builders.append(partial(_build_text, kind=kind, text_format=text_format))
    return ColumnBuilders(
        usual=tuple(builders),
        null_if_missing=partial(null_if_missing, text_format=text_format),
        find_by_value=partial(
            _find_certain_builder, kind=kind, text_format=text_format
        ),
    )


def _build_ignored(text: pl.Expr, stripped: pl.Expr) -> Candidate:
    """Return a column that is not looked at as the text that it is."""
    return Candidate(Reading(TEXT), text, text, text)


def _build_integer_key(text: pl.Expr, stripped: pl.Expr) -> Candidate:
    """Return a key whose values are plain integers."""
    written = pl.when(text != "").then(text)
    is_integer = text.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
    integers = pl.when(is_integer).then(text.cast(pl.Int64, strict=False))
    return Candidate(Reading(INTEGER), integers, written, written)


def _build_text_key(text: pl.Expr, stripped: pl.Expr) -> Candidate:
    """Return a key as its text, blanks included."""
    written = pl.when(text != "").then(text)
    return Candidate(Reading(TEXT), written, written, written)


def _build_typed(
    text: pl.Expr,
    stripped: pl.Expr,
    *,
    reading: Reading,
    kind: ColumnKind,
    text_format: TextFormat,
) -> Candidate:
    """Return a column read as a type other than text, in all the spellings that it has."""
    not_missing = null_if_missing(stripped, text_format)
    values = parse_text(not_missing, reading, text_format)
    filled_or_word = kind.select_filled(stripped, not_missing, text_format)
    return Candidate(reading, values, not_missing, filled_or_word)


def _build_text(
    text: pl.Expr, stripped: pl.Expr, *, kind: ColumnKind, text_format: TextFormat
) -> Candidate:
    """Return a column as text without blanks around it."""
    as_text = kind.select_text(stripped, text_format)
    return Candidate(Reading(TEXT), as_text, as_text, null_if_empty(stripped))


def looks_like_number(date_format: str) -> bool:
    """Return whether dates in this format, such as %Y%m%d, look like numbers."""
    signs = re.sub("%[a-zA-Z]", "", date_format)
    return date_format != "" and signs in ("", ".")


def _build_as_written(
    text: pl.Expr,
    stripped: pl.Expr,
    *,
    reading: Reading,
    kind: ColumnKind,
    text_format: TextFormat,
) -> Candidate:
    """Return a column of dates that look like numbers, which a format writes just so.

    polars reads more values by a format than the format would write.
    """
    candidate = _build_typed(
        text, stripped, reading=reading, kind=kind, text_format=text_format
    )
    not_missing = candidate.filled
    if reading.dtype == NUMBER:
        dates = not_missing.str.to_time(reading.date_format, strict=False)
    else:
        dates = candidate.values
    is_as_written = dates.dt.strftime(reading.date_format) == not_missing
    candidate.values = pl.when(is_as_written).then(candidate.values)
    return candidate


def _find_certain_builder(
    value: str, *, kind: ColumnKind, text_format: TextFormat
) -> CandidateBuilder | None:
    """Return the only reading that a value such as 31-Jan-2026 can have, or None."""
    date_format = find_certain_format(value)
    if date_format is None or date_format == ISO_DATE:
        return None
    reading = list_date_readings(date_format)[0]
    if not kind.allows(reading):
        return None
    return _build_formatted(reading, kind, text_format)


@cache
def _build_formatted(
    reading: Reading, kind: ColumnKind, text_format: TextFormat
) -> CandidateBuilder:
    """Return the builder of a column whose dates or times are written in one format.

    Equal readings have the same builder, so that their columns are counted together.
    """
    build = partial(_build_typed, reading=reading, kind=kind, text_format=text_format)
    if reading.date_format == DOTTED_DATE:
        # The version of a program, such as 2026.1.5, is shorter.
        return partial(_build_of_ten_letters, build=build)
    return build


def _build_of_ten_letters(
    text: pl.Expr, stripped: pl.Expr, *, build: CandidateBuilder
) -> Candidate:
    """Return a column of which only values of ten letters can be read."""
    candidate = build(text, stripped)
    has_ten_letters = stripped.str.len_bytes() == 10
    candidate.values = pl.when(has_ten_letters).then(candidate.values)
    return candidate


def _list_fast_builders(
    reading: Reading, kind: ColumnKind, text_format: TextFormat
) -> list[CandidateBuilder]:
    """Return quicker readings, most of them of text without blanks and missing words."""
    if text_format.missing or reading.date_format:
        return []
    if reading.dtype in (INTEGER, NUMBER):
        if text_format.decimal != "." or text_format.thousands:
            return []
        return [
            partial(_build_plain_number, reading=reading),
            partial(
                _build_plain_number_or_word,
                reading=reading,
                kind=kind,
                text_format=text_format,
            ),
        ]
    if reading.dtype == TIMESTAMP:
        return [
            partial(_build_timestamp, time_format=time_format)
            for time_format in ISO_TIMESTAMPS
        ]
    return [partial(_build_plain, reading=reading, text_format=text_format)]


def _build_plain_number(
    text: pl.Expr, stripped: pl.Expr, *, reading: Reading
) -> Candidate:
    """Return a column of numbers in the usual spelling."""
    values = text.cast(reading.dtype, strict=False)
    return Candidate(reading, values, text, text, partial(_is_odd_number, text))


def _build_plain_number_or_word(
    text: pl.Expr,
    stripped: pl.Expr,
    *,
    reading: Reading,
    kind: ColumnKind,
    text_format: TextFormat,
) -> Candidate:
    """Return a column of numbers in the usual spelling, and words such as NA."""
    not_missing = null_if_missing(stripped, text_format)
    candidate = _build_plain_number(not_missing, stripped, reading=reading)
    candidate.filled_or_word = kind.select_filled(stripped, not_missing, text_format)
    return candidate


def _build_timestamp(
    text: pl.Expr, stripped: pl.Expr, *, time_format: str
) -> Candidate:
    """Return a column of timestamps that are all written in one format."""
    values = text.str.to_datetime(
        # polars' cache makes different values slow.
        time_format,
        time_unit="us",
        strict=False,
        cache=False,
    )
    return Candidate(Reading(TIMESTAMP), values, text, text)


def _build_plain(
    text: pl.Expr, stripped: pl.Expr, *, reading: Reading, text_format: TextFormat
) -> Candidate:
    """Return a column of booleans or dates that has a value in each row."""
    return Candidate(reading, parse_text(text, reading, text_format), text, text)


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


def _find_fits_of_all_rows(
    first_rows: pl.DataFrame,
    frame: pl.LazyFrame,
    builders: Sequence[ColumnBuilders],
    text_format: TextFormat,
) -> list[Fit]:
    """Return the first candidate of each column that holds all rows, with its counts.

    The first rows rule out most candidates. Text, the last candidate, always fits.
    """
    first_rows = _fill_empty_columns(first_rows, frame, text_format)
    untried = list(builders)
    fits: dict[int, Fit] = {}
    while len(fits) < len(builders):
        undecided = [i for i in range(len(builders)) if i not in fits]
        texts = first_rows.select(
            pl.col(str(i)).alias(str(position)) for position, i in enumerate(undecided)
        )
        first_fits = find_first_fits(texts, [untried[i] for i in undecided])
        candidates = [
            fit.build(pl.col(str(i)), pl.col(str(i)).str.strip_chars())
            for i, fit in zip(undecided, first_fits)
        ]
        all_counts = _count(candidates, frame)
        for i, fit, counts in zip(undecided, first_fits, all_counts):
            if counts.all_fit:
                fits[i] = Fit(fit.build, counts)
            else:
                untried[i] = untried[i].skip_through(fit.build)
    return [fits[i] for i in range(len(builders))]


def _fill_empty_columns(
    first_rows: pl.DataFrame, frame: pl.LazyFrame, text_format: TextFormat
) -> pl.DataFrame:
    """Return the first rows, with the first value of all rows in columns without any."""
    filled = null_if_missing(pl.all().str.strip_chars(), text_format)
    value_counts = first_rows.select(filled.count()).row(0, named=True)
    empty = [name for name, count in value_counts.items() if not count]
    if not empty:
        return first_rows
    filled = null_if_missing(pl.col(empty).str.strip_chars(), text_format)
    first_values = frame.select(filled.drop_nulls().first())
    values_by_name = first_values.collect(engine="streaming").row(0, named=True)
    return first_rows.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in values_by_name.items()
    )


def _count(candidates: list[Candidate], rows: pl.LazyFrame) -> list[CandidateCounts]:
    """Count the values of each candidate, all in one pass over the rows."""
    expressions: list[pl.Expr] = []
    for candidate in candidates:
        expressions += [
            candidate.fitting,
            candidate.filled,
            candidate.filled_or_word,
            candidate.finite,
        ]
    counts = count_values(rows, expressions)
    return [CandidateCounts(*counts[i : i + 4]) for i in range(0, len(counts), 4)]


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
