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
    # The check leaves out columns that do not fit, so the names are listed again.
    used_names = [name for name in list_column_names(sources) if roles.is_used(name)]
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
    """Check that no column is missing or unsuitable, and return notes on the columns.

    Columns of new data that do not fit and that the model does not need are removed from
    the sources.

    `names` are the names of the columns of all files. Raises DataError if a file lacks a
    key or the target, if new data does not fit the schema of the model, or if no file of
    training data has a column that settings.yml says to ignore.
    """
    notes: list[Note] = []
    if roles.model_columns is not None:
        notes += check_against_schema(sources, names, roles)
    _check_required_columns(sources, names, roles)
    # Only training data has a target. New data may lack the columns that were ignored in
    # training, so they are not checked there.
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

    The error suggests the most similar name in `names`, the columns of all files.
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
    """Raise DataError if data.ignore in settings.yml lists a column that is in no file.

    `names` are the names of the columns of all files.
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

    These names differ only by upper and lower case, by spaces at their ends, or by their
    Unicode form: "\u00e9" can be one character, or an "e" followed by an accent.
    """
    names_by_simplified: dict[str, list[str]] = {}
    for name in names:
        # Names that look nearly the same become equal by this simplification.
        simplified_name = unicodedata.normalize("NFKC", name).casefold().strip()
        names_by_simplified.setdefault(simplified_name, []).append(name)
    for similar_names in names_by_simplified.values():
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
    """Return the files, with columns that hold only special words read as text.

    Special words are usually read as missing values, such as NA, or as infinite numbers,
    such as Inf. In a column that holds nothing else, the words may be codes or names.
    `names` are the columns to examine. Columns that the model's schema lists are left as
    they are.
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
    """Return the numbers of the files in which a column should be read as text.

    In these files, the column holds only words such as NA, or only words such as Inf.
    Whether these words are read as text depends on the type of the column in the other
    files.
    """
    column_by_file: dict[int, Column] = {}
    types: set[pl.DataType] = set()
    for file_number, source in enumerate(sources):
        if name not in source.columns:
            continue
        column = source.columns[name]
        column_by_file[file_number] = column
        # A column without values has no type.
        if column.type is not None:
            types.add(column.type)

    # Words such as NA may be text, too, if the column is text in all files that have
    # values, or if no file has values. In the second case, `types` is empty.
    markers_may_be_text = types <= {TEXT}
    if markers_may_be_text:
        return _find_files_with_only_markers(column_by_file)

    # Words such as Inf are read as numbers. They may be text if no file has values of a
    # further type, such as dates. In the target, they always stay numbers, because rows
    # with an infinite target are left out.
    infinities_may_be_text = types <= {NUMBER, TEXT} and name != roles.target
    if infinities_may_be_text:
        return _find_files_with_only_infinities(column_by_file)
    return []


def _find_files_with_only_markers(column_by_file: dict[int, Column]) -> list[int]:
    """Return the numbers of the CSV files in which a column holds only words such as NA.

    These words are called markers. `column_by_file` has the column in each file, by the
    number of the file.
    """
    file_numbers = []
    for file_number, column in column_by_file.items():
        # A column without values has no type.
        has_no_values = column.type is None
        holds_only_markers = has_no_values and column.marker_count > 0
        # Only CSV files have `values_as_text`. In Parquet files, markers are values anyway.
        is_from_csv = column.values_as_text is not None
        if holds_only_markers and is_from_csv:
            file_numbers.append(file_number)
    return file_numbers


def _find_files_with_only_infinities(column_by_file: dict[int, Column]) -> list[int]:
    """Return the numbers of the files in which a column holds only infinite numbers.

    The list is empty if the column holds a finite number in any file, because words such
    as Inf are then meant as numbers. `column_by_file` has the column in each file, by the
    number of the file.
    """
    numeric_columns = {
        file_number: column
        for file_number, column in column_by_file.items()
        if column.type == NUMBER
    }
    for column in numeric_columns.values():
        # `values_as_text` is set only if the column holds no finite number.
        holds_finite_numbers = column.values_as_text is None
        if holds_finite_numbers:
            return []
    return list(numeric_columns)


def _read_columns_as_text(source: Source, names: list[str]) -> Source:
    """Return a CSV file in which the columns `names` are read as text.

    The values of each of these columns are replaced by its `values_as_text`. The
    `contradicts_types` of the file is also True in rows that show that a column of numbers
    should have stayed one.
    """
    columns = dict(source.columns)
    contradicts_types = source.contradicts_types
    for name in names:
        column = columns[name]
        assert column.values_as_text is not None
        if column.type == NUMBER:
            # So far, only infinite numbers were seen. If only the first rows have been
            # read, a later row may hold a finite number, so that text is the wrong choice.
            is_finite_number = column.values.is_finite().fill_null(False)
            contradicts_types = contradicts_types | is_finite_number
        columns[name] = replace(
            column,
            type=TEXT,
            values=column.values_as_text,
            # As text, words such as NA are values, so the column has no markers.
            marker_count=0,
            is_marker=None,
        )
    return replace(source, columns=columns, contradicts_types=contradicts_types)


# The type of a column in all files.


def _choose_type(sources: list[Source], name: str, roles: ColumnRoles) -> TypeChoice:
    """Choose one type for a column in all files.

    If the model's schema has the column, the schema determines the type. Otherwise, the
    values of the column do. Raises DataError if no type fits the column in all files, or
    if the column is a key or the target and has a type that cannot be prepared.
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

    Keys are only copied, so they can have any type except lists, structs and durations.
    Features and the target need one of the types in TYPE_NAMES.
    """
    if is_key:
        return not dtype.is_nested() and dtype != pl.Duration
    return dtype in TYPE_NAMES


def _leave_out_or_raise(
    source: Source, name: str, dtype: pl.DataType, roles: ColumnRoles
) -> TypeChoice:
    """Leave out a column whose type cannot be prepared, or raise DataError.

    Returns a choice without a type, with a note for the user. Raises DataError if the
    column is a key or the target, because these must not be left out. `source` is the
    first file in which the column has the type `dtype`.
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
    """Return the types that a column has in the files, with the first file of each type."""
    first_file_by_type: dict[pl.DataType, Source] = {}
    for source in sources:
        column = source.columns.get(name)
        if column is not None and column.type is not None:
            first_file_by_type.setdefault(column.type, source)
    return first_file_by_type


