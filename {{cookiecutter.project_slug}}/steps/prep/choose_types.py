"""Choose which columns are prepared, and for each of them one type that fits all files."""

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
    #: The types by the names of the columns, in the order of the prepared table.
    types: dict[str, pl.DataType]
    notes: list[Note]


@dataclass(frozen=True)
class TypeChoice:
    """The choice of one type for a column in all files, or the choice to leave it out."""

    #: None if the column is left out.
    dtype: pl.DataType | None
    #: Tells the user why this type was chosen, or why the column is left out.
    note: Note | None = None


def choose_types(sources: list[Source], roles: ColumnRoles) -> TypedFiles:
    """Choose the columns to prepare, and for each column one type that fits all files.

    Raises DataError if a file lacks a key or the target, if new data does not fit the
    schema of the model, or if no type fits a column in all files.
    """
    names = list_column_names(sources)
    notes = _check_columns(sources, names, roles)
    used_names = [name for name in names if roles.is_used(name)]
    notes += _find_similar_names(used_names)
    sources = _read_special_words_as_text(sources, used_names, roles)

    types: dict[str, pl.DataType] = {}
    for name in used_names:
        choice = _choose_type(sources, name, roles)
        if choice.dtype is not None:
            types[name] = choice.dtype
        if choice.note is not None:
            notes.append(choice.note)
    return TypedFiles(sources, types, notes)


def _check_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[Note]:
    """Check that the files have the columns that they need, and return notes on names.

    `names` are the columns of all files. Raises DataError if a file lacks a key or the
    target, if new data does not fit the schema of the model, or if an ignored column is
    missing from all training data.
    """
    notes: list[Note] = []
    if roles.model_columns is not None:
        notes += check_against_schema(sources, names, roles)
    _check_required_columns(sources, names, roles)
    # New data may lack the columns that were ignored in training.
    is_training = bool(roles.target)
    if is_training:
        _check_ignored_columns(names, roles)
    notes += _find_invisible_characters(names)
    return notes


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
    """Raise DataError if a file lacks a key or the target.

    `names` are the columns of all files. The error suggests the most similar of them.
    """
    role_by_name = dict.fromkeys(roles.keys, "a key")
    if roles.target:
        role_by_name[roles.target] = "the target"
    for source in sources:
        for name, role in role_by_name.items():
            if name in source.columns:
                continue
            message = (
                f"{source.name} has no column '{name}', which is {role} in settings.yml."
                f" Its columns are {show_text(', '.join(source.columns))}."
            )
            hint = suggest_similar_name(name, names)
            if not hint:
                hint = suggest_header(list(source.columns))
            raise DataError(join_sentences(message, hint))


def _check_ignored_columns(names: list[str], roles: ColumnRoles) -> None:
    """Raise DataError if a column of `data.ignore` is in no file.

    `names` are the columns of all files.
    """
    for name in roles.ignore:
        if name in names:
            continue
        message = (
            f"No file has a column '{name}', which data.ignore in settings.yml names."
        )
        raise DataError(join_sentences(message, suggest_similar_name(name, names)))


def _find_invisible_characters(names: list[str]) -> Iterator[Note]:
    """Yield a note on each column whose name has invisible characters, such as U+200B."""
    for name in names:
        shown_name = show_text(name)
        if shown_name == name:
            continue
        text = (
            f"the name of the column '{shown_name}' has invisible characters, which are"
            " shown as escapes here: they are also part of the name in settings.yml."
        )
        yield Note(text, column=name)


def _find_similar_names(names: list[str]) -> Iterator[Note]:
    """Yield a note on each group of columns whose names look nearly the same.

    Such names differ only by upper and lower case, by spaces at their ends, or by their
    Unicode form: "\u00e9" can be one character, or an "e" followed by an accent.
    """
    names_by_folded: dict[str, list[str]] = {}
    for name in names:
        folded_name = unicodedata.normalize("NFKC", name).casefold().strip()
        names_by_folded.setdefault(folded_name, []).append(name)
    for similar_names in names_by_folded.values():
        if len(similar_names) == 1:
            continue
        listed = " and ".join(f"'{show_text(name)}'" for name in similar_names)
        yield Note(
            f"the columns {listed} differ only by case, spaces or Unicode form. They are"
            " kept as separate columns: if they mean the same, give them one name."
        )


# Columns that hold only special words, such as NA, none or Inf.


