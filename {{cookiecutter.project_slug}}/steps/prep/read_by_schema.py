"""Read new data by the schema of the model that will score it.

The schema says which type each column had in the training data. A column of the new data
is converted to this type if all of its values allow that. Otherwise the column is rejected:
if the model needs the column, a sentence about it is added to the `schema_problems` of its
file, and one error lists the problems of all files. If the model does not need the column,
it is left out, with a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
from csv_file import CsvFile
from date_formats import find_unambiguous_format
from infer_types import infer_text_column
from messages import join_sentences, show_text, suggest_similar_name
from read_options import ReadOptions
from sources import (
    BOOLEAN,
    DATE,
    INTEGER,
    NUMBER,
    READABLE_TYPES,
    TEXT,
    TIMESTAMP,
    Column,
    ColumnRoles,
    ColumnSchema,
    DataError,
    Note,
    Source,
    count_values,
)
from suggest_formats import suggest_settings
from text_values import TextFormat, null_if_missing, parse_as_type

# An example of a wrong value, and the settings to suggest, are found in this many rows.
SAMPLED_VALUES = 1_000
# An error lists this many problems.
SHOWN_PROBLEMS = 20
# A message shows this many characters of a value.
SHOWN_CHARACTERS = 40
# What the values of each type are called in messages.
KINDS: dict[pl.DataType, str] = {
    INTEGER: "numbers",
    NUMBER: "numbers",
    BOOLEAN: "true or false",
    DATE: "dates",
    TIMESTAMP: "times",
    TEXT: "text",
}


# Columns of CSV files


def reject_unreadable_text(source: Source, file: CsvFile, options: ReadOptions) -> None:
    """Reject the text columns of a CSV file for which the schema expects another type.

    The message names the first value that does not fit the schema, and its line.
    """
    for name, column in list(source.columns.items()):
        expected = options.roles.get_expected_column(name)
        if expected is None:
            continue
        is_unreadable = column.type == TEXT and expected.type != TEXT
        if not is_unreadable:
            continue
        # Every column of a CSV file keeps the text from which it was parsed. Columns of
        # folders such as `year=2026` are only added later.
        assert column.csv_text is not None
        filled_text = null_if_missing(column.csv_text, options.text_format)
        example = _find_unreadable_value(
            source, filled_text, expected, options.text_format
        )
        line = file.find_line(example.row)
        problem = (
            f"{source.name}, line {line}: the column '{name}' must hold"
            f" {KINDS[expected.type]}, as in the training data, but holds"
            f" '{example.value}'."
        )
        _reject_column(source, name, expected, problem, example.fix)


@dataclass(frozen=True)
class UnreadableValue:
    """An example of text that cannot be read as the type that the schema expects."""

    #: The number of the row, counted from 0.
    row: int
    value: str
    #: A sentence on how to correct the data or the settings.
    fix: str


def _find_unreadable_value(
    source: Source,
    filled_text: pl.Expr,
    expected: ColumnSchema,
    text_format: TextFormat,
) -> UnreadableValue:
    """Find an example of text in a column that cannot be read as the expected type.

    `filled_text` is the text of the column, with null for missing values.
    """
    # Where the schema expects integers, fractions can be read, too: `choose_types` only
    # notes them. So text is unreadable there only if it is no number at all.
    dtype = NUMBER if expected.type == INTEGER else expected.type
    is_unreadable = parse_as_type(filled_text, dtype, text_format).is_null()
    rows = source.frame.select(text=filled_text, is_unreadable=is_unreadable)
    filled_rows = rows.with_row_index("row").drop_nulls("text")
    first_filled_rows = filled_rows.head(SAMPLED_VALUES).collect(engine="streaming")

    unreadable_rows = filled_rows.filter("is_unreadable").head(SAMPLED_VALUES)
    examples = unreadable_rows.collect(engine="streaming")
    if examples.is_empty():
        # Each value can be read, but the values are of several types, such as 1 and true.
        # Then the first value is as good an example as any other.
        examples = first_filled_rows.head(1)

    position = _choose_example(examples["text"])
    return UnreadableValue(
        row=examples["row"][position],
        value=examples["text"][position][:SHOWN_CHARACTERS],
        fix=_suggest_fix(first_filled_rows["text"], text_format),
    )


def _choose_example(values: pl.Series) -> int:
    """Return the position of the first value that is not a date, or 0 if all are dates.

    A date is a bad example of a wrong value: often the date is right, and only its format
    has to be set.
    """
    for position, value in enumerate(values):
        if find_unambiguous_format(value) is None:
            return position
    return 0


def _suggest_fix(values: pl.Series, text_format: TextFormat) -> str:
    """Return a sentence on how to correct text that does not fit the schema.

    It names the settings that would read most of the values, if there are any.
    """
    settings = suggest_settings(values, text_format)
    if settings:
        return f"If the file is written that way, write {settings} in settings.yml."
    return "Correct it, or list it under data.missing in settings.yml."


# Columns of Parquet files


def convert_parquet_columns(source: Source, options: ReadOptions) -> None:
    """Convert the columns of a Parquet file to the types of the schema, or reject them.

    The schema belongs to the model that will score the data. Training data has no schema,
    and is not changed. What happens to a column depends on its type in the file, and on its
    type in the schema:

    - Text stays text if the schema expects text. If the training data came from CSV files,
      markers for missing values, such as NA, become null.
    - Text is parsed if the schema expects another type.
    - Other values become text if the schema expects text, spelled as in the training data.
    - Other values are rejected if they cannot be converted to the type in the schema.
    """
    for name, column in list(source.columns.items()):
        expected = options.roles.get_expected_column(name)
        if expected is None:
            # The schema does not list the column, or there is no schema.
            continue
        if column.type is None:
            # A column without values has no type, and fits every schema.
            continue
        if column.type == TEXT and expected.type == TEXT:
            if expected.markers_are_missing:
                _replace_markers(source, name, options.text_format)
        elif column.type == TEXT:
            _parse_parquet_text(source, name, expected, options)
        elif expected.type == TEXT:
            _spell_as_categories(source, name, expected, options.text_format)
        elif column.type not in READABLE_TYPES[expected.type]:
            _reject_other_type(source, name, expected)


def _replace_markers(source: Source, name: str, text_format: TextFormat) -> None:
    """Replace markers such as NA in a text column with null, and note this.

    In Parquet files, markers are usually values of their own. They are replaced here
    because the model was trained on CSV files, in which they stand for missing values.
    """
    column = source.columns[name]
    if column.marker_count:
        rows = "1 row" if column.marker_count == 1 else f"{column.marker_count} rows"
        text = (
            f"words such as NA in the column '{name}' of {source.name} are read as missing"
            f" values, as in the training data. They occur in {rows}."
        )
        source.notes.append(Note(text, column=name))
    values = null_if_missing(column.values, text_format, is_text_column=True)
    source.columns[name] = Column(TEXT, values)


def _parse_parquet_text(
    source: Source, name: str, expected: ColumnSchema, options: ReadOptions
) -> None:
    """Parse a text column of a Parquet file, for which the schema expects another type.

    The column is rejected if not all of its values can be parsed.
    """
    text = source.columns[name].values
    # This tries only types that can be converted to the expected type. They follow from the
    # schema, which is in `options.roles`. If none of them fits, the column stays text.
    column = infer_text_column(source.frame, name, text, options)
    if column.type != TEXT:
        source.columns[name] = column
        return
    filled_text = null_if_missing(text, options.text_format)
    example = _find_unreadable_value(source, filled_text, expected, options.text_format)
    problem = (
        f"{source.name}, row {example.row + 1}: the column '{name}' must hold"
        f" {KINDS[expected.type]}, as in the training data, but holds '{example.value}'."
    )
    _reject_column(source, name, expected, problem, example.fix)


def _reject_other_type(source: Source, name: str, expected: ColumnSchema) -> None:
    """Reject a column whose type cannot be converted to the expected type."""
    column = source.columns[name]
    first_value = _get_first_value(source, column)
    problem = (
        f"{source.name}: the column '{name}' must hold {KINDS[expected.type]}, as in the"
        f" training data, but holds {_name_kind(column)}, for example {first_value}."
    )
    _reject_column(source, name, expected, problem)


# Numbers, dates and booleans where the training data held text


def _spell_as_categories(
    source: Source, name: str, expected: ColumnSchema, text_format: TextFormat
) -> None:
    """Convert numbers, dates or booleans to the text that the training data had for them.

    For example, the number 7 becomes "007" if the training data has the category "007". The
    column is rejected if it is not clear how the training data spelled the values.
    """
    column = source.columns[name]
    category_by_value = _list_categories_by_value(column, expected, text_format)
    if not category_by_value:
        first_value = _get_first_value(source, column)
        problem = (
            f"{source.name}: the column '{name}' holds {_name_kind(column)}, for example"
            f" {first_value}, but the training data holds text. It is not clear how this"
            " text would spell these values: save the column as text."
        )
        _reject_column(source, name, expected, problem)
        return

    seen_values = pl.Series(list(category_by_value), dtype=column.type)
    categories = pl.Series(list(category_by_value.values()), dtype=pl.String)
    _note_unseen_values(source, name, seen_values)
    # Values that are new to the model become text that is none of its categories. The model
    # treats this text as a missing value.
    text = column.values.replace_strict(
        seen_values,
        categories,
        default=column.values.cast(pl.String),
        return_dtype=pl.String,
    )
    source.columns[name] = Column(TEXT, text)


def _note_unseen_values(source: Source, name: str, seen_values: pl.Series) -> None:
    """Add a note to the source if a column holds values that the training data lacks.

    `seen_values` are the values that the training data has.
    """
    values = source.columns[name].values
    # `implode` makes one list of the seen values, so each value is compared with all of them.
    is_unseen = ~values.is_in(seen_values.implode())
    # Only unseen values are counted: all others become null, which `count_values` skips.
    unseen_values = pl.when(is_unseen).then(values)
    (unseen_count,) = count_values(source.frame, [unseen_values])
    if not unseen_count:
        return
    rows = "1 row" if unseen_count == 1 else f"{unseen_count} rows"
    text = (
        f"in {rows}, the column '{name}' of {source.name} holds values that the training"
        " data does not have: the model treats them as missing values."
    )
    source.notes.append(Note(text, column=name))


def _list_categories_by_value(
    column: Column, expected: ColumnSchema, text_format: TextFormat
) -> dict[object, str]:
    """Return, for each value, the category with which the training data spelled the value.

    For example, returns {7: "007"}. Returns an empty dictionary if the spelling is not
    clear, because the schema does not list the categories, or because two categories such
    as "7" and "007" stand for the same value.
    """
    if expected.categories is None:
        return {}
    # Values of other types, such as lists, cannot be spelled as text.
    if column.type is None or column.type not in KINDS:
        return {}
    categories = pl.Series(expected.categories, dtype=pl.String)
    values = _parse_categories(categories, column.type, text_format)
    category_by_value: dict[object, str] = {}
    for value, category in zip(values, categories):
        if value is None:
            continue
        if value in category_by_value:
            # Two categories stand for this value.
            return {}
        category_by_value[value] = category
    return category_by_value


def _parse_categories(
    categories: pl.Series, dtype: pl.DataType, text_format: TextFormat
) -> pl.Series:
    """Parse categories as values of a type. Those that cannot be parsed become null."""
    text = pl.col("text")
    values = parse_as_type(text, dtype, text_format)
    if dtype in (INTEGER, NUMBER):
        # A code such as 007 is not parsed as a number. But the program that wrote the new
        # data may have stored it as the number 7.
        values = pl.coalesce(values, text.cast(dtype, strict=False))
    return categories.to_frame("text").select(values).to_series()


# Rejecting columns


def _reject_column(
    source: Source, name: str, expected: ColumnSchema, problem: str, fix: str = ""
) -> None:
    """Report or leave out a column that does not fit the schema.

    - If the model needs the column, the sentences `problem` and `fix` are added to the
      `schema_problems` of the source.
    - Otherwise the column is removed from the source, and a note says so.
    """
    sentences = join_sentences(problem, fix)
    if expected.is_needed:
        source.schema_problems.append(sentences)
        source.columns[name].is_rejected = True
        return
    consequence = "The column is left out, because it is not a feature of the model."
    source.notes.append(Note(join_sentences(sentences, consequence), column=name))
    del source.columns[name]


def _name_kind(column: Column) -> str:
    """Return what the values of a column are called in messages, such as "numbers"."""
    if column.type is None or column.type not in KINDS:
        return f"values of type {column.type}"
    return KINDS[column.type]


def _get_first_value(source: Source, column: Column) -> object:
    """Return the first value of a column that is not missing."""
    values = source.frame.select(column.values.drop_nulls().head(1))
    return values.collect(engine="streaming").item()


# Checks of all files


def check_against_schema(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[Note]:
    """Check all files of new data against the schema, after they have been opened.

    Columns that the model does not need and that do not fit are removed from the sources.
    `names` are the columns of all files. Returns notes on features that some files lack.
    Raises a DataError that lists all problems of columns that the model needs.
    """
    missing = _find_missing_columns(sources, names, roles)
    problems = list(missing.problems)
    for source in sources:
        # Opening the file has already filled its `schema_problems`. These checks add to
        # them. They come last, because the columns of folders are added after opening.
        _reject_numbers_for_booleans(source, roles)
        _reject_folder_text(source, roles)
        problems += source.schema_problems
    if problems:
        raise _create_problems_error(problems)
    return missing.notes


def _create_problems_error(problems: list[str]) -> DataError:
    """Return an error that lists the problems, or the first ones if there are many."""
    if len(problems) == 1:
        return DataError(problems[0])
    listed = "\n".join(problems[:SHOWN_PROBLEMS])
    hidden_count = len(problems) - SHOWN_PROBLEMS
    if hidden_count > 0:
        listed += f"\nand {hidden_count} more."
    return DataError(f"The new data does not fit the model's training data:\n{listed}")


@dataclass
class MissingColumns:
    """Problems with columns that files must have, and notes on columns that some lack."""

    problems: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add_problem(self, problem: str, source: Source, hint: str) -> None:
        """Add the sentence that a file lacks a column, and a hint, which may be "".

        The first problem also lists the columns that the file has.
        """
        existing_columns = ""
        if not self.problems:
            existing_columns = f"It has {show_text(', '.join(source.columns))}."
        self.problems.append(join_sentences(problem, existing_columns, hint))


def _find_missing_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> MissingColumns:
    """Find the keys and the features of the model that files lack.

    Every file must have the keys. A feature may be missing in some files, which is noted,
    but not in all of them.
    """
    missing = MissingColumns()
    _add_missing_keys(missing, sources, names, roles)
    _add_missing_features(missing, sources, names, roles)
    return missing


def _add_missing_keys(
    missing: MissingColumns, sources: list[Source], names: list[str], roles: ColumnRoles
) -> None:
    """Add a problem to `missing` for each key of the model that a file lacks."""
    for key in roles.keys:
        files_without_key = _list_files_without(key, sources)
        if files_without_key:
            first_file = files_without_key[0]
            problem = f"{first_file.name} has no column '{key}', a key of the model."
            hint = suggest_similar_name(key, names)
            missing.add_problem(problem, source=first_file, hint=hint)


def _add_missing_features(
    missing: MissingColumns, sources: list[Source], names: list[str], roles: ColumnRoles
) -> None:
    """Add a problem or a note to `missing` for each feature of the model that files lack.

    If all files lack a feature, this is a problem. If only some files do, a note is enough.
    """
    assert roles.model_columns is not None
    for name, expected in roles.model_columns.items():
        files_without_column = _list_files_without(name, sources)
        if not files_without_column or not expected.is_needed:
            continue
        first_file = files_without_column[0]
        if len(files_without_column) == len(sources):
            # The final message may list the columns of one file, so only the first file is
            # named.
            problem = (
                f"{first_file.name} has no column '{name}', which the model needs."
            )
            hint = suggest_similar_name(name, names)
            missing.add_problem(problem, source=first_file, hint=hint)
        else:
            text = (
                f"{first_file.name} has no column '{name}': its rows count as rows without"
                " a value in this column."
            )
            missing.notes.append(Note(text, column=name))


def _list_files_without(name: str, sources: list[Source]) -> list[Source]:
    """Return the files that do not have a column."""
    return [source for source in sources if name not in source.columns]


def _reject_numbers_for_booleans(source: Source, roles: ColumnRoles) -> None:
    """Reject number columns that must hold booleans, but have numbers other than 0 and 1.

    The schema of the model says which columns must hold booleans.
    """
    for name, column in list(source.columns.items()):
        expected = roles.get_expected_column(name)
        if expected is None or expected.type != BOOLEAN or column.is_rejected:
            continue
        if column.type not in (INTEGER, NUMBER):
            continue
        numbers = source.frame.select(number=column.values)
        other_numbers = numbers.filter(~pl.col("number").is_in([0, 1]))
        first_other = other_numbers.head(1).collect(engine="streaming")
        if not first_other.is_empty():
            problem = (
                f"{source.name}: the column '{name}' must hold true or false, as in the"
                f" training data, or 1 or 0, but holds {first_other.item()}."
            )
            _reject_column(source, name, expected, problem)


def _reject_folder_text(source: Source, roles: ColumnRoles) -> None:
    """Reject text from folder names if the schema expects another type.

    For example, the folder `year=old` gives the column `year` text instead of numbers.
    """
    for name, column in list(source.columns.items()):
        if not column.is_from_folder or column.type != TEXT:
            continue
        expected = roles.get_expected_column(name)
        if expected is None or expected.type == TEXT:
            continue
        value = _get_first_value(source, column)
        problem = (
            f"{source.name}: the column '{name}' must hold {KINDS[expected.type]}, as in"
            f" the training data, but the name of the folder '{name}={value}' gives it the"
            f" value '{value}'."
        )
        _reject_column(source, name, expected, problem)
