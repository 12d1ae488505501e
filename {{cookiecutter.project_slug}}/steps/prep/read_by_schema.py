"""Read new data by the schema of the model that will score it.

A column is converted to the type of the schema if its values allow that. Otherwise, the
sentence that describes the value or the column that does not fit is called a misfit. The
misfits of all files are collected, so that one message can list them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import polars as pl
from advice import SAMPLED_VALUES, suggest_name, suggest_settings
from csv_dialect import CsvFile
from date_formats import find_certain_format
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
    Source,
    count_values,
)
from text_values import TextFormat, null_if_missing, parse_as_type
from type_inference import infer_text_column

SHOWN_MISFITS = 20
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


def find_csv_misfits(
    source: Source, file: CsvFile, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Find the first value that does not fit the schema, in each column of a CSV file.

    A sentence on it is added to the `misfits` of the source. If the model does not need
    the column, the sentence is added to the notes instead.
    """
    for name, column in list(source.columns.items()):
        schema = roles.get_schema(name)
        if schema is None or schema.type == TEXT or column.type != TEXT:
            continue
        # The schema asks for another type, but some value could only be read as text.
        assert column.text is not None
        text = null_if_missing(column.text, text_format)
        misfit = _find_misfit(source, text, schema, text_format)
        # A value may span several lines, so the row's line is looked up in the file.
        line, _ = next(islice(file.rows(), misfit.row, None), (misfit.row, []))
        _add_misfit(
            source,
            name,
            schema,
            f"{source.name}, line {line}: '{misfit.value}' in the column '{name}' is not"
            f" {KINDS[schema.type]}, as the model needs: {misfit.fix}",
        )


@dataclass(frozen=True)
class TextMisfit:
    """A value of a column of text that does not fit the schema, and how to fix it.

    `row` is its row, counted from 0.
    """

    row: int
    value: str
    fix: str


def _find_misfit(
    source: Source, text: pl.Expr, schema: ColumnSchema, text_format: TextFormat
) -> TextMisfit:
    """Find the value of a column of text that best shows why it does not fit the schema.

    This is the first value that can be parsed neither as the type of the schema nor as a
    date in a format that is certain. If there is none, it is the first value that cannot
    be parsed as the type of the schema.
    """
    # Fractions are accepted where the schema asks for integers, see `_fit_type`.
    type = NUMBER if schema.type == INTEGER else schema.type
    is_unreadable = parse_as_type(text, type, text_format).is_null()
    rows = source.frame.select(text=text, is_unreadable=is_unreadable)
    filled = rows.with_row_index("row").drop_nulls("text")
    sample = filled.head(SAMPLED_VALUES).collect(engine="streaming")
    unreadable = filled.filter("is_unreadable").head(SAMPLED_VALUES)
    candidates = unreadable.collect(engine="streaming")
    if candidates.is_empty():
        # Each value can be parsed, but they are of several types, such as 1 and true.
        candidates = sample.head(1)

    row, value, _ = candidates.row(0)
    for candidate_row, candidate_value, _ in candidates.iter_rows():
        # A date in another format is often right, and only its format has to be set.
        if find_certain_format(candidate_value) is None:
            row = candidate_row
            value = candidate_value
            break
    fix = _suggest_fix(sample.select("text"), text_format)
    return TextMisfit(row, value[:SHOWN_CHARACTERS], fix)


def _suggest_fix(sample: pl.DataFrame, text_format: TextFormat) -> str:
    """Return advice on values of text that do not fit: settings, or a correction."""
    settings = suggest_settings(sample, text_format)
    if settings:
        return f"if the file is written so, write {settings} in settings.yml"
    return "correct it, or write it in data.missing in settings.yml"