def _read_special_words_as_text(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[Source]:
    """Return the files, in which columns that hold only special words are read as text.

    Special words are those that are usually read as a missing value, such as NA, or as an
    infinite number, such as Inf. If a column holds nothing else, they may be codes or
    names. Columns of a model's schema are not changed.
    """
    text_names_by_file: list[list[str]] = [[] for _ in sources]
    for name in names:
        if roles.get_expected_column(name) is not None:
            continue
        for file_number in _find_files_to_read_as_text(sources, name, roles):
            text_names_by_file[file_number].append(name)
    return [
        _read_columns_as_text(source, text_names) if text_names else source
        for source, text_names in zip(sources, text_names_by_file, strict=True)
    ]


def _find_files_to_read_as_text(
    sources: list[Source], name: str, roles: ColumnRoles
) -> list[int]:
    """Return the numbers of the files in which a column is to be read as text.

    In these files, the column holds only words such as NA, or only words such as Inf.
    """
    column_by_file = {
        file_number: source.columns[name]
        for file_number, source in enumerate(sources)
        if name in source.columns
    }
    types = {
        column.type for column in column_by_file.values() if column.type is not None
    }
    no_file_has_values = not types
    # If no other file has values of another type, words such as NA may be text.
    if no_file_has_values or types == {TEXT}:
        return _find_files_with_only_markers(column_by_file)
    # Files in which the column is text already do not matter. The target stays a number:
    # rows with an infinite target are left out.
    may_be_infinite = types <= {NUMBER, TEXT} and name != roles.target
    if may_be_infinite:
        return _find_files_with_only_infinities(column_by_file)
    return []


def _find_files_with_only_markers(column_by_file: dict[int, Column]) -> list[int]:
    """Return the numbers of the files in which a column holds only words such as NA.

    `column_by_file` has the column in each file, by the number of the file.
    """
    file_numbers = []
    for file_number, column in column_by_file.items():
        has_only_words = column.type is None and column.marker_count > 0
        # Columns of Parquet files have no alternative as text.
        if has_only_words and column.values_as_text is not None:
            file_numbers.append(file_number)
    return file_numbers


def _find_files_with_only_infinities(column_by_file: dict[int, Column]) -> list[int]:
    """Return the numbers of the files in which a column holds only infinite numbers.

    The list is empty if the column holds a finite number in any file. `column_by_file`
    has the column in each file, by the number of the file.
    """
    numeric_columns = {
        file_number: column
        for file_number, column in column_by_file.items()
        if column.type == NUMBER
    }
    for column in numeric_columns.values():
        # Only a column without finite numbers has an alternative as text.
        holds_finite_numbers = column.values_as_text is None
        if holds_finite_numbers:
            return []
    return list(numeric_columns)


def _read_columns_as_text(source: Source, names: list[str]) -> Source:
    """Return a CSV file in which the columns `names` are read as text.

    Each of these columns has a `values_as_text`, which replaces its values.
    """
    columns = dict(source.columns)
    contradicts_types = source.contradicts_types
    for name in names:
        column = columns[name]
        assert column.values_as_text is not None
        if column.type == NUMBER:
            # The first rows hold only words such as Inf. If the type was guessed from
            # them, a later row may hold a finite number, which contradicts the guess.
            is_finite_number = column.values.is_finite().fill_null(False)
            contradicts_types = contradicts_types | is_finite_number
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
    """Choose one type for a column in all files.

    The model's schema determines the type, if it has the column. Otherwise, the values of
    the column do. Raises DataError if no type fits the column in all files, or if the
    type of a key or the target cannot be prepared.
    """
    expected = roles.get_expected_column(name)
    if expected is not None:
        return _choose_type_by_schema(sources, name, expected)

    first_file_by_type = _find_first_file_of_each_type(sources, name)
    unusable_type = _find_unusable_type(first_file_by_type, is_key=name in roles.keys)
    if unusable_type is not None:
        source = first_file_by_type[unusable_type]
        return _leave_out_or_raise(source, name, unusable_type, roles)

    types = list(first_file_by_type)
    if not types:
        # No file has a value in the column, so any type fits.
        return TypeChoice(TEXT)
    if len(types) == 1:
        return TypeChoice(types[0])
    common_type = _find_common_type(sources, name, set(types), roles)
    if common_type is None:
        raise _explain_different_types(sources, name, first_file_by_type, roles)
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
    """Return whether columns of a type can be prepared.

    A key can have any type but lists, structs and durations, because it is only copied.
    Features and the target need one of the types in TYPE_NAMES.
    """
    if is_key:
        return not dtype.is_nested() and dtype != pl.Duration
    return dtype in TYPE_NAMES


def _leave_out_or_raise(
    source: Source, name: str, dtype: pl.DataType, roles: ColumnRoles
) -> TypeChoice:
    """Return the choice to leave out a column whose type cannot be prepared, with a note.

    `source` is the first file in which the column has this type. Raises DataError if the
    column is a key or the target, which cannot be left out.
    """
    if name in roles.keys or name == roles.target:
        raise DataError(
            f"{source.name}: the column '{name}' is of type {dtype}, which is neither"
            " a number nor a date nor text: convert it to one of these."
        )
    text = (
        f"the column '{name}' in {source.name} is left out, because no feature can be made"
        f" from its type, {dtype}."
    )
    return TypeChoice(None, Note(text, column=name))


def _choose_type_by_schema(
    sources: list[Source], name: str, expected: ColumnSchema
) -> TypeChoice:
    """Choose the type of a column in new data: usually the type in the model's schema.

    If the new data holds fractions where the training data held integers, the type is
    NUMBER instead. If it holds times where the training data held dates, the type is
    TIMESTAMP instead. The choice then has a note.
    """
    holds_fractions = expected.type == INTEGER and not _all_values_pass(
        sources, name, NUMBER, _is_whole
    )
    if holds_fractions:
        text = (
            f"the column '{name}' holds fractions, where the training data held integers:"
            " check that features() in prep.py can use them, and that data.decimal and"
            " data.thousands in settings.yml are right for these files."
        )
        return TypeChoice(NUMBER, Note(text, column=name))

    holds_times = expected.type == DATE and not _all_values_pass(
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
    """Return a type to which all values of a column can be converted; None if none fits.

    `types` are the types that the column has in the files.
    """
    if name in roles.keys:
        return _find_common_key_type(sources, name, types)
    return _find_common_feature_type(sources, name, types)


def _find_common_key_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type in which the keys of all files stay distinct; None if none fits.

    For example, the key 7 of one file and the key A7 of another become text.
    """
    if types == {INTEGER, NUMBER} and _all_values_pass(
        sources, name, NUMBER, _is_whole
    ):
        return INTEGER
    if any(dtype.is_float() or dtype == pl.Binary for dtype in types):
        # Converted to text, floats and bytes would differ from what the file holds.
        return None
    return TEXT


def _find_common_feature_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type that can hold the values of a feature in all files; None if none can.

    Text is not used to hold numbers or dates: a feature that is text in one file and a
    number in another is probably a mistake.
    """
    if types == {INTEGER, NUMBER}:
        return NUMBER
    if types == {DATE, TIMESTAMP}:
        return TIMESTAMP
    if BOOLEAN in types and types <= {BOOLEAN, INTEGER, NUMBER}:
        # Booleans become 0 and 1, provided that the numbers in the other files are all 0
        # or 1.
        integers_are_bits = _all_values_pass(sources, name, INTEGER, _is_bit)
        numbers_are_bits = _all_values_pass(sources, name, NUMBER, _is_bit)
        if integers_are_bits and numbers_are_bits:
            return INTEGER
    return None


def _explain_different_types(
    sources: list[Source],
    name: str,
    first_file_by_type: dict[pl.DataType, Source],
    roles: ColumnRoles,
) -> DataError:
    """Return the error for a column whose types in the files have no common type.

    If there is a note on the column, which may explain one of its types, the error quotes
    the first such note.
    """
    types = " and ".join(
        f"{get_type_name(dtype)} in {source.name}"
        for dtype, source in first_file_by_type.items()
    )
    problem = f"The column '{name}' has different types: {types}."
    if name in roles.keys:
        fix = "Give it the same type in all files."
    elif name in roles.only_checked:
        fix = (
            "Give it the same type in all files, or remove its rules from data.expect in"
            " settings.yml."
        )
    else:
        fix = (
            "Give it the same type in all files, or list it under data.ignore in"
            " settings.yml."
        )
    note = find_note(sources, name)
    detail = "" if note is None else f"Note on this column: {note.text}"
    return DataError(join_sentences(problem, fix, detail))


def _all_values_pass(
    sources: list[Source],
    name: str,
    dtype: pl.DataType,
    test: Callable[[pl.Expr], pl.Expr],
) -> bool:
    """Return whether all values of a column pass a test where its type is `dtype`.

    Missing values pass every test. Files in which the column has another type, or which
    lack the column, are not tested.
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
    """Return whether each timestamp is the start of a day."""
    return values == values.dt.truncate("1d")


def _is_bit(values: pl.Expr) -> pl.Expr:
    """Return whether each number is 0 or 1."""
    return (values == 0) | (values == 1)
