"""Columns that folders such as `year=2026` give to the files below them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from candidates import find_fits
from sources import FILE, Column, ColumnRoles, Source
from text_values import TextFormat, is_time_of_day
from type_inference import find_kind, list_builders_of_kind

# How Hive writes a folder for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def add_partition_columns(
    sources: list[Source], text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Add the columns that folders name to the files below them.

    They get the types that a column of a CSV file with these values would get, but words
    such as NA are values. A column that the file has, too, is taken from the file, with a
    note.
    """
    partitions = [_read_partitions(source.name) for source in sources]
    names = dict.fromkeys(name for values in partitions for name in values)
    for name in names:
        texts = [values[name] for values in partitions if name in values]
        columns = _infer_columns(name, texts, text_format, roles)
        for source, values in zip(sources, partitions):
            if name not in values:
                continue
            if name in source.columns:
                source.notes.append(
                    f"the column '{name}' of {source.name} is taken from the file, not"
                    f" from its folder '{name}={values[name]}'."
                )
            else:
                source.columns[name] = columns[values[name]]


def _infer_columns(
    name: str, texts: list[str | None], text_format: TextFormat, roles: ColumnRoles
) -> dict[str | None, Column]:
    """Return for each value of a folder the column that it gives to the files below."""
    distinct = list(dict.fromkeys(texts))
    # Such folders have a spelling of their own for missing values, so NA is a value here.
    kind = replace(find_kind(name, roles), words_are_values=True)
    builders = list_builders_of_kind(kind, text_format)
    table = pl.DataFrame({"0": distinct}, schema={"0": pl.String})
    files = table.select(pl.lit(0, pl.UInt32).alias(FILE), pl.all())
    fit = find_fits(files, [builders])[0][0]
    text = pl.col("0")
    candidate = fit.build(text, text.str.strip_chars())
    values = table.select(candidate.fitting).to_series()
    dtype = candidate.reading.dtype
    columns: dict[str | None, Column] = {}
    for distinct_text, value in zip(distinct, values):
        columns[distinct_text] = Column(
            type=None if value is None else dtype,
            values=pl.lit(value, dtype),
            holds_times=is_time_of_day(candidate.reading),
        )
    return columns


def _read_partitions(name: str) -> dict[str, str | None]:
    """Return the value of each column that the folders of a path name."""
    partitions: dict[str, str | None] = {}
    for folder in Path(name).parts[:-1]:
        column, equals, text = folder.partition("=")
        if not equals:
            continue
        partitions[unquote(column)] = (
            None if text == MISSING_PARTITION else unquote(text)
        )
    return partitions