def _find_common_type(
    sources: list[Source], name: str, types: set[pl.DataType], roles: ColumnRoles
) -> pl.DataType | None:
    """Return a type to which all values of a column can be converted, or None.

    `types` are the types that the column has in the files.
    """
    if name in roles.keys:
        return _find_common_key_type(sources, name, types)
    return _find_common_feature_type(sources, name, types)


def _find_common_key_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type to which the keys of all files can be converted, or None.

    Different keys must stay different. For example, if one file has the key 7 and another
    the key A7, the type is text. `types` are the types that the key has in the files.
    """
    if types == {INTEGER, NUMBER} and _all_values_pass(
        sources, name, NUMBER, _is_whole
    ):
        return INTEGER
    if any(dtype.is_float() or dtype == pl.Binary for dtype in types):
        # The text of a float or of bytes may differ from what is written in another file,
        # such as 1.0 instead of 1.
        return None
    return TEXT


def _find_common_feature_type(
    sources: list[Source], name: str, types: set[pl.DataType]
) -> pl.DataType | None:
    """Return a type that can hold the values of a feature in all files, or None.

    `types` are the types that the feature has in the files. Numbers and dates are never
    converted to text, because a feature that is text in one file and a number in another
    is probably a mistake.
    """
    if types == {INTEGER, NUMBER}:
        return NUMBER
    if types == {DATE, TIMESTAMP}:
        return TIMESTAMP
    if BOOLEAN in types and types <= {BOOLEAN, INTEGER, NUMBER}:
        # If all numbers in the other files are 0 or 1, they probably mean false and true,
        # so that the booleans become 0 and 1, too.
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
