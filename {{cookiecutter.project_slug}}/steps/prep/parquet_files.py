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

# polars can read decimal numbers of at most this many digits.
MAX_DECIMAL_DIGITS = 38
# The date format of a text column is guessed from this many values.
SAMPLED_VALUES = 1_000
# pandas stores its index in columns whose names begin with this.
PANDAS_INDEX_PREFIX = "__index_level_"
# The number of digits in each group of a UUID: 123e4567-e89b-12d3-a456-426614174000.
UUID_GROUPS = (8, 4, 4, 4, 12)


def open_parquet(path: Path, name: str, options: ReadOptions) -> Source:
    """Open a Parquet file, and convert its columns to types that prepared data can have.

    `name` is the name of the file in messages. Raises DataError if the file is damaged, has
    no columns, or has columns that polars cannot read.
    """
    try:
        frame = _scan(path)
        source = Source(name, frame, {})
        _add_columns(source, path, options)
        _set_marker_counts_and_types(source)
    except pl.exceptions.DuplicateError:
        raise DataError(
            f"{name} has several columns named '{_find_repeated_name(path)}': rename all"
            " but one."
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        if reason := find_system_error(error):
            raise DataError(f"{name} cannot be read: {reason}.") from None
        raise DataError(
            f"{name} is not a complete Parquet file: it may be damaged or cut off, or not"
            " be a Parquet file at all, despite its name."
        ) from None
    if not source.columns:
        raise DataError(f"{name} has no columns.")
    return source


def _scan(path: Path) -> pl.LazyFrame:
    """Scan a Parquet file, with timestamps of the old kind INT96 in microseconds.

    By default, polars reads these timestamps in nanoseconds, which cannot represent times
    after the year 2262.
    """
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    schema = frame.collect_schema()
    if pl.Datetime("ns") not in schema.dtypes():
        return frame
    changed_schema = dict(schema)
    for column in _read_physical_columns(path):
        if column.physical_type == "INT96" and column.path in schema:
            changed_schema[column.path] = pl.Datetime("us")
    # polars only takes a schema when it begins to scan, so the file is scanned again.
    return pl.scan_parquet(
        path, glob=False, hive_partitioning=False, schema=changed_schema
    )


def _read_physical_columns(path: Path) -> list[Any]:
    """Return a description by pyarrow of how each column is stored. polars has none."""
    # pyarrow takes as long to import as polars, and few files need it.
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return [file.schema.column(index) for index in range(len(file.schema))]


def _find_repeated_name(path: Path) -> str:
    """Return the first name that two or more columns of a Parquet file have."""
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    repeated_names = [name for name in names if names.count(name) > 1]
    return show_text(repeated_names[0])


# Adding the columns


def _add_columns(source: Source, path: Path, options: ReadOptions) -> None:
    """Add the columns of a Parquet file to its source.

    An index that pandas stored is left out, with a note, unless settings.yml names it, for
    example as a key.
    """
    roles = options.roles
    named_columns = {*roles.keys, roles.target, roles.group, *roles.expectations}
    for position, (name, dtype) in enumerate(source.frame.collect_schema().items()):
        is_pandas_index = name.startswith(PANDAS_INDEX_PREFIX)
        if is_pandas_index and name not in named_columns:
            text = (
                f"the index that pandas stores in Parquet files ('{name}') is left out: if"
                " it is data, call reset_index() before to_parquet()."
            )
            source.notes.append(Note(text, column=name))
            continue
        if not roles.is_used(name):
            # An unused column is kept without values. Names in settings.yml are later
            # compared with the names of all columns.
            source.columns[name] = Column(type=None, values=pl.lit(None))
            continue
        parquet_column = ParquetColumn(path, name, position, dtype)
        source.columns[name] = _create_column(source, parquet_column, options)


@dataclass(frozen=True)
class ParquetColumn:
    """A column of a Parquet file, in the type that it has in the file."""

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
        """Return whether the values are categories, such as a Categorical of pandas."""
        return isinstance(self.dtype, (pl.Categorical, pl.Enum))


def _create_column(
    source: Source, parquet_column: ParquetColumn, options: ReadOptions
) -> Column:
    """Return a column, converted to one of the types that keys or features can have.

    Raises DataError if polars cannot read the values, or if a key holds bytes that are not
    text.
    """
    name = parquet_column.name
    dtype = parquet_column.dtype
    is_key = name in options.roles.keys
    if dtype == pl.Binary:
        return _convert_bytes(source, parquet_column, is_key=is_key)
    if isinstance(dtype, pl.Decimal) and dtype.precision > MAX_DECIMAL_DIGITS:
        raise DataError(
            f"{source.name}: the column '{name}' holds decimal numbers of"
            f" {dtype.precision} digits, but at most {MAX_DECIMAL_DIGITS} digits can be"
            " read: convert them to floats, or list the column under data.ignore in"
            " settings.yml."
        )
    column = _convert_column(source.frame, parquet_column, is_key=is_key)
    # In training data, text may be dates. In data to score, text stays text here, and is
    # later parsed as the type that the model's schema expects.
    is_training_data = options.roles.model_columns is None
    if column.type == TEXT and not is_key and is_training_data:
        return _convert_dates(source.frame, column, options.text_format)
    return column


def _set_marker_counts_and_types(source: Source) -> None:
    """Set the `marker_count` of each column, and the type of columns without values to None.

    A marker is text such as NA that usually stands for a missing value. In Parquet files,
    markers are values, and the report notes them.
    """
    columns = list(source.columns.values())
    if not columns:
        return
    values = [column.values for column in columns]
    markers = [_select_markers(column) for column in columns]
    # Values and markers are counted together, in one pass over the file.
    counts = count_values(source.frame, [*values, *markers])
    value_counts = counts[: len(columns)]
    marker_counts = counts[len(columns) :]
    for column, value_count, marker_count in zip(columns, value_counts, marker_counts):
        column.marker_count = marker_count
        if value_count == 0:
            # A column without values has no type.
            column.type = None


def _select_markers(column: Column) -> pl.Expr:
    """Select the markers of a column: text such as NA that usually means a missing value.

    All other values of the column become null.
    """
    # Only text can be a marker.
    if column.type != TEXT:
        return pl.lit(None)
    return pl.when(column.values.is_in(MISSING_MARKERS)).then(column.values)


# Converting columns


def _convert_column(
    frame: pl.LazyFrame, parquet_column: ParquetColumn, *, is_key: bool
) -> Column:
    """Convert a column that does not hold bytes to a type that keys or features can have.

    Integers that do not fit into 64 bits become text in a key, and floats in a feature.
    """
    if parquet_column.is_integer:
        values = parquet_column.values
        # Unsigned and decimal integers can be too large for 64 bits. They become null here.
        integers = values.cast(pl.Int64, strict=False)
        loses_no_value = integers.null_count() == values.null_count()
        if frame.select(loses_no_value).collect(engine="streaming").item():
            return Column(INTEGER, integers)
        if is_key:
            # As floats, different keys could become equal.
            return Column(TEXT, values.cast(pl.String))
    if is_key:
        return _convert_key(parquet_column)
    # This also converts integers that are too large: they become floats.
    return _convert_feature(parquet_column)


def _convert_key(parquet_column: ParquetColumn) -> Column:
    """Return a key in the type that it has in the file. Categories and times become text."""
    dtype = parquet_column.dtype
    values = parquet_column.values
    if dtype == pl.Time or parquet_column.is_category:
        return Column(TEXT, values.cast(pl.String))
    if dtype.is_float():
        # NaN means that the key is missing.
        return Column(dtype, values.fill_nan(None))
    return Column(dtype, values)


def _convert_feature(parquet_column: ParquetColumn) -> Column:
    """Convert a feature to a number, a timestamp or text, or leave it in its own type.

    A feature of another type, such as a list, is left out later.
    """
    dtype = parquet_column.dtype
    values = parquet_column.values
    if dtype.is_numeric():
        # NaN means that the value is missing.
        return Column(NUMBER, values.cast(pl.Float64).fill_nan(None))
    if isinstance(dtype, pl.Datetime):
        utc = values.dt.convert_time_zone("UTC") if dtype.time_zone else values
        # Prepared data has the times in UTC, without a time zone.
        return Column(TIMESTAMP, utc.dt.replace_time_zone(None).cast(TIMESTAMP))
    if dtype == pl.String or parquet_column.is_category:
        # As in CSV files, spaces around text do not matter.
        text = values.cast(pl.String)
        return Column(TEXT, null_if_empty(text.str.strip_chars()))
    return Column(dtype, values)


def _convert_dates(
    frame: pl.LazyFrame, column: Column, text_format: TextFormat
) -> Column:
    """Convert a text column to dates or times if all of its values are dates or times.

    Otherwise, returns the column as it is. Markers for missing values, such as NA, are
    values in Parquet files, so a column with a marker stays text.
    """
    texts = frame.select(text=column.values).drop_nulls().head(SAMPLED_VALUES)
    sample = texts.collect(engine="streaming").to_series()
    if sample.is_empty():
        return column

    # The sample suggests a type. Times of day are parsed as numbers of seconds.
    rules = ColumnRules(types=(NUMBER, DATE, TIMESTAMP), markers_are_values=True)
    fit = find_fit(sample, list_parsers(rules, text_format))
    # `_convert_feature` has already removed the spaces around the text.
    parsed = fit.parser.parse(text=column.values, stripped=column.values)
    dtype = parsed.value_type.dtype
    holds_times = is_time_of_day(parsed.value_type)
    is_date_or_time = dtype in (DATE, TIMESTAMP) or holds_times
    if not is_date_or_time:
        return column

    # The type is only right if the parser accepts all values of the column.
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

    A feature of other bytes stays as it is. Raises DataError if a key holds other bytes.
    """
    if _is_uuid(parquet_column):
        return Column(TEXT, _spell_uuid(parquet_column.values))
    text = parquet_column.values.cast(pl.String)
    try:
        # This conversion fails if the bytes are not UTF-8.
        source.frame.select(text.count()).collect(engine="streaming")
    except pl.exceptions.ComputeError:
        if is_key:
            raise DataError(
                f"{source.name}: the key '{parquet_column.name}' holds bytes that are not"
                " text: convert it, for example to hexadecimal digits."
            ) from None
        return Column(pl.Binary(), parquet_column.values)
    if is_key:
        # Keys keep the spaces around them.
        return Column(TEXT, text)
    return Column(TEXT, null_if_empty(text.str.strip_chars()))


def _is_uuid(parquet_column: ParquetColumn) -> bool:
    """Return whether the Parquet file declares that the column holds UUIDs."""
    for physical_column in _read_physical_columns(parquet_column.path):
        if physical_column.path == parquet_column.name:
            return bool(physical_column.logical_type.type == "UUID")
    return False


def _spell_uuid(uuids: pl.Expr) -> pl.Expr:
    """Write the 16 bytes of UUIDs as text: 123e4567-e89b-12d3-a456-426614174000."""
    digits = uuids.bin.encode("hex")
    groups = []
    start = 0
    for length in UUID_GROUPS:
        groups.append(digits.str.slice(start, length))
        start += length
    return pl.concat_str(groups, separator="-")