def fit_parquet_columns(
    source: Source, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Convert the columns of a Parquet file to the types of the schema.

    - Text is parsed in the same way as the text of a CSV file.
    - Where the schema asks for text, numbers, dates and booleans become the categories of
      the training data: the number 1 becomes "+1" if it was written so there.
    - Columns that cannot be converted are added to the misfits of the source.
    """
    for name, column in list(source.columns.items()):
        schema = roles.get_schema(name)
        if schema is None or column.type is None:
            continue
        if schema.type == TEXT and column.type == TEXT:
            if schema.words_are_missing:
                _drop_missing_words(source, name, text_format)
        elif schema.type == TEXT:
            _spell_as_categories(source, name, schema, text_format)
        elif column.type == TEXT:
            _parse_parquet_text(source, name, schema, text_format, roles)
        elif column.type not in READABLE_TYPES[schema.type]:
            first = _get_first_value(source, column)
            _add_misfit(
                source,
                name,
                schema,
                f"{source.name}: the column '{name}' holds {_name_kind(column)} ({first}),"
                f" where the model needs {KINDS[schema.type]}",
            )


def _drop_missing_words(source: Source, name: str, text_format: TextFormat) -> None:
    """Make words such as NA in a column of a Parquet file missing values, and note it.

    In Parquet files such words are usually values, but the training data came from CSV
    files, in which they were missing values.
    """
    column = source.columns[name]
    if column.missing_words:
        source.notes.append(
            f"words such as NA in the column '{name}' of {source.name} are read as missing"
            f" values, as in the training data ({column.missing_words} rows)."
        )
    values = null_if_missing(column.values, text_format, in_text=True)
    source.columns[name] = Column(TEXT, values)


def _parse_parquet_text(
    source: Source,
    name: str,
    schema: ColumnSchema,
    text_format: TextFormat,
    roles: ColumnRoles,
) -> None:
    """Parse a column of text by the first type that fits all of its values.

    If no type does, a value that does not fit is added to the misfits.
    """
    text = source.columns[name].values
    column = infer_text_column(source.frame, name, text, text_format, roles)
    if column.type != TEXT:
        source.columns[name] = column
        return
    misfit = _find_misfit(
        source, null_if_missing(text, text_format), schema, text_format
    )
    _add_misfit(
        source,
        name,
        schema,
        f"{source.name}, row {misfit.row + 1}: '{misfit.value}' in the column '{name}' is"
        f" not {KINDS[schema.type]}, as the model needs: {misfit.fix}",
    )


def _spell_as_categories(
    source: Source, name: str, schema: ColumnSchema, text_format: TextFormat
) -> None:
    """Convert numbers, dates or booleans to the categories of the training data.

    A value that is not among the categories is converted to text as it is. The model
    treats it as a category that it has not seen.
    """
    column = source.columns[name]
    spellings = _list_spellings(column, schema, text_format)
    if not spellings:
        first = _get_first_value(source, column)
        _add_misfit(
            source,
            name,
            schema,
            f"{source.name}: the column '{name}' holds {_name_kind(column)} ({first}),"
            " where the training data holds text, which may be spelled in several ways:"
            " save the column as text",
        )
        return
    spelled_values = pl.Series(list(spellings), dtype=column.type)
    is_unseen = ~column.values.is_in(spelled_values.implode())
    unseen_values = pl.when(is_unseen).then(column.values)
    (unseen_count,) = count_values(source.frame, [unseen_values])
    if unseen_count:
        source.notes.append(
            f"the column '{name}' of {source.name} holds values that the training data"
            f" does not have as text ({unseen_count}): they count as missing."
        )
    text = column.values.replace_strict(
        spelled_values,
        pl.Series(list(spellings.values()), dtype=pl.String),
        default=column.values.cast(pl.String),
        return_dtype=pl.String,
    )
    source.columns[name] = Column(TEXT, text)


def _list_spellings(
    column: Column, schema: ColumnSchema, text_format: TextFormat
) -> dict[object, str]:
    """Return how the training data spelled each value, such as 7 by the category "007".

    Returns an empty dictionary if the schema does not list the categories, or if two of
    them spell the same value, such as "7" and "007".
    """
    if schema.categories is None or column.type is None or column.type not in KINDS:
        return {}
    categories = pl.Series(schema.categories, dtype=pl.String)
    spellings: dict[object, str] = {}
    for value, category in zip(
        _read_categories(categories, column.type, text_format), categories
    ):
        if value is None:
            continue
        if value in spellings:
            return {}
        spellings[value] = category
    return spellings


def _read_categories(
    categories: pl.Series, type: pl.DataType, text_format: TextFormat
) -> pl.Series:
    """Parse categories as values of a type; null where a category cannot be parsed."""
    text = pl.col("text")
    values = parse_as_type(text, type, text_format)
    if type in (INTEGER, NUMBER):
        # 007 is parsed as a code, not as a number. But the program that wrote the new
        # data may have stored it as the number 7.
        values = pl.coalesce(values, text.cast(type, strict=False))
    return categories.to_frame("text").select(values).to_series()


def _add_misfit(source: Source, name: str, schema: ColumnSchema, sentence: str) -> None:
    """Add a sentence on a column that does not fit to the misfits, and remove its type.

    If the model does not need the column, it is removed, and the sentence becomes a note.
    """
    if schema.is_needed:
        source.misfits.append(f"{sentence}.")
        source.columns[name].type = None
    else:
        source.notes.append(f"{sentence}. It is left out, as it is no feature.")
        del source.columns[name]


def _name_kind(column: Column) -> str:
    """Return what the values of a column are, such as "a number", for a message."""
    return KINDS.get(column.type, str(column.type))


def _get_first_value(source: Source, column: Column) -> object:
    """Return the first value of a column that is not missing."""
    values = source.frame.select(column.values.drop_nulls().head(1))
    return values.collect(engine="streaming").item()


def check_schema(sources: list[Source], names: list[str], roles: ColumnRoles) -> None:
    """Check that all files fit the schema. Raises DataError that lists the misfits."""
    problems = _find_missing_columns(sources, names, roles)
    for source in sources:
        _check_booleans(source, roles)
        _check_folders(source, roles)
        problems += source.misfits
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(problems[0])
    listed = "\n".join(problems[:SHOWN_MISFITS])
    more = len(problems) - SHOWN_MISFITS
    if more > 0:
        listed += f"\nand {more} more."
    raise DataError(f"The new data does not fit the model's training data:\n{listed}")


def _find_missing_columns(
    sources: list[Source], names: list[str], roles: ColumnRoles
) -> list[str]:
    """Return a sentence for each column that the model needs and the files lack.

    Every file must have the keys. A feature may be missing in some files, which adds a
    note, but not in all of them. `names` are the columns of all files: the one with the
    most similar name is suggested.
    """
    assert roles.schema is not None
    problems = []
    for key in roles.keys:
        for source in sources:
            if key not in source.columns:
                problems.append(
                    f"{source.name} has no column '{key}', a key of the model"
                    f"{suggest_name(key, names) or '.'}"
                )
                break
    needed = [name for name, schema in roles.schema.items() if schema.is_needed]
    for name in needed:
        lacking = [source for source in sources if name not in source.columns]
        if len(lacking) == len(sources):
            problems.append(
                f"{sources[0].name} has no column '{name}', which the model needs"
                f"{suggest_name(name, names) or '.'}"
            )
        elif lacking:
            lacking[0].notes.append(
                f"{lacking[0].name} has no column '{name}': it is missing in its rows."
            )
    return problems


def _check_booleans(source: Source, roles: ColumnRoles) -> None:
    """Add misfits for numbers other than 0 and 1 where the schema asks for booleans."""
    for name, column in list(source.columns.items()):
        schema = roles.get_schema(name)
        if schema is None or schema.type != BOOLEAN:
            continue
        if column.type not in (INTEGER, NUMBER):
            continue
        others = source.frame.select(values=column.values).filter(
            ~pl.col("values").is_in([0, 1])
        )
        first = others.head(1).collect(engine="streaming")
        if not first.is_empty():
            _add_misfit(
                source,
                name,
                schema,
                f"{source.name}: {first.item()} in the column '{name}' is not true or"
                " false, as the model needs",
            )


def _check_folders(source: Source, roles: ColumnRoles) -> None:
    """Add misfits for folders such as `year=old` where the schema asks for a number."""
    for name, column in list(source.columns.items()):
        schema = roles.get_schema(name)
        # Columns that are in the files were checked before: if they do not fit, they
        # have no type any more. So a column that still is text comes from a folder.
        if schema is None or schema.type == TEXT or column.type != TEXT:
            continue
        value = _get_first_value(source, column)
        _add_misfit(
            source,
            name,
            schema,
            f"{source.name}: '{value}' in its folder '{name}={value}' is not"
            f" {KINDS[schema.type]}, as the model needs",
        )
