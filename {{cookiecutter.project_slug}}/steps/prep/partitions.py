"""Read Hive partitions: a folder `year=2026` adds a column `year` to the files below it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from column_rules import find_rules
from fits import find_fit
from parsers import list_parsers
from read_options import ReadOptions
from sources import Column, Note, Source
from text_values import is_time_of_day

# How Hive writes a folder for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def add_partition_columns(sources: list[Source], options: ReadOptions) -> None:
    """Add the columns that folders name to the files below them.

    They get the types that a column of a CSV file with these values would get, except
    that words such as NA are values. If the file itself has the column, it is taken from
    the file, with a note.
    """
    partitions = [_read_partitions(source.name) for source in sources]
    names = dict.fromkeys(name for values in partitions for name in values)
    for name in names:
        texts = [values[name] for values in partitions if name in values]
        columns = _infer_columns(name, texts, options)
        for source, values in zip(sources, partitions):
            if name not in values:
                continue
            if name in source.columns:
                text = (
                    f"the column '{name}' of {source.name} is taken from the file, not"
                    f" from its folder '{name}={values[name] or MISSING_PARTITION}'."
                )
                source.notes.append(Note(text, column=name))
            else:
                source.columns[name] = columns[values[name]]


def _infer_columns(
    name: str, texts: list[str | None], options: ReadOptions
) -> dict[str | None, Column]:
    """Return the column that a folder adds to the files below it, for each of its values.

    `texts` are the values that the folders spell, or None for a missing value.
    """
    distinct = list(dict.fromkeys(texts))
    # Hive has its own spelling of a missing value, so NA is a value here.
    rules = replace(find_rules(name, options.roles), words_are_values=True)
    column = pl.Series("text", distinct, dtype=pl.String)
    fit = find_fit(column, list_parsers(rules, options.text_format))
    text = pl.col("text")
    parsed = fit.parser.parse(text, text.str.strip_chars())
    values = column.to_frame().select(parsed.fitting).to_series()
    dtype = parsed.reading.dtype
    columns: dict[str | None, Column] = {}
    for distinct_text, value in zip(distinct, values):
        columns[distinct_text] = Column(
            type=None if value is None else dtype,
            values=pl.lit(value, dtype),
            holds_times=is_time_of_day(parsed.reading),
            is_from_folder=True,
        )
    return columns


def _read_partitions(path: str) -> dict[str, str | None]:
    """Return the value of each column that the folders of a path name."""
    partitions: dict[str, str | None] = {}
    for folder in Path(path).parts[:-1]:
        column, equals, text = folder.partition("=")
        if not equals:
            continue
        partitions[unquote(column)] = (
            None if text == MISSING_PARTITION else unquote(text)
        )
    return partitions
