"""Choose which columns are prepared, and for each one a type that fits it in every file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import polars as pl
from messages import join_sentences, show_text, suggest_similar_name
from read_by_schema import check_against_schema
from sources import (
    BOOLEAN,
    DATE,
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
    Note,
    Source,
    find_note,
    get_type_name,
)
from table_layout import suggest_header


@dataclass(frozen=True)
class TypedFiles:
    """The raw files, the type of each column that is prepared, and notes on all files."""

    sources: list[Source]
    types: dict[str, pl.DataType]
    notes: list[Note]


@dataclass(frozen=True)
class TypeChoice:
    """The type of a column in all files, or None if it is left out, and a note on why."""

    dtype: pl.DataType | None
    note: Note | None = None


def choose_types(sources: list[Source], roles: ColumnRoles) -> TypedFiles:
    """Choose the columns to prepare, and for each one a type that fits it in every file.

    Values of features that a file lacks are missing in this file. Raises DataError if a
    file lacks a key or the target, if new data does not fit the schema of the model, or if
    no type fits a column in all files.
    """
    names = list_column_names(sources)
    notes: list[Note] = []
    if roles.model_columns is not None:
        notes += check_against_schema(sources, names, roles)
    _check_required_columns(sources, names, roles)
    if roles.target:
        # Only training data must have the ignored columns.
        _check_ignored_columns(names, roles)

    used_names = [name for name in names if roles.is_used(name)]
    notes += _note_invisible_characters(names)
    notes += _note_similar_names(used_names)
    sources = _read_words_as_text(sources, used_names, roles)

    types: dict[str, pl.DataType] = {}
    for name in used_names:
        choice = _choose_type(sources, name, roles)
        if choice.dtype is not None:
            types[name] = choice.dtype
        if choice.note is not None:
            notes.append(choice.note)
    return TypedFiles(sources, types, notes)


def list_column_names(sources: list[Source]) -> list[str]:
    """Return the names of the columns of all files, in the order of the files."""
    names: dict[str, None] = {}
    for source in sources:
        names.update(dict.fromkeys(source.columns))
    return list(names)


# Checks and notes that need only the names of the columns.


def _check_required_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> None:
    """Raise DataError if a file lacks a key or the target."""
    role_by_name = dict.fromkeys(roles.keys, "key")
    if roles.target:
        role_by_name[roles.target] = "target"
    for source in sources:
        for name, role in role_by_name.items():
            if name in source.columns:
                continue
            message = (
                f"{source.name} has no column '{name}', the {role} in settings.yml. It has"
                f" {show_text(', '.join(source.columns))}."
            )
            hint = suggest_similar_name(name, names)
            if not hint:
                hint = suggest_header(list(source.columns))
            raise DataError(join_sentences(message, hint))


def _check_ignored_columns(names: list[str], roles: ColumnRoles) -> None:
    """Raise DataError if no file has a column that is to be ignored."""
    for name in roles.ignore:
        if name in names:
            continue
        message = (
            f"No file has a column '{name}', which data.ignore in settings.yml names."
        )
        raise DataError(join_sentences(message, suggest_similar_name(name, names)))


def _note_invisible_characters(names: list[str]) -> Iterator[Note]:
    """Yield a note on each name with invisible characters, such as U+200B."""
    for name in names:
        shown = show_text(name)
        if shown == name:
            continue
        text = (
            f"the name of the column '{shown}' has invisible characters, which are shown"
            " as escapes here: they are also part of the name in settings.yml."
        )
        yield Note(text, column=name)


def _note_similar_names(names: list[str]) -> Iterator[Note]:
    """Yield a note on columns whose names differ only by case or by Unicode form."""
    similar: dict[str, list[str]] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold().strip()
        similar.setdefault(folded, []).append(name)
    for group in similar.values():
        if len(group) == 1:
            continue
        listed = " and ".join(f"'{show_text(name)}'" for name in group)
        yield Note(
            f"the columns {listed} differ only by case or Unicode form: they stay apart;"
            " rename one if they are the same."
        )


# Columns that hold nothing but words in all files, such as NA, none or Inf.


def _read_words_as_text(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[Source]:
    """Return the files, with columns that hold nothing but words read as text.

    Words such as NA may be values rather than missing values, and words such as Inf may
    be names rather than numbers. Columns of a model's schema are not changed.
    """
    names_by_file: list[list[str]] = [[] for _ in sources]
    for name in names:
        if roles.get_expected_column(name) is not None:
            continue
        for file_number in _find_files_of_words(sources, name, roles):
            names_by_file[file_number].append(name)
    return [
        _read_columns_as_text(source, text_names) if text_names else source
        for source, text_names in zip(sources, names_by_file)
    ]


def _find_files_of_words(
    sources: list[Source], name: str, roles: ColumnRoles
) -> list[int]:
    """Return the numbers of the files in which a column is to be read as text.

    The list is empty if a file has a value in the column that is not a word.
    """
    columns = {
        file_number: source.columns[name]
        for file_number, source in enumerate(sources)
        if name in source.columns
    }
    types = {column.type for column in columns.values() if column.type is not None}
    if not types or types == {TEXT}:
        return _find_files_of_missing_words(columns)
    if types <= {NUMBER, TEXT} and name != roles.target:
        return _find_files_of_infinities(columns)
    return []


def _find_files_of_missing_words(columns: dict[int, Column]) -> list[int]:
    """Return the files in which a column holds no values, but words such as NA.

    `columns` has the column in each file, by the number of the file.
    """
    file_numbers = []
    for file_number, column in columns.items():
        has_only_words = column.type is None and column.marker_count > 0
        if has_only_words and column.values_as_text is not None:
            file_numbers.append(file_number)
    return file_numbers


def _find_files_of_infinities(columns: dict[int, Column]) -> list[int]:
    """Return the files in which a column holds numbers, if all of them are infinite.

    `columns` has the column in each file, by the number of the file.
    """
    numbers = {
        file_number: column
        for file_number, column in columns.items()
        if column.type == NUMBER
    }
    # A column that also holds finite numbers has no alternative as text.
    if any(column.values_as_text is None for column in numbers.values()):
        return []
    return list(numbers)


def _read_columns_as_text(source: Source, names: list[str]) -> Source:
    """Return a CSV file with some of its columns read as text."""
    columns = dict(source.columns)
    contradicts_types = source.contradicts_types
    for name in names:
        column = columns[name]
        assert column.values_as_text is not None
        if column.type == NUMBER:
            # If only the first rows have been read so far, a later row may hold a number
            # such as 1.5. It contradicts the guess that the column holds only words.
            is_number = column.values.is_finite().fill_null(False)
            contradicts_types = contradicts_types | is_number
        columns[name] = replace(
            column,
            type=TEXT,
            values=column.values_as_text,
            marker_count=0,
            is_marker=None,
        )
    return replace(source, columns=columns, contradicts_types=contradicts_types)


# The type of a column in all files.


def _choose_type(sources: list[Source], name: str, roles: ColumnRoles) -> TypeChoice:
    """Choose the type of a column in all files, by the model's schema or by its values."""
    expected = roles.get_expected_column(name)
    if expected is not None:
        return _choose_type_by_schema(sources, name, expected)

    first_file_by_type = _find_first_file_of_each_type(sources, name)
    unusable_type = _find_unusable_type(first_file_by_type, is_key=name in roles.keys)
    if unusable_type is not None:
        source = first_file_by_type[unusable_type]
        return _leave_out(source, name, unusable_type, roles)

    types = list(first_file_by_type)
    if not types:
        # No file has a value in the column.
        return TypeChoice(TEXT)
    if len(types) == 1:
        return TypeChoice(types[0])
    common_type = _find_common_type(sources, name, set(types), roles)
    if common_type is None:
        raise _explain_changed_type(sources, name, first_file_by_type, roles)
    return TypeChoice(common_type)


