"""Opening Parquet files: their columns, and the types that features and keys can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from candidates import find_fits
from sources import (
    DATE,
    FILE,
    INTEGER,
    NUMBER,
    TEXT,
    TIMESTAMP,
    Column,
    ColumnRoles,
    DataError,
    Source,
    count_values,
    find_system_error,
    show_text,
)
from text_values import MISSING_WORDS, TextFormat, is_time_of_day, null_if_empty
from type_inference import ColumnKind, list_builders_of_kind

MOST_DIGITS = 38  # of a decimal number that polars can read
SAMPLED_VALUES = 1_000
PANDAS_INDEX = "__index_level_"
# The texts of a UUID, such as 123e4567-e89b-12d3-a456-426614174000, by their lengths.
UUID_TEXTS = (8, 4, 4, 4, 12)


def open_parquet(
    path: Path, name: str, text_format: TextFormat, roles: ColumnRoles
) -> Source:
    """Open a Parquet file, and call it `name` in messages.

    Raises DataError if it is damaged, has no columns, or has columns that polars cannot
    read.
    """
    try:
        frame = _scan(path)
        source = Source(name, frame, {})
        _add_columns(source, path, text_format, roles)
    except pl.exceptions.DuplicateError:
        raise DataError(
            f"{name} has several columns named '{_find_repeated_name(path)}': rename all"
            " but one."
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        if reason := find_system_error(error):
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(
            f"{name} is not a whole Parquet file, though its name says so."
        ) from None
    if not source.columns:
        raise DataError(f"{name} has no columns.")
    return source


def _scan(path: Path) -> pl.LazyFrame:
    """Return the rows of a Parquet file, with old timestamps (INT96) in microseconds.

    polars reads these in nanoseconds, in which all times after the year 2262 are one.
    """
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    schema = frame.collect_schema()
    if pl.Datetime("ns") not in schema.dtypes():
        return frame
    for column in _read_physical_columns(path):
        if column.physical_type == "INT96" and column.path in schema:
            schema[column.path] = pl.Datetime("us")
    return pl.scan_parquet(path, glob=False, hive_partitioning=False, schema=schema)


def _read_physical_columns(path: Path) -> list[Any]:
    """Return how the columns of a Parquet file are stored, which polars does not tell."""
    # pyarrow takes as long to import as polars, and few files need it.
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return [file.schema.column(index) for index in range(len(file.schema))]


def _find_repeated_name(path: Path) -> str:
    """Return the first name that several columns of a Parquet file have."""
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    return next(show_text(name) for name in names if names.count(name) > 1)


def _add_columns(
    source: Source, path: Path, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Add the columns of a Parquet file to its source, without the index of pandas."""
    for position, (name, dtype) in enumerate(source.frame.collect_schema().items()):
        is_key = name in roles.keys
        if name.startswith(PANDAS_INDEX) and not is_key and name != roles.target:
            source.notes.append(
                f"the index that pandas stores in Parquet files ('{name}') is left out:"
                " if it is data, call reset_index() before to_parquet()."
            )
        elif not roles.is_read(name):
            source.columns[name] = Column(None, pl.lit(None))
        elif dtype == pl.Binary:
            source.columns[name] = _convert_bytes(
                source, position, name, path, is_key=is_key
            )
        elif isinstance(dtype, pl.Decimal) and dtype.precision > MOST_DIGITS:
            raise DataError(
                f"{source.name}: the column '{name}' holds decimal numbers of"
                f" {dtype.precision} digits, of which {MOST_DIGITS} can be read: convert"
                " it to floats, or list it under data.ignore in settings.yml."
            )
        else:
            column = _convert_column(source.frame, position, dtype, is_key=is_key)
            if column.type == TEXT and not is_key and roles.schema is None:
                column = _convert_dates(source.frame, column, text_format)
            source.columns[name] = column
    _count_values(source)


def _count_values(source: Source) -> None:
    """Count the missing words of the columns, and note which have no value."""
    columns = list(source.columns.values())
    if not columns:
        return
    filled = [column.values for column in columns]
    missing_words = [_find_missing_words(column) for column in columns]
    counts = count_values(source.frame, [*filled, *missing_words])
    for index, column in enumerate(columns):
        column.missing_words = counts[len(columns) + index]
        if not counts[index]:
            column.type = None


def _find_missing_words(column: Column) -> pl.Expr:
    """Return the words of a column that would be missing values in a CSV file."""
    if column.type != TEXT:
        return pl.lit(None)
    return pl.when(column.values.is_in(MISSING_WORDS)).then(column.values)


def _convert_column(
    frame: pl.LazyFrame, position: int, dtype: pl.DataType, *, is_key: bool
) -> Column:
    """Return a column as one of the types of features, or as it is if none holds it.

    It is read by its position, because polars takes some names for patterns. A key keeps
    its type, but for integers, categories and times of day.
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
    if is_key and dtype == pl.Time:
        return Column(TEXT, column.cast(pl.String))
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


def _convert_dates(
    frame: pl.LazyFrame, column: Column, text_format: TextFormat
) -> Column:
    """Return a column of text as dates or times if it would be that in a CSV file.

    Words such as NA are values in Parquet files, so text with such words stays text.
    """
    sample = frame.select(pl.lit(0, pl.UInt32).alias(FILE), column.values.alias("0"))
    texts = sample.drop_nulls("0").head(SAMPLED_VALUES).collect(engine="streaming")
    if texts.is_empty():
        return column
    kind = ColumnKind(types=(NUMBER, DATE, TIMESTAMP), words_are_values=True)
    fit = find_fits(texts, [list_builders_of_kind(kind, text_format)])[0][0]
    candidate = fit.build(column.values, column.values)
    holds_times = is_time_of_day(candidate.reading)
    if candidate.reading.dtype not in (DATE, TIMESTAMP) and not holds_times:
        return column
    values, fitting = count_values(frame, [column.values, candidate.fitting])
    if fitting < values:
        return column
    return Column(candidate.reading.dtype, candidate.fitting, holds_times=holds_times)


def _convert_bytes(
    source: Source, position: int, name: str, path: Path, *, is_key: bool
) -> Column:
    """Return a column of bytes as text, if they are UUIDs or UTF-8, else as it is.

    Raises DataError if a key is neither.
    """
    column = pl.nth(position)
    if _is_uuid(path, name):
        return Column(TEXT, _spell_uuid(column))
    text = column.cast(pl.String)
    try:
        source.frame.select(text.count()).collect(engine="streaming")
    except pl.exceptions.ComputeError:
        if is_key:
            raise DataError(
                f"{source.name}: the key '{name}' holds bytes that are not text: convert"
                " it, for example to hexadecimal digits."
            ) from None
        return Column(pl.Binary(), column)
    return Column(TEXT, text if is_key else null_if_empty(text.str.strip_chars()))


def _is_uuid(path: Path, name: str) -> bool:
    """Return whether a column of a Parquet file is declared as UUIDs."""
    for column in _read_physical_columns(path):
        if column.path == name:
            return bool(column.logical_type.type == "UUID")
    return False


def _spell_uuid(column: pl.Expr) -> pl.Expr:
    """Return the 16 bytes of UUIDs as their usual text."""
    digits = column.bin.encode("hex")
    texts = []
    start = 0
    for length in UUID_TEXTS:
        texts.append(digits.str.slice(start, length))
        start += length
    return pl.concat_str(texts, separator="-")
