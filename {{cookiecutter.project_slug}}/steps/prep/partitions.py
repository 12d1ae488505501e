"""Read Hive partitions: a folder `year=2026` adds a column `year` to the files in it."""

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

# The value that Hive writes into the name of a folder for a missing value.
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def add_partition_columns(sources: list[Source], options: ReadOptions) -> None:
    """Add the columns of partition folders to the files in these folders.

    For example, the folder `year=2026` adds the column `year` to its files. The column gets
    the type that it would have in a CSV file with these values, with one difference: markers
    for missing values, such as NA, are values here. If a file already has such a column, it
    keeps its own values, and a note says so.
    """
    partitions_by_source = [_read_partitions(source.name) for source in sources]
    # A dictionary keeps each name once, in the order of the files.
    names = dict.fromkeys(
        name for partitions in partitions_by_source for name in partitions
    )
    for name in names:
        folder_values = [
            partitions[name]
            for partitions in partitions_by_source
            if name in partitions
        ]
        column_by_value = _infer_column_by_folder_value(name, folder_values, options)
        for source, partitions in zip(sources, partitions_by_source):
            if name not in partitions:
                continue
            folder_value = partitions[name]
            if name in source.columns:
                source.notes.append(_note_column_of_file(source, name, folder_value))
            else:
                source.columns[name] = column_by_value[folder_value]


def _read_partitions(path: str) -> dict[str, str | None]:
    """Return the columns that the folders in a path define, with their values.

    For example, returns {"year": "2026"} for `year=2026/a.csv`. A value is None if the
    folder stands for a missing value.
    """
    partitions: dict[str, str | None] = {}
    for folder in Path(path).parts[:-1]:
        if "=" not in folder:
            continue
        # Special characters are written as in URLs, such as %20 for a space.
        column, _, text = folder.partition("=")
        value = None if text == MISSING_PARTITION else unquote(text)
        partitions[unquote(column)] = value
    return partitions


def _infer_column_by_folder_value(
    name: str, folder_values: Sequence[str | None], options: ReadOptions
) -> dict[str | None, Column]:
    """Return, for each distinct folder value, a column that holds it in every row.

    For example, the value "2026" of the folder `year=2026` gives a column that holds the
    number 2026. All values in `folder_values` together decide the type of the column `name`.
    """
    # In folder names, Hive writes __HIVE_DEFAULT_PARTITION__ for a missing value. So a marker
    # such as NA is an ordinary value here.
    rules = replace(create_rules(name, options.roles), markers_are_values=True)
    texts = pl.Series("text", list(dict.fromkeys(folder_values)), dtype=pl.String)
    fit = find_fit(texts, list_parsers(rules, options.text_format))

    text = pl.col("text")
    parsed = fit.parser.parse(text, text.str.strip_chars())
    # A parser only fits if it accepts all values, so none is lost here.
    parsed_values = texts.to_frame().select(parsed.accepted_values).to_series()
    dtype = parsed.value_type.dtype
    column_by_value: dict[str | None, Column] = {}
    for folder_value, parsed_value in zip(texts, parsed_values):
        column_by_value[folder_value] = Column(
            # A column without values has no type.
            type=None if parsed_value is None else dtype,
            values=pl.lit(parsed_value, dtype),
            holds_times=is_time_of_day(parsed.value_type),
            is_from_folder=True,
        )
    return column_by_value


def _note_column_of_file(source: Source, name: str, folder_value: str | None) -> Note:
    """Return the note that a column is taken from the file, not from its folder."""
    return Note(
        f"the column '{name}' of {source.name} is taken from the file, not from its folder"
        f" '{name}={folder_value or MISSING_PARTITION}'.",
        column=name,
    )
