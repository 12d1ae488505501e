"""Combine the raw files into one table: a type for each column, and all rows in order."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path

import polars as pl
import polars.selectors as cs
from advice import suggest_name
from csv_dialect import suggest_header
from read_by_schema import check_schema
from sources import (
    BOOLEAN,
    DATE,
    FILE,
    INTEGER,
    LARGEST_EXACT_INTEGER,
    NUMBER,
    ROW_NUMBER,
    TEXT,
    TIMESTAMP,
    TYPE_NAMES,
    Column,
    ColumnRoles,
    ColumnSchema,
    DataError,
    Source,
    show_text,
    type_name,
)

FILES_AT_A_TIME = 64
# Columns that are added to the combined rows to verify the guessed types. Their names
# begin with a NUL, so that they differ from the name of every column of data.
MISFIT = "\0misfit"  # whether the row contradicts the types that were guessed
BYTES = "\0bytes"  # the length of the row in its CSV file
MISSING_WORD = "\0missing word "  # before the name of a column that holds words like NA


def choose_types(sources: list[Source], roles: ColumnRoles) -> dict[str, pl.DataType]:
    """Choose the columns to keep, and for each one a type that fits it in every file.

    If a file lacks a feature, its values are missing in this file. Raises DataError if a
    file lacks a key or the target, or if no type fits a column in all files.
    """
    names = list(dict.fromkeys(name for source in sources for name in source.columns))
    if roles.schema is not None:
        check_schema(sources, names, roles)
    _check_required_columns(sources, names, roles)
    if roles.target:
        # Data to score may lack a column that training data has.
        _check_ignored_columns(names, roles)
    _note_invisible_characters(sources, names)
    _note_similar_names(sources, names, roles)
    types = {}
    for name in names:
        if not roles.is_read(name):
            continue
        schema = roles.get_schema(name)
        if schema is None:
            type = _choose_type(sources, name, roles)
        else:
            type = _fit_type(sources, name, schema)
        if type is not None:
            types[name] = type
    return types


def _check_required_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> None:
    """Raise DataError if a file lacks a key or the target."""
    role_by_name = dict.fromkeys(roles.keys, "key")
    if roles.target:
        role_by_name[roles.target] = "target"
    for source in sources:
        for name, role in role_by_name.items():
            if name not in source.columns:
                hint = suggest_name(name, names)
                if not hint:
                    hint = suggest_header(list(source.columns))
                raise DataError(
                    f"{source.name} has no column '{name}', the {role} by settings.yml;"
                    f" it has {show_text(', '.join(source.columns))}{hint}."
                )


def _check_ignored_columns(names: list[str], roles: ColumnRoles) -> None:
    """Raise DataError if no file has a column that is to be ignored."""
    for name in roles.ignore:
        if name not in names:
            raise DataError(
                f"No file has a column '{name}', which data.ignore in settings.yml"
                f" names{suggest_name(name, names)}."
            )


def _note_invisible_characters(sources: list[Source], names: list[str]) -> None:
    """Add notes on names with characters that nobody can see, such as U+200B."""
    for name in names:
        shown = show_text(name)
        if shown != name:
            sources[0].notes.append(
                f"the name of the column '{shown}' has invisible characters, which are"
                " shown as escapes here: they are part of the name in settings.yml, too."
            )


def _note_similar_names(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> None:
    """Add notes on columns whose names differ only by case or by Unicode form."""
    similar: dict[str, list[str]] = {}
    for name in filter(roles.is_read, names):
        folded = unicodedata.normalize("NFKC", name).casefold().strip()
        similar.setdefault(folded, []).append(name)
    for group in similar.values():
        if len(group) > 1:
            listed = " and ".join(f"'{show_text(name)}'" for name in group)
            sources[0].notes.append(
                f"the columns {listed} differ only by case or Unicode form: they stay"
                " apart; rename one if they are the same."
            )


def _choose_type(
    sources: list[Source], name: str, roles: ColumnRoles
) -> pl.DataType | None:
    """Choose the type that fits a column in every file.

    Returns None if the column is a feature that has to be left out. Raises DataError if
    the types of the files have no common type.
    """
    first_files = _find_first_file_of_each_type(sources, name)
    if set(first_files) <= {TEXT}:
        _keep_words_as_text(sources, name)
        first_files = _find_first_file_of_each_type(sources, name)
    if set(first_files) <= {NUMBER, TEXT} and name != roles.target:
        _keep_infinities_as_text(sources, name)
        first_files = _find_first_file_of_each_type(sources, name)
    if not _has_usable_types(sources, name, first_files, roles):
        return None
    if not first_files:
        return TEXT
    if len(first_files) == 1:
        return next(iter(first_files))
    if name in roles.keys:
        common_type = _common_key_type(sources, name, first_files)
    else:
        common_type = _common_feature_type(sources, name, first_files)
    if common_type is None:
        raise _explain_changed_type(sources, name, first_files, roles)
    return common_type


def _fit_type(sources: list[Source], name: str, schema: ColumnSchema) -> pl.DataType:
    """Return the type by which a column of new data is read: usually that of the schema.

    If the new data holds fractions where the training data held integers, or times where
    it held dates, the type is NUMBER or TIMESTAMP instead, and a note is added.
    """
    if schema.type == INTEGER and not _holds_for_all(_is_whole, sources, name, NUMBER):
        sources[0].notes.append(
            f"the column '{name}' holds fractions, where the training data held integers:"
            " check that features() in prep.py can use them."
        )
        return NUMBER
    if schema.type == DATE and not _holds_for_all(
        _is_midnight, sources, name, TIMESTAMP
    ):
        sources[0].notes.append(
            f"the column '{name}' holds times, where the training data held dates: check"
            " that features() in prep.py can use them."
        )
        return TIMESTAMP
    return schema.type


def _find_first_file_of_each_type(
    sources: list[Source], name: str
) -> dict[pl.DataType, Source]:
    """Return each type that a column has in any file, with the first file of this type."""
    first_files: dict[pl.DataType, Source] = {}
    for source in sources:
        column = source.columns.get(name)
        if column and column.type is not None:
            first_files.setdefault(column.type, source)
    return first_files


def _keep_words_as_text(sources: list[Source], name: str) -> None:
    """Make a column text in the CSV files in which it holds nothing but words like NA.

    These words are values, not missing values, if the column is the target or if
    `data.not_missing` in settings.yml lists them.
    """
    for source in sources:
        column = source.columns.get(name)
        if column and column.type is None and column.missing_words:
            _read_as_text(column)


def _keep_infinities_as_text(sources: list[Source], name: str) -> None:
    """Make a column text if its only numbers, in all CSV files, are words like Inf."""
    sources_with_numbers = [
        source
        for source in sources
        if name in source.columns and source.columns[name].type == NUMBER
    ]
    for source in sources_with_numbers:
        has_other_numbers = source.columns[name].as_text is None
        if has_other_numbers:
            return

    for source in sources_with_numbers:
        column = source.columns[name]
        # If only the first rows have been read so far, a later row may hold a number such
        # as 1.5. Such a row contradicts the type.
        is_number = column.values.is_finite().fill_null(False)
        source.is_misfit = source.is_misfit | is_number
        _read_as_text(column)


def _read_as_text(column: Column) -> None:
    """Change a column of a CSV file to text, if it has a reading as text."""
    if column.as_text is None:
        return
    column.type = TEXT
    column.values = column.as_text
    column.missing_words = 0
    column.is_missing_word = None


def _has_usable_types(
    sources: list[Source],
    name: str,
    first_files: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> bool:
    """Return whether the types of a column can be used.

    Adds a note if they cannot, because no feature can be made of one of them. Raises
    DataError if the column is a key or the target.
    """
    for type, source in first_files.items():
        if name in roles.keys:
            is_usable = not type.is_nested() and type != pl.Duration
        else:
            is_usable = type in TYPE_NAMES
        if is_usable:
            continue
        if name in roles.keys or name == roles.target:
            raise DataError(
                f"{source.name}: the column '{name}' is of type {type}, which is neither"
                " a number nor a date nor text: convert it."
            )
        source.notes.append(
            f"the column '{name}' in {source.name} is of type {type}, which no feature"
            " can be made of, and is left out."
        )
        return False
    return True


def _common_key_type(
    sources: list[Source], name: str, first_files: dict[pl.DataType, Source]
) -> pl.DataType | None:
    """Return a common type by which the keys of all files stay distinct, or None."""
    if set(first_files) == {INTEGER, NUMBER} and _holds_for_all(
        _is_whole, sources, name, NUMBER
    ):
        return INTEGER
    if any(type.is_float() or type == pl.Binary for type in first_files):
        # Converted to text, floats and bytes would differ from what the file holds.
        return None
    return TEXT


def _common_feature_type(
    sources: list[Source], name: str, first_files: dict[pl.DataType, Source]
) -> pl.DataType | None:
    """Return a common type for the values of a feature or of the target, or None."""
    types = set(first_files)
    if types == {INTEGER, NUMBER}:
        return NUMBER
    if types == {DATE, TIMESTAMP}:
        return TIMESTAMP
    if types <= {BOOLEAN, INTEGER, NUMBER}:
        numbers_are_bits = all(
            _holds_for_all(_is_bit, sources, name, type) for type in (INTEGER, NUMBER)
        )
        return INTEGER if numbers_are_bits else None
    return None


def _explain_changed_type(
    sources: list[Source],
    name: str,
    first_files: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> DataError:
    """Return an error that names each type of a column, with the first file of this type.

    If a file has a note on the column, the error quotes the first such note.
    """
    types = " and ".join(
        f"{type_name(type)} in {source.name}" for type, source in first_files.items()
    )
    if name in roles.keys:
        message = f"The column '{name}' changes its type: {types}. Make it one type."
    elif name in roles.only_checked:
        message = (
            f"The column '{name}' changes its type: {types}. Make it one type, or remove"
            " its rules from data.expect in settings.yml."
        )
    else:
        message = (
            f"The column '{name}' changes its type: {types}. Make it one type, or list"
            " it under data.ignore in settings.yml."
        )

    for source in sources:
        for note in source.notes:
            if f"'{name}'" in note:
                return DataError(f"{message} In detail: {note}")
    return DataError(message)


def _is_whole(values: pl.Expr) -> pl.Expr:
    """Return whether each float is an integer that an Int64 holds exactly."""
    return (values == values.round()) & (values.abs() <= LARGEST_EXACT_INTEGER)


def _is_midnight(values: pl.Expr) -> pl.Expr:
    """Return whether each time is the start of a day."""
    return values == values.dt.truncate("1d")


def _is_bit(values: pl.Expr) -> pl.Expr:
    """Return whether each number is 0 or 1."""
    return (values == 0) | (values == 1)


def _holds_for_all(
    test: Callable[[pl.Expr], pl.Expr],
    sources: list[Source],
    name: str,
    type: pl.DataType,
) -> bool:
    """Return whether all values of a column pass a test, in the files of a type.

    Files in which the column has another type are not tested.
    """
    for source in sources:
        column = source.columns.get(name)
        if column and column.type == type:
            passed = source.frame.select(test(column.values).all())
            if not passed.collect(engine="streaming").item():
                return False
    return True


def stack_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    scratch: Path,
    *,
    with_row_numbers: bool = False,
) -> pl.LazyFrame:
    """Stack the rows of all files, in order, as a table with the columns of `types`.

    The table also has columns for `summarise_files`, whose names begin with a NUL, and
    the numbers of the rows in their files if the caller needs them. If there are many
    files, they are copied into the folder `scratch`. Raises OSError or PolarsError if it
    has no room for them.
    """
    # Missing words are counted only in columns whose types were guessed.
    checked_names = {
        name
        for source in sources
        for name, column in source.columns.items()
        if column.is_missing_word is not None
    }
    if len(sources) <= FILES_AT_A_TIME:
        frames = _select_rows(
            sources, types, checked_names, 0, with_row_numbers=with_row_numbers
        )
        return pl.concat(frames)
    # polars opens all files of a query at once, and takes minutes to plan a query over
    # thousands of files. So some files at a time are copied into one.
    copies = []
    for start in range(0, len(sources), FILES_AT_A_TIME):
        some_sources = sources[start : start + FILES_AT_A_TIME]
        frames = _select_rows(
            some_sources, types, checked_names, start, with_row_numbers=with_row_numbers
        )
        copy = scratch / f"{uuid.uuid4().hex}.parquet"
        pl.concat(frames).sink_parquet(copy, compression_level=1)
        copies.append(copy)
    return pl.scan_parquet(copies, glob=False)


def _select_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    checked_names: set[str],
    first_position: int,
    *,
    with_row_numbers: bool,
) -> list[pl.LazyFrame]:
    """Select from each file the columns of `types`, and the columns for `summarise_files`.

    `first_position` is the position of the first of these files among all files. For the
    columns in `checked_names`, a further column tells which rows hold a missing word.
    """
    frames = []
    for position, source in enumerate(sources, first_position):
        row_bytes = pl.lit(0) if source.row_bytes is None else source.row_bytes
        selected = [
            pl.lit(position).alias(FILE),
            source.is_misfit.alias(MISFIT),
            row_bytes.cast(pl.Int64).alias(BYTES),
        ]
        for name, type in types.items():
            column = source.columns.get(name, Column(None, pl.lit(None)))
            values = pl.lit(None) if column.type is None else column.values
            selected.append(values.cast(type).alias(name))
            if name in checked_names:
                is_word = column.is_missing_word
                if is_word is None:
                    is_word = pl.lit(False)
                selected.append(is_word.alias(MISSING_WORD + name))
        frame = source.frame.select(selected)
        if with_row_numbers:
            frame = frame.with_row_index(ROW_NUMBER)
        is_csv = any(column.text is not None for column in source.columns.values())
        # The output and the summary both read the rows. Text of CSV is expensive to
        # parse, so its values are kept in memory for both. Parquet is read twice instead,
        # which saves this memory.
        frames.append(frame.cache() if is_csv else frame)
    return frames


def summarise_files(
    rows: pl.LazyFrame, *figures: pl.Expr, several: bool
) -> pl.LazyFrame:
    """Summarise stacked rows: return one row for each file.

    It holds the number of the file's rows, the `figures`, which are aggregations by the
    caller, and the sums that `confirm_types` needs. `several` is True if the rows are
    those of more than one file.
    """
    sums = (cs.by_name(MISFIT, BYTES) | cs.starts_with(MISSING_WORD)).sum()
    summary = [pl.len().alias("rows"), sums, *figures]
    if several:
        return rows.group_by(FILE).agg(summary)
    return rows.select(pl.first(FILE), *summary)


def confirm_types(sources: list[Source], summary: pl.DataFrame) -> set[str]:
    """Return the names of the files in which all rows have the guessed types.

    Also sets the `missing_words` of each column to their number in all rows, as only
    those of the first rows have been counted so far.
    """
    summary_by_file = {row[FILE]: row for row in summary.to_dicts()}
    confirmed = set()
    for position, source in enumerate(sources):
        # A file without rows is not in the summary.
        row = summary_by_file.get(position, {MISFIT: 0, BYTES: 0})
        if not row[MISFIT] and row[BYTES] == source.expected_bytes:
            confirmed.add(source.name)
        for name, column in source.columns.items():
            if column.is_missing_word is not None:
                column.missing_words = row.get(MISSING_WORD + name, 0)
    return confirmed
