"""Combining the raw files into one table: a type for each column, and all rows in order."""

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
# Columns of the combined rows that are no data: each begins with a NUL, as no name does.
MISFIT = "\0misfit"  # whether the row contradicts the types that were guessed
BYTES = "\0bytes"  # the length of the row in its CSV file
MISSING_WORD = "\0missing word "  # before the name of a column that holds words like NA


def choose_types(sources: list[Source], roles: ColumnRoles) -> dict[str, pl.DataType]:
    """Return the columns to keep, each with the type that holds it in every file.

    A file may lack a feature, which then counts as missing, but neither the target nor a
    key. Raises DataError if it does, or if no type holds a column.
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
    """Return the type that holds a column in every file; None to leave a feature out.

    Raises DataError if no type does.
    """
    first_files = _find_first_file_of_each_type(sources, name)
    if set(first_files) <= {TEXT}:
        _keep_words_as_text(sources, name)
        first_files = _find_first_file_of_each_type(sources, name)
    if set(first_files) <= {NUMBER, TEXT} and name != roles.target:
        _keep_infinities_as_text(sources, name)
        first_files = _find_first_file_of_each_type(sources, name)
    if not _can_hold(sources, name, first_files, roles):
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
        raise _changed_type(sources, name, first_files, roles)
    return common_type


def _fit_type(sources: list[Source], name: str, schema: ColumnSchema) -> pl.DataType:
    """Return the type of a column of a model's schema, or one that holds more values.

    In new data, a column of integers may hold fractions, and one of dates may hold times:
    a note tells so.
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
    """Return the types that a column has in the files, each with the first of these."""
    first_files: dict[pl.DataType, Source] = {}
    for source in sources:
        column = source.columns.get(name)
        if column and column.type is not None:
            first_files.setdefault(column.type, source)
    return first_files


def _keep_words_as_text(sources: list[Source], name: str) -> None:
    """Make a column text in the CSV files in which its only values are words like NA.

    They are values, not missing ones, in a target and by `data.not_missing`.
    """
    for source in sources:
        column = source.columns.get(name)
        if column and column.type is None and column.missing_words:
            _read_as_text(column)


def _keep_infinities_as_text(sources: list[Source], name: str) -> None:
    """Make a column text if its only numbers, in all CSV files, are words like Inf."""
    numbers = [
        (source, source.columns[name])
        for source in sources
        if name in source.columns and source.columns[name].type == NUMBER
    ]
    for _, column in numbers:
        if column.as_text is None:
            return
    for source, column in numbers:
        # If only the first rows have been looked at, a later one may hold a number.
        source.is_misfit = source.is_misfit | column.values.is_finite().fill_null(False)
        _read_as_text(column)


def _read_as_text(column: Column) -> None:
    """Make a column of a CSV file text."""
    if column.as_text is not None:
        column.type = TEXT
        column.values = column.as_text
        column.missing_words = 0
        column.is_missing_word = None


def _can_hold(
    sources: list[Source],
    name: str,
    first_files: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> bool:
    """Return False, with a note, if a feature has a type that no model can take.

    Raises DataError if it is a key or the target.
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
    """Return the type that tells the keys of all files apart, or None."""
    if set(first_files) == {INTEGER, NUMBER} and _holds_for_all(
        _is_whole, sources, name, NUMBER
    ):
        return INTEGER
    if any(type.is_float() or type == pl.Binary for type in first_files):
        return None  # Text of floats or bytes would not be what stands in the file.
    return TEXT


def _common_feature_type(
    sources: list[Source], name: str, first_files: dict[pl.DataType, Source]
) -> pl.DataType | None:
    """Return the type that holds the values of a feature or target, or None."""
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


def _changed_type(
    sources: list[Source],
    name: str,
    first_files: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> DataError:
    """Return an error that names a file of each type, and what a note says of one."""
    places = " and ".join(
        f"{type_name(type)} in {source.name}" for type, source in first_files.items()
    )
    message = f"The column '{name}' changes its type: {places}. Make it one type."
    if name not in roles.keys:
        message = (
            f"The column '{name}' changes its type: {places}. Make it one type, or list"
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
    """Return whether a test holds for all values of a column, in the files of a type."""
    for source in sources:
        column = source.columns.get(name)
        if column and column.type == type:
            passed = source.frame.select(test(column.values).all())
            if not passed.collect(engine="streaming").item():
                return False
    return True


def stack_rows(
    sources: list[Source], types: dict[str, pl.DataType], scratch: Path
) -> pl.LazyFrame:
    """Return all rows of all files, in order, as the columns of `types`.

    With them come columns for `summarise_files`, whose names begin with a NUL. Raises
    OSError or PolarsError if many files are copied and `scratch` has no room for that.
    """
    # Only files whose types were guessed have such a column.
    checked_names = {
        name
        for source in sources
        for name, column in source.columns.items()
        if column.is_missing_word is not None
    }
    if len(sources) <= FILES_AT_A_TIME:
        return pl.concat(_select_rows(sources, types, checked_names, 0))
    # polars opens all files of a plan at once, and plans for thousands take minutes.
    copies = []
    for start in range(0, len(sources), FILES_AT_A_TIME):
        some_sources = sources[start : start + FILES_AT_A_TIME]
        frames = _select_rows(some_sources, types, checked_names, start)
        copy = scratch / f"{uuid.uuid4().hex}.parquet"
        pl.concat(frames).sink_parquet(copy, compression_level=1)
        copies.append(copy)
    return pl.scan_parquet(copies, glob=False)


def _select_rows(
    sources: list[Source],
    types: dict[str, pl.DataType],
    checked_names: set[str],
    first_position: int,
) -> list[pl.LazyFrame]:
    """Return the rows of some files, of which the first one has this position.

    The columns with `checked_names` come with a column that counts missing words.
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
        is_csv = any(column.text is not None for column in source.columns.values())
        # The text of CSV is parsed once, for the output and for the summary. Parquet is
        # not kept for the slower of the two, which would take memory: each reads it.
        frames.append(frame.cache() if is_csv else frame)
    return frames


def summarise_files(
    rows: pl.LazyFrame, *figures: pl.Expr, several: bool
) -> pl.LazyFrame:
    """Return a row for each file in stacked rows: its number of rows and the `figures`.

    With them come the sums that `confirm_types` needs. `several` says whether the rows
    are those of several files.
    """
    sums = (cs.by_name(MISFIT, BYTES) | cs.starts_with(MISSING_WORD)).sum()
    summary = [pl.len().alias("rows"), sums, *figures]
    if several:
        return rows.group_by(FILE).agg(summary)
    return rows.select(pl.first(FILE), *summary)


def confirm_types(sources: list[Source], summary: pl.DataFrame) -> set[str]:
    """Return the files of which all rows have the types that were guessed.

    Also takes over how many missing words each of their columns holds in all rows.
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
