"""Read Hive partitions: a folder `year=2026` adds a column `year` to the files below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from column_rules import create_rules
from fits import find_fit
from parsers import list_parsers
from read_options import ReadOptions
from sources import Column, Note, Source
from text_values import is_time_of_day

# How Hive writes a folder for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def add_partition_columns(sources: list[Source], options: ReadOptions) -> None:
    """Add the columns of partition folders to the files inside them.

    For example, the folder `year=2026` adds the column `year` to its files. The column gets
    the type that it would get in a CSV file with these values, except that words such as NA
    are not missing values here. If a file has the column itself, its own values are kept,
    with a note.
    """
    partitions_of_sources = [_read_partitions(source.name) for source in sources]
    column_names = dict.fromkeys(
        name for partitions in partitions_of_sources for name in partitions
    )
    for name in column_names:
        texts = [
            partitions[name]
            for partitions in partitions_of_sources
            if name in partitions
        ]
        column_by_text = _infer_columns(name, texts, options)
        for source, partitions in zip(sources, partitions_of_sources):
            if name not in partitions:
                continue
            text = partitions[name]
            if name in source.columns:
                source.notes.append(_note_column_of_file(source, name, text))
            else:
                source.columns[name] = column_by_text[text]


def _read_partitions(path: str) -> dict[str, str | None]:
    """Return the value of each column that the folders of a path name.

    The value is None if the folder stands for a missing value.
    """
    partitions: dict[str, str | None] = {}
    for folder in Path(path).parts[:-1]:
        column, equals, text = folder.partition("=")
        if not equals:
            continue
        value = None if text == MISSING_PARTITION else unquote(text)
        partitions[unquote(column)] = value
    return partitions


def _infer_columns(
    name: str, texts: Sequence[str | None], options: ReadOptions
) -> dict[str | None, Column]:
    """Return the column that a folder adds to the files below it, by the folder's value.

    `texts` are the values of all folders, which decide the type of the column.
    """
    # Hive has its own spelling of a missing value, so NA is a value here.
    rules = replace(create_rules(name, options.roles), markers_are_values=True)
    distinct = pl.Series("text", list(dict.fromkeys(texts)), dtype=pl.String)
    fit = find_fit(distinct, list_parsers(rules, options.text_format))

    text = pl.col("text")
    parsed = fit.parser.parse(text, text.str.strip_chars())
    values = distinct.to_frame().select(parsed.accepted_values).to_series()
    dtype = parsed.value_type.dtype
    column_by_text: dict[str | None, Column] = {}
    for distinct_text, value in zip(distinct, values):
        column_by_text[distinct_text] = Column(
            type=None if value is None else dtype,
            values=pl.lit(value, dtype),
            holds_times=is_time_of_day(parsed.value_type),
            is_from_folder=True,
        )
    return column_by_text


def _note_column_of_file(source: Source, name: str, text: str | None) -> Note:
    """Return the note that a column is taken from the file, not from its folder."""
    return Note(
        f"the column '{name}' of {source.name} is taken from the file, not from its folder"
        f" '{name}={text or MISSING_PARTITION}'.",
        column=name,
    )
