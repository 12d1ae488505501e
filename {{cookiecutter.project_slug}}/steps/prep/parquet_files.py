"""Open Parquet files, and convert their columns to the types of features and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from column_rules import ColumnRules
from fits import find_fit
from messages import find_system_error, show_text
from parsers import list_parsers
from read_options import ReadOptions
from sources import (
    DATE,
    INTEGER,
    NUMBER,
    TEXT,
    TIMESTAMP,
    Column,
    DataError,
    Note,
    Source,
    count_values,
)
from text_values import MISSING_WORDS, TextFormat, is_time_of_day, null_if_empty

MAX_DECIMAL_DIGITS = 38  # of a decimal number that polars can read
SAMPLED_VALUES = 1_000
PANDAS_INDEX = "__index_level_"
# The texts of a UUID, such as 123e4567-e89b-12d3-a456-426614174000, by their lengths.
UUID_TEXTS = (8, 4, 4, 4, 12)


def open_parquet(path: Path, name: str, options: ReadOptions) -> Source:
    """Open a Parquet file, and call it `name` in messages.

    Raises DataError if it is damaged, has no columns, or has columns that polars cannot
    read.
    """
    try:
        frame = _scan(path)
        source = Source(name, frame, {})
        _add_columns(source, path, options)
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

    polars reads these in nanoseconds, which cannot represent times after the year 2262.
    """
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    frame_schema = frame.collect_schema()
    if pl.Datetime("ns") not in frame_schema.dtypes():
        return frame
    for column in _read_physical_columns(path):
        if column.physical_type == "INT96" and column.path in frame_schema:
            frame_schema[column.path] = pl.Datetime("us")
    return pl.scan_parquet(
        path, glob=False, hive_partitioning=False, schema=frame_schema
    )


def _read_physical_columns(path: Path) -> list[Any]:
    """Return a description of how each column is stored, which polars does not have."""
    # pyarrow takes as long to import as polars, and few files need it.
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return [file.schema.column(index) for index in range(len(file.schema))]


def _find_repeated_name(path: Path) -> str:
    """Return the first name that several columns of a Parquet file have."""
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    return next(show_text(name) for name in names if names.count(name) > 1)


def _add_columns(source: Source, path: Path, options: ReadOptions) -> None:
    """Add the columns of a Parquet file to its source, without the index of pandas."""
    for position, (name, dtype) in enumerate(source.frame.collect_schema().items()):
        is_key = name in options.roles.keys
        if (
            name.startswith(PANDAS_INDEX)
            and not is_key
            and name != options.roles.target
        ):
            text = (
                f"the index that pandas stores in Parquet files ('{name}') is left out:"
                " if it is data, call reset_index() before to_parquet()."
            )
            source.notes.append(Note(text, column=name))
        elif not options.roles.is_used(name):
            source.columns[name] = Column(None, pl.lit(None))
        elif dtype == pl.Binary:
            source.columns[name] = _convert_bytes(
                source, position, name, path, is_key=is_key
            )
        elif isinstance(dtype, pl.Decimal) and dtype.precision > MAX_DECIMAL_DIGITS:
            raise DataError(
                f"{source.name}: the column '{name}' holds decimal numbers of"
                f" {dtype.precision} digits, of which {MAX_DECIMAL_DIGITS} can be read: convert"
                " it to floats, or list it under data.ignore in settings.yml."
            )
        else:
            column = _convert_column(source.frame, position, dtype, is_key=is_key)
            if (
                column.type == TEXT
                and not is_key
                and options.roles.model_columns is None
            ):
                column = _convert_dates(source.frame, column, options.text_format)
            source.columns[name] = column
    _set_counts(source)


def _set_counts(source: Source) -> None:
    """Set the `missing_words` of all columns, and the type of empty columns to None."""
    columns = list(source.columns.values())
    if not columns:
        return
    values = [column.values for column in columns]
    words = [_select_missing_words(column) for column in columns]
    counts = count_values(source.frame, [*values, *words])
    value_counts = counts[: len(columns)]
    word_counts = counts[len(columns) :]
    for column, value_count, word_count in zip(columns, value_counts, word_counts):
        column.missing_words = word_count
        if not value_count:
            column.type = None


def _select_missing_words(column: Column) -> pl.Expr:
    """Return the words of a column that would be missing values in a CSV file."""
    if column.type != TEXT:
        return pl.lit(None)
    return pl.when(column.values.is_in(MISSING_WORDS)).then(column.values)


def _convert_column(
    frame: pl.LazyFrame, position: int, dtype: pl.DataType, *, is_key: bool
) -> Column:
    """Return a column in one of the types that keys or features can have.

    It is read by its position, because polars takes some names for patterns.
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
            # As floats, different keys could become equal.
            return Column(TEXT, column.cast(pl.String))
    return _convert_key(column, dtype) if is_key else _convert_feature(column, dtype)


def _convert_key(column: pl.Expr, dtype: pl.DataType) -> Column:
    """Return a key with its own type, except that categories and times become text."""
    if dtype == pl.Time or isinstance(dtype, (pl.Categorical, pl.Enum)):
        return Column(TEXT, column.cast(pl.String))
    if dtype.is_float():
        return Column(dtype, column.fill_nan(None))
    return Column(dtype, column)


def _convert_feature(column: pl.Expr, dtype: pl.DataType) -> Column:
    """Return a feature in one of the types of features, or as it is if there is none."""
    if dtype.is_numeric():
        return Column(NUMBER, column.cast(pl.Float64).fill_nan(None))
    if isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
        return Column(TIMESTAMP, utc.dt.replace_time_zone(None).cast(TIMESTAMP))
    if dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum)):
        text = column.cast(pl.String)
        return Column(TEXT, null_if_empty(text.str.strip_chars()))
    return Column(dtype, column)


def _convert_dates(
    frame: pl.LazyFrame, column: Column, text_format: TextFormat
) -> Column:
    """Return a column of text as dates or times, if it would be read so in a CSV file.

    Words such as NA are values in Parquet files, so text with such words stays text.
    """
    texts = frame.select(text=column.values).drop_nulls().head(SAMPLED_VALUES)
    sample = texts.collect(engine="streaming").to_series()
    if sample.is_empty():
        return column
    rules = ColumnRules(types=(NUMBER, DATE, TIMESTAMP), words_are_values=True)
    fit = find_fit(sample, list_parsers(rules, text_format))
    parsed = fit.parser.parse(column.values, column.values)
    holds_times = is_time_of_day(parsed.reading)
    if parsed.reading.dtype not in (DATE, TIMESTAMP) and not holds_times:
        return column
    values, fitting = count_values(frame, [column.values, parsed.accepted])
    if fitting < values:
        return column
    return Column(parsed.reading.dtype, parsed.accepted, holds_times=holds_times)


def _convert_bytes(
    source: Source, position: int, name: str, path: Path, *, is_key: bool
) -> Column:
    """Return a column of bytes as text if they are UUIDs or UTF-8, otherwise as it is.

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
