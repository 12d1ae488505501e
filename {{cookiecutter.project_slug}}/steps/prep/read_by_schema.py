"""Read new data by the schema of the model that will score it.

A column is converted to the type that the schema expects, if its values allow that.
Otherwise the column is rejected. If the model needs it, a sentence about it is added to
the `schema_problems` of its file, and one error lists the problems of all files. If the
model does not need it, the column is left out, with a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
from csv_file import CsvFile
from date_formats import find_certain_format
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

SAMPLED_VALUES = 1_000
SHOWN_PROBLEMS = 20
SHOWN_CHARACTERS = 40  # of a value in a message
# What a value of a type is, in messages.
KINDS: dict[pl.DataType | None, str] = {
    INTEGER: "a number",
    NUMBER: "a number",
    BOOLEAN: "true or false",
    DATE: "a date",
    TIMESTAMP: "a time",
    TEXT: "text",
}


# Columns of CSV files


def reject_unreadable_text(source: Source, file: CsvFile, options: ReadOptions) -> None:
    """Reject the text columns of a CSV file for which the schema expects another type.

    The message names the first value that does not fit the schema, and its line.
    """
    for name, column in list(source.columns.items()):
        expected = options.roles.get_expected_column(name)
        if expected is None or expected.type == TEXT or column.type != TEXT:
            continue
        # All columns of CSV files have a text.
        assert column.csv_text is not None
        text = null_if_missing(column.csv_text, options.text_format)
        example = _find_unreadable_value(source, text, expected, options.text_format)
        line = file.find_line(example.row)
        problem = (
            f"{source.name}, line {line}: '{example.value}' in the column '{name}' is not"
            f" {KINDS[expected.type]}, as the model needs."
        )
        _reject_column(source, name, expected, problem, example.fix)


@dataclass(frozen=True)
class UnreadableValue:
    """A text that cannot be read as the type that the schema expects, and how to fix it.

    `row` is its row, counted from 0.
    """

    row: int
    value: str
    fix: str


def _find_unreadable_value(
    source: Source, text: pl.Expr, expected: ColumnSchema, text_format: TextFormat
) -> UnreadableValue:
    """Find a value of a column that cannot be read as the expected type."""
    # Fractions are accepted where the schema expects integers, see `choose_types`.
    dtype = NUMBER if expected.type == INTEGER else expected.type
    is_unreadable = parse_as_type(text, dtype, text_format).is_null()
    rows = source.frame.select(text=text, is_unreadable=is_unreadable)
    filled_rows = rows.with_row_index("row").drop_nulls("text")
    first_rows = filled_rows.head(SAMPLED_VALUES).collect(engine="streaming")
    unreadable_rows = (
        filled_rows.filter("is_unreadable")
        .head(SAMPLED_VALUES)
        .collect(engine="streaming")
    )
    if unreadable_rows.is_empty():
        # Each value can be read, but they are of several types, such as 1 and true.
        unreadable_rows = first_rows.head(1)

    position = _choose_example(unreadable_rows["text"])
    return UnreadableValue(
        row=unreadable_rows["row"][position],
        value=unreadable_rows["text"][position][:SHOWN_CHARACTERS],
        fix=_suggest_fix(first_rows["text"], text_format),
    )


def _choose_example(values: pl.Series) -> int:
    """Return the position of the first value that is not a date, or 0 if all are dates.

    A date is often right, and only its format has to be set. So it is a bad example.
    """
    for position, value in enumerate(values):
        if find_certain_format(value) is None:
            return position
    return 0


def _suggest_fix(values: pl.Series, text_format: TextFormat) -> str:
    """Return a sentence on how to fix text that does not fit: by settings, or by hand."""
    settings = suggest_settings(values, text_format)
    if settings:
        return f"If the file is written that way, write {settings} in settings.yml."
    return "Correct it, or write it in data.missing in settings.yml."


# Columns of Parquet files


def convert_parquet_columns(source: Source, options: ReadOptions) -> None:
    """Convert the columns of a Parquet file to the types of the schema, or reject them."""
    for name, column in list(source.columns.items()):
        expected = options.roles.get_expected_column(name)
        if expected is None or column.type is None:
            continue
        if column.type == TEXT and expected.type == TEXT:
            if expected.markers_are_missing:
                _drop_missing_words(source, name, options.text_format)
        elif column.type == TEXT:
            _parse_parquet_text(source, name, expected, options)
        elif expected.type == TEXT:
            _spell_as_categories(source, name, expected, options.text_format)
        elif column.type not in READABLE_TYPES[expected.type]:
            _reject_other_type(source, name, expected)


def _drop_missing_words(source: Source, name: str, text_format: TextFormat) -> None:
    """Replace words such as NA in a column of a Parquet file by null, with a note.

    Such words are usually values in Parquet files. But the training data came from CSV
    files, in which they were missing values.
    """
    column = source.columns[name]
    if column.marker_count:
        text = (
            f"words such as NA in the column '{name}' of {source.name} are read as missing"
            f" values, as in the training data ({column.marker_count} rows)."
        )
        source.notes.append(Note(text, column=name))
    values = null_if_missing(column.values, text_format, in_text=True)
    source.columns[name] = Column(TEXT, values)


def _parse_parquet_text(
    source: Source, name: str, expected: ColumnSchema, options: ReadOptions
) -> None:
    """Parse a text column by the first type that fits all of its values.

    The column is rejected if no type but text fits.
    """
    text = source.columns[name].values
    column = infer_text_column(source.frame, name, text, options)
    if column.type != TEXT:
        source.columns[name] = column
        return
    not_missing = null_if_missing(text, options.text_format)
    example = _find_unreadable_value(source, not_missing, expected, options.text_format)
    problem = (
        f"{source.name}, row {example.row + 1}: '{example.value}' in the column '{name}'"
        f" is not {KINDS[expected.type]}, as the model needs."
    )
    _reject_column(source, name, expected, problem, example.fix)


def _reject_other_type(source: Source, name: str, expected: ColumnSchema) -> None:
    """Reject a column whose type cannot be converted to the expected one."""
    column = source.columns[name]
    first_value = _get_first_value(source, column)
    problem = (
        f"{source.name}: the column '{name}' holds {_name_kind(column)} ({first_value}),"
        f" where the model needs {KINDS[expected.type]}."
    )
    _reject_column(source, name, expected, problem)


# Numbers, dates and booleans where the training data held text


def _spell_as_categories(
    source: Source, name: str, expected: ColumnSchema, text_format: TextFormat
) -> None:
    """Convert numbers, dates or booleans to the categories of the training data.

    For example, the number 7 becomes "007" if the training data spelled it so. The column
    is rejected if it is not certain how the training data spelled each value.
    """
    column = source.columns[name]
    spelling_by_value = _list_spellings(column, expected, text_format)
    if not spelling_by_value:
        first_value = _get_first_value(source, column)
        problem = (
            f"{source.name}: the column '{name}' holds {_name_kind(column)}"
            f" ({first_value}), where the training data holds text, which may be spelled"
            " in several ways: save the column as text."
        )
        _reject_column(source, name, expected, problem)
        return

    seen_values = pl.Series(list(spelling_by_value), dtype=column.type)
    spellings = pl.Series(list(spelling_by_value.values()), dtype=pl.String)
    _note_unseen_values(source, name, seen_values)
    # The model treats unseen values as a category that it does not know.
    text = column.values.replace_strict(
        seen_values,
        spellings,
        default=column.values.cast(pl.String),
        return_dtype=pl.String,
    )
    source.columns[name] = Column(TEXT, text)


def _note_unseen_values(source: Source, name: str, seen_values: pl.Series) -> None:
    """Add a note to the source if a column holds values that were not seen in training."""
    values = source.columns[name].values
    is_unseen = ~values.is_in(seen_values.implode())
    unseen_values = pl.when(is_unseen).then(values)
    (unseen_count,) = count_values(source.frame, [unseen_values])
    if not unseen_count:
        return
    text = (
        f"the column '{name}' of {source.name} holds values that the training data does"
        f" not have as text ({unseen_count}): they count as missing."
    )
    source.notes.append(Note(text, column=name))


def _list_spellings(
    column: Column, expected: ColumnSchema, text_format: TextFormat
) -> dict[object, str]:
    """Return how the training data spelled each value, such as 7 by the category "007".

    Returns an empty dictionary if the schema does not list the categories, or if two of
    them spell the same value, such as "7" and "007".
    """
    if expected.categories is None or column.type is None or column.type not in KINDS:
        return {}
    categories = pl.Series(expected.categories, dtype=pl.String)
    values = _parse_categories(categories, column.type, text_format)
    spelling_by_value: dict[object, str] = {}
    for value, category in zip(values, categories):
        if value is None:
            continue
        if value in spelling_by_value:
            return {}
        spelling_by_value[value] = category
    return spelling_by_value


def _parse_categories(
    categories: pl.Series, dtype: pl.DataType, text_format: TextFormat
) -> pl.Series:
    """Parse categories as values of a type; null where a category cannot be parsed."""
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
    """Reject a column that does not fit the schema.

    If the model needs the column, the problem is added to the `schema_problems`.
    Otherwise the column is removed, with a note.
    """
    text = join_sentences(problem, fix)
    if expected.is_needed:
        source.schema_problems.append(text)
        source.columns[name].is_rejected = True
        return
    left_out = "The column is left out, because it is not a feature of the model."
    source.notes.append(Note(join_sentences(text, left_out), column=name))
    del source.columns[name]


def _name_kind(column: Column) -> str:
    """Return what the values of a column are, such as "a number", for a message."""
    return KINDS.get(column.type, str(column.type))


def _get_first_value(source: Source, column: Column) -> object:
    """Return the first value of a column that is not missing."""
    values = source.frame.select(column.values.drop_nulls().head(1))
    return values.collect(engine="streaming").item()


# Checks of all files


def check_against_schema(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[Note]:
    """Reject the columns that do not fit the schema, after all files have been opened.

    `names` are the columns of all files. Returns notes on features that some files lack.
    Raises DataError that lists all problems of the columns that the model needs.
    """
    missing = _find_missing_columns(sources, names, roles)
    problems = list(missing.problems)
    for source in sources:
        _reject_other_numbers(source, roles)
        _reject_text_of_folders(source, roles)
        problems += source.schema_problems
    if problems:
        raise _explain_problems(problems)
    return missing.notes


def _explain_problems(problems: list[str]) -> DataError:
    """Return an error that lists the problems, or the first ones if there are many."""
    if len(problems) == 1:
        return DataError(problems[0])
    listed = "\n".join(problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    if more > 0:
        listed += f"\nand {more} more."
    return DataError(f"The new data does not fit the model's training data:\n{listed}")


@dataclass
class MissingColumns:
    """Problems with required columns that are missing, and notes on optional ones."""

    problems: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add_problem(self, problem: str, source: Source, hint: str) -> None:
        """Add the sentence that a file lacks a column, and a hint.

        The first problem also lists the columns of its file.
        """
        listed = ""
        if not self.problems:
            listed = f"It has {show_text(', '.join(source.columns))}."
        self.problems.append(join_sentences(problem, listed, hint))


def _find_missing_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> MissingColumns:
    """Find the keys and the features of the model that the files lack.

    Every file must have the keys. A feature may be missing in some files, but not in all
    of them.
    """
    assert roles.model_columns is not None
    missing = MissingColumns()
    for key in roles.keys:
        lacking = _list_files_without(key, sources)
        if lacking:
            problem = f"{lacking[0].name} has no column '{key}', a key of the model."
            missing.add_problem(problem, lacking[0], suggest_similar_name(key, names))

    for name, expected in roles.model_columns.items():
        lacking = _list_files_without(name, sources)
        if not expected.is_needed or not lacking:
            continue
        first_file = lacking[0].name
        if len(lacking) == len(sources):
            problem = f"{first_file} has no column '{name}', which the model needs."
            missing.add_problem(problem, lacking[0], suggest_similar_name(name, names))
        else:
            text = f"{first_file} has no column '{name}': it is missing in its rows."
            missing.notes.append(Note(text, column=name))
    return missing


def _list_files_without(name: str, sources: list[Source]) -> list[Source]:
    """Return the files that do not have a column."""
    return [source for source in sources if name not in source.columns]


def _reject_other_numbers(source: Source, roles: ColumnRoles) -> None:
    """Reject columns with numbers other than 0 and 1 where the schema expects booleans."""
    for name, column in list(source.columns.items()):
        expected = roles.get_expected_column(name)
        if expected is None or expected.type != BOOLEAN or column.is_rejected:
            continue
        if column.type not in (INTEGER, NUMBER):
            continue
        values = source.frame.select(values=column.values)
        other_numbers = values.filter(~pl.col("values").is_in([0, 1]))
        first = other_numbers.head(1).collect(engine="streaming")
        if not first.is_empty():
            problem = (
                f"{source.name}: {first.item()} in the column '{name}' is not true or"
                " false, as the model needs."
            )
            _reject_column(source, name, expected, problem)


def _reject_text_of_folders(source: Source, roles: ColumnRoles) -> None:
    """Reject folders such as `year=old` where the schema expects a number."""
    for name, column in list(source.columns.items()):
        expected = roles.get_expected_column(name)
        if expected is None or expected.type == TEXT:
            continue
        if not column.is_from_folder or column.type != TEXT:
            continue
        value = _get_first_value(source, column)
        problem = (
            f"{source.name}: '{value}' in its folder '{name}={value}' is not"
            f" {KINDS[expected.type]}, as the model needs."
        )
        _reject_column(source, name, expected, problem)
