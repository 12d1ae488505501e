"""Open Parquet files, and convert their columns to the types of features and keys."""

from __future__ import annotations

from dataclasses import dataclass
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
from text_values import MISSING_MARKERS, TextFormat, is_time_of_day, null_if_empty

MAX_DECIMAL_DIGITS = 38  # of a decimal number that polars can read
SAMPLED_VALUES = 1_000
PANDAS_INDEX = "__index_level_"
# The number of digits in each group of a UUID: 123e4567-e89b-12d3-a456-426614174000.
UUID_GROUPS = (8, 4, 4, 4, 12)


def open_parquet(path: Path, name: str, options: ReadOptions) -> Source:
    """Open a Parquet file, which messages call `name`.

    Raises DataError if it is damaged, has no columns, or has columns that polars cannot
    read.
    """
    try:
        frame = _scan(path)
        source = Source(name, frame, {})
        _add_columns(source, path, options)
        _count_values(source)
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
    """Return how each column is stored, which only pyarrow can tell."""
    # pyarrow takes as long to import as polars, and few files need it.
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return [file.schema.column(index) for index in range(len(file.schema))]


def _find_repeated_name(path: Path) -> str:
    """Return the first name that several columns of a Parquet file have."""
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    repeated_names = [name for name in names if names.count(name) > 1]
    return show_text(repeated_names[0])


# Adding the columns


def _add_columns(source: Source, path: Path, options: ReadOptions) -> None:
    """Add the columns of a Parquet file to its source, without the index of pandas."""
    roles = options.roles
    for position, (name, dtype) in enumerate(source.frame.collect_schema().items()):
        is_pandas_index = name.startswith(PANDAS_INDEX)
        if is_pandas_index and name not in roles.keys and name != roles.target:
            text = (
                f"the index that pandas stores in Parquet files ('{name}') is left out:"
                " if it is data, call reset_index() before to_parquet()."
            )
            source.notes.append(Note(text, column=name))
            continue
        if not roles.is_used(name):
            source.columns[name] = Column(None, pl.lit(None))
            continue
        parquet_column = ParquetColumn(path, name, position, dtype)
        source.columns[name] = _open_column(source, parquet_column, options)


@dataclass(frozen=True)
class ParquetColumn:
    """A column of a Parquet file, in its type in the file."""

    path: Path
    name: str
    position: int
    dtype: pl.DataType

    @property
    def values(self) -> pl.Expr:
        """Select the values by position. polars would read a name `^a$` as a pattern."""
        return pl.nth(self.position)

    @property
    def is_integer(self) -> bool:
        """Return whether all values are integers, which may be too large for 64 bits."""
        if isinstance(self.dtype, pl.Decimal):
            return self.dtype.scale == 0
        return self.dtype.is_integer()

    @property
    def is_category(self) -> bool:
        """Return whether the values are the categories of a dictionary."""
        return isinstance(self.dtype, (pl.Categorical, pl.Enum))


def _open_column(
    source: Source, parquet_column: ParquetColumn, options: ReadOptions
) -> Column:
    """Convert a column to one of the types that keys or features can have.

    Raises DataError if polars cannot read its values, or if it is a key of bytes that are
    not text.
    """
    name = parquet_column.name
    dtype = parquet_column.dtype
    is_key = name in options.roles.keys
    if dtype == pl.Binary:
        return _convert_bytes(source, parquet_column, is_key=is_key)
    if isinstance(dtype, pl.Decimal) and dtype.precision > MAX_DECIMAL_DIGITS:
        raise DataError(
            f"{source.name}: the column '{name}' holds decimal numbers of"
            f" {dtype.precision} digits, of which {MAX_DECIMAL_DIGITS} can be read: convert"
            " it to floats, or list it under data.ignore in settings.yml."
        )
    column = _convert_column(source.frame, parquet_column, is_key=is_key)
    is_training_data = options.roles.model_columns is None
    if column.type == TEXT and not is_key and is_training_data:
        return _convert_dates(source.frame, column, options.text_format)
    return column


def _count_values(source: Source) -> None:
    """Set the `marker_count` of all columns, and the type of empty columns to None."""
    columns = list(source.columns.values())
    if not columns:
        return
    values = [column.values for column in columns]
    words = [_select_missing_words(column) for column in columns]
    counts = count_values(source.frame, [*values, *words])
    value_counts = counts[: len(columns)]
    word_counts = counts[len(columns) :]
    for column, value_count, word_count in zip(columns, value_counts, word_counts):
        column.marker_count = word_count
        if not value_count:
            column.type = None


