"""Reading new data by the schema of the model that will score it.

A column of a type that can be read as the schema's is converted. Whatever does not fit is
collected from all files, so that one message lists it.
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
    """Note for each column of a CSV file the first value that does not fit the schema.

    The notes go to the `misfits` of the source, or to its notes if no model needs them.
    """
    for name, column in list(source.columns.items()):
        schema = roles.get_schema(name)
        if schema is None or schema.type == TEXT or column.type != TEXT:
            continue
        assert column.text is not None
        text = null_if_missing(column.text, text_format)
        misfit = _find_misfit(source, text, schema, text_format)
        # A row may span several lines, so its line is looked up in the file.
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
    """The first value of a column of text that does not fit, its row, and how to fix it."""

    row: int
    value: str
    fix: str


def _find_misfit(
    source: Source, text: pl.Expr, schema: ColumnSchema, text_format: TextFormat
) -> TextMisfit:
    """Find the first value that does not read as the type of the schema."""
    wanted = NUMBER if schema.type == INTEGER else schema.type
    is_odd = parse_as_type(text, wanted, text_format).is_null()
    filled = source.frame.select(text=text, is_odd=is_odd).with_row_index("row")
    filled = filled.drop_nulls("text")
    odd = filled.filter("is_odd").head(SAMPLED_VALUES).collect(engine="streaming")
    sample = filled.head(SAMPLED_VALUES).collect(engine="streaming")
    # If no value is odd, they are of several types, such as 1 and true.
    row, value, _ = (sample if odd.is_empty() else odd).row(0)
    for odd_row, odd_value, _ in odd.iter_rows():
        if find_certain_format(odd_value) is None:
            row, value = odd_row, odd_value
            break
    fix = _suggest_fix(sample.select("text"), text_format)
    return TextMisfit(row, value[:SHOWN_CHARACTERS], fix)


def _suggest_fix(sample: pl.DataFrame, text_format: TextFormat) -> str:
    """Return how text can be read that is not of the type that a model needs."""
    settings = suggest_settings(sample, text_format)
    if settings:
        return f"if the file is written so, write {settings} in settings.yml"
    return "correct it, or write it in data.missing in settings.yml"


def fit_parquet_columns(
    source: Source, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Read the columns of a Parquet file by the schema, where it asks for another type.

    Text is parsed as the text of a CSV file is. Numbers, dates and booleans become the
    categories that they are in the training data, such as 1 the category +1.
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
    """Read words such as NA in a Parquet file as missing values, and note it.

    They are values of Parquet files, but were missing values in the CSV training data.
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
    """Parse a column of text as the first type that reads all of its values."""
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
    """Read numbers, dates or booleans as the categories of the training data.

    A value that is no category stays what it is, as text: to the model, it is unseen.
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
    known = pl.Series(list(spellings), dtype=column.type)
    is_unseen = pl.when(~column.values.is_in(known.implode())).then(column.values)
    (unseen,) = count_values(source.frame, [is_unseen])
    if unseen:
        source.notes.append(
            f"the column '{name}' of {source.name} holds values that the training data"
            f" does not have as text ({unseen}): they count as missing."
        )
    text = column.values.replace_strict(
        known,
        pl.Series(list(spellings.values()), dtype=pl.String),
        default=column.values.cast(pl.String),
        return_dtype=pl.String,
    )
    source.columns[name] = Column(TEXT, text)


def _list_spellings(
    column: Column, schema: ColumnSchema, text_format: TextFormat
) -> dict[object, str]:
    """Return the category for each value of the column's type that one stands for.

    Returns an empty dictionary if the categories are not known, or if two of them stand
    for the same value.
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
    """Return categories as values of a type, null where they do not read as one."""
    text = pl.col("text")
    values = parse_as_type(text, type, text_format)
    if type in (INTEGER, NUMBER):
        # In a column of text, a code such as 007 is the number 7 in another program.
        values = pl.coalesce(values, text.cast(type, strict=False))
    return categories.to_frame("text").select(values).to_series()


def _add_misfit(source: Source, name: str, schema: ColumnSchema, sentence: str) -> None:
    """Add a sentence to the misfits; a column that no model needs is left out instead.

    A column that does not fit has no type any more.
    """
    if schema.is_needed:
        source.misfits.append(f"{sentence}.")
        source.columns[name].type = None
    else:
        source.notes.append(f"{sentence}. It is left out, as it is no feature.")
        del source.columns[name]


def _name_kind(column: Column) -> str:
    """Return what the values of a column are, for a message."""
    return KINDS.get(column.type, str(column.type))


def _get_first_value(source: Source, column: Column) -> object:
    """Return the first value of a column."""
    values = source.frame.select(column.values.drop_nulls().head(1))
    return values.collect(engine="streaming").item()


def check_schema(sources: list[Source], names: list[str], roles: ColumnRoles) -> None:
    """Raise DataError with all that does not fit the schema, if anything does not."""
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
    """Return a sentence for each key and each feature of the model that is missing.

    A feature may be missing in some files, which is noted, but not in all. `names` are
    the columns of all files, of which the most similar one is proposed.
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
        # The misfits of columns of files have been found before, and have no type.
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