def _find_unusable_type(
    first_file_by_type: dict[pl.DataType, Source], *, is_key: bool
) -> pl.DataType | None:
    """Return the first type that cannot be prepared, or None if all types can."""
    for dtype in first_file_by_type:
        if not _is_usable(dtype, is_key=is_key):
            return dtype
    return None


def _is_usable(dtype: pl.DataType, *, is_key: bool) -> bool:
    """Return whether a key, or else a feature or the target, can have a type."""
    if is_key:
        return not dtype.is_nested() and dtype != pl.Duration
    return dtype in TYPE_NAMES


def _leave_out(
    source: Source, name: str, dtype: pl.DataType, roles: ColumnRoles
) -> TypeChoice:
    """Leave out a feature of a type that cannot be prepared, with a note.

    `source` is the first file in which the column has this type. Raises DataError if the
    column is a key or the target.
    """
    if name in roles.keys or name == roles.target:
        raise DataError(
            f"{source.name}: the column '{name}' is of type {dtype}, which is neither"
            " a number nor a date nor text: convert it."
        )
    text = (
        f"the column '{name}' in {source.name} is of type {dtype}, which no feature can be"
        " made of, and is left out."
    )
    return TypeChoice(None, Note(text, column=name))


def _choose_type_by_schema(
    sources: list[Source], name: str, expected: ColumnSchema
) -> TypeChoice:
    """Choose the type of a column of new data, which is usually that of the schema.

    If the new data holds fractions where the training data held integers, or times where
    it held dates, the type is NUMBER or TIMESTAMP instead, with a note.
    """
    holds_fractions = expected.type == INTEGER and not _all_values(
        sources, name, NUMBER, _is_whole
    )
    if holds_fractions:
        text = (
            f"the column '{name}' holds fractions, where the training data held integers:"
            " check that features() in prep.py can use them, or that data.decimal and"
            " data.thousands in settings.yml fit these files."
        )
        return TypeChoice(NUMBER, Note(text, column=name))

    holds_times = expected.type == DATE and not _all_values(
        sources, name, TIMESTAMP, _is_midnight
    )
    if holds_times:
        text = (
            f"the column '{name}' holds times, where the training data held dates: check"
            " that features() in prep.py can use them."
        )
        return TypeChoice(TIMESTAMP, Note(text, column=name))
    return TypeChoice(expected.type)