def _select_missing_words(column: Column) -> pl.Expr:
    """Return the words of a column that would be missing values in a CSV file."""
    if column.type != TEXT:
        return pl.lit(None)
    return pl.when(column.values.is_in(MISSING_MARKERS)).then(column.values)


# Converting columns


def _convert_column(
    frame: pl.LazyFrame, parquet_column: ParquetColumn, *, is_key: bool
) -> Column:
    """Convert a column of a type other than bytes."""
    if parquet_column.is_integer:
        values = parquet_column.values
        integers = values.cast(pl.Int64, strict=False)
        fits = integers.null_count() == values.null_count()
        if frame.select(fits).collect(engine="streaming").item():
            return Column(INTEGER, integers)
        if is_key:
            # As floats, different keys could become equal.
            return Column(TEXT, values.cast(pl.String))
    if is_key:
        return _convert_key(parquet_column)
    return _convert_feature(parquet_column)


def _convert_key(parquet_column: ParquetColumn) -> Column:
    """Return a key in its own type, except that categories and times become text."""
    dtype = parquet_column.dtype
    values = parquet_column.values
    if dtype == pl.Time or parquet_column.is_category:
        return Column(TEXT, values.cast(pl.String))
    if dtype.is_float():
        return Column(dtype, values.fill_nan(None))
    return Column(dtype, values)


def _convert_feature(parquet_column: ParquetColumn) -> Column:
    """Convert a feature to a type that features can have, if there is a suitable one."""
    dtype = parquet_column.dtype
    values = parquet_column.values
    if dtype.is_numeric():
        return Column(NUMBER, values.cast(pl.Float64).fill_nan(None))
    if isinstance(dtype, pl.Datetime):
        utc = values.dt.convert_time_zone("UTC") if dtype.time_zone else values
        return Column(TIMESTAMP, utc.dt.replace_time_zone(None).cast(TIMESTAMP))
    if dtype == pl.String or parquet_column.is_category:
        text = values.cast(pl.String)
        return Column(TEXT, null_if_empty(text.str.strip_chars()))
    return Column(dtype, values)


def _convert_dates(
    frame: pl.LazyFrame, column: Column, text_format: TextFormat
) -> Column:
    """Convert a text column to dates or times if all of its values can be read as such.

    Words such as NA are values in Parquet files, so text with such words stays text.
    """
    texts = frame.select(text=column.values).drop_nulls().head(SAMPLED_VALUES)
    sample = texts.collect(engine="streaming").to_series()
    if sample.is_empty():
        return column
    rules = ColumnRules(types=(NUMBER, DATE, TIMESTAMP), markers_are_values=True)
    fit = find_fit(sample, list_parsers(rules, text_format))
    parsed = fit.parser.parse(column.values, column.values)
    dtype = parsed.value_type.dtype
    holds_times = is_time_of_day(parsed.value_type)
    is_date_or_time = dtype in (DATE, TIMESTAMP) or holds_times
    if not is_date_or_time:
        return column

    value_count, accepted_count = count_values(
        frame, [column.values, parsed.accepted_values]
    )
    if accepted_count < value_count:
        return column
    return Column(dtype, parsed.accepted_values, holds_times=holds_times)


def _convert_bytes(
    source: Source, parquet_column: ParquetColumn, *, is_key: bool
) -> Column:
    """Convert a column of bytes to text if the bytes are UUIDs or UTF-8.

    Raises DataError if a key is neither.
    """
    if _is_uuid(parquet_column):
        return Column(TEXT, _spell_uuid(parquet_column.values))
    text = parquet_column.values.cast(pl.String)
    try:
        source.frame.select(text.count()).collect(engine="streaming")
    except pl.exceptions.ComputeError:
        if is_key:
            raise DataError(
                f"{source.name}: the key '{parquet_column.name}' holds bytes that are not"
                " text: convert it, for example to hexadecimal digits."
            ) from None
        return Column(pl.Binary(), parquet_column.values)
    if is_key:
        return Column(TEXT, text)
    return Column(TEXT, null_if_empty(text.str.strip_chars()))


def _is_uuid(parquet_column: ParquetColumn) -> bool:
    """Return whether a column is declared as UUIDs in its file."""
    for physical_column in _read_physical_columns(parquet_column.path):
        if physical_column.path == parquet_column.name:
            return bool(physical_column.logical_type.type == "UUID")
    return False


def _spell_uuid(uuids: pl.Expr) -> pl.Expr:
    """Spell the 16 bytes of UUIDs as text, in groups of digits."""
    digits = uuids.bin.encode("hex")
    groups = []
    start = 0
    for length in UUID_GROUPS:
        groups.append(digits.str.slice(start, length))
        start += length
    return pl.concat_str(groups, separator="-")