def _find_first_file_of_each_type(
    sources: list[Source], name: str
) -> dict[pl.DataType, Source]:
    """Return each type that a column has in any file, with the first file of this type."""
    first_file_by_type: dict[pl.DataType, Source] = {}
    for source in sources:
        column = source.columns.get(name)
        if column is not None and column.type is not None:
            first_file_by_type.setdefault(column.type, source)
    return first_file_by_type


def _find_common_type(
    sources: list[Source], name: str, types: set[pl.DataType], roles: ColumnRoles
) -> pl.DataType | None:
    """Return a type to which a column of several types is converted, or None."""
    if name in roles.keys:
        return _find_common_key_type(sources, name, types)
    return _find_common_feature_type(sources, name, types)


def _find_common_key_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type in which the keys of all files stay distinct, or None."""
    if types == {INTEGER, NUMBER} and _all_values(sources, name, NUMBER, _is_whole):
        return INTEGER
    if any(dtype.is_float() or dtype == pl.Binary for dtype in types):
        # Converted to text, floats and bytes would differ from what the file holds.
        return None
    return TEXT


def _find_common_feature_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type that can hold the values of a feature in all files, or None."""
    if types == {INTEGER, NUMBER}:
        return NUMBER
    if types == {DATE, TIMESTAMP}:
        return TIMESTAMP
    if types <= {BOOLEAN, INTEGER, NUMBER}:
        # Booleans become 0 and 1 if all numbers of other files are 0 or 1, too.
        integers_are_bits = _all_values(sources, name, INTEGER, _is_bit)
        if integers_are_bits and _all_values(sources, name, NUMBER, _is_bit):
            return INTEGER
    return None


def _explain_changed_type(
    sources: list[Source],
    name: str,
    first_file_by_type: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> DataError:
    """Return the error for a column whose types in the files have no common type.

    If a file has a note on the column, the error quotes the first such note.
    """
    types = " and ".join(
        f"{get_type_name(dtype)} in {source.name}"
        for dtype, source in first_file_by_type.items()
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
    note = find_note(sources, name)
    if note is not None:
        message += f" In detail: {note.text}"
    return DataError(message)


def _all_values(
    sources: list[Source],
    name: str,
    dtype: pl.DataType,
    test: Callable[[pl.Expr], pl.Expr],
) -> bool:
    """Return whether all values of a column pass a test, in the files of this type.

    Files in which the column has another type are not tested.
    """
    for source in sources:
        column = source.columns.get(name)
        if column is None or column.type != dtype:
            continue
        all_pass = source.frame.select(test(column.values).all())
        if not all_pass.collect(engine="streaming").item():
            return False
    return True


def _is_whole(values: pl.Expr) -> pl.Expr:
    """Return whether each float is an integer that an Int64 holds exactly."""
    return (values == values.round()) & (values.abs() <= LARGEST_EXACT_INTEGER)


def _is_midnight(values: pl.Expr) -> pl.Expr:
    """Return whether each time is the start of a day."""
    return values == values.dt.truncate("1d")


def _is_bit(values: pl.Expr) -> pl.Expr:
    """Return whether each number is 0 or 1."""
    return (values == 0) | (values == 1)
