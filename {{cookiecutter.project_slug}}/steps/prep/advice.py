"""Notes to the user on what one might not expect of the data, and which setting helps."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import polars as pl
from csv_dialect import CsvFile
from sources import (
    FIRST_ROWS,
    TEXT,
    Column,
    ColumnRoles,
    Source,
    count_values,
)
from text_values import (
    MISSING_WORDS,
    TextFormat,
    list_usual_readings,
    null_if_empty,
    null_if_missing,
    parse_text,
)

SAMPLED_VALUES = 1_000
# A sample that holds more than this share of codes, such as 007, is text on purpose.
MOST_CODES = 1 / 20
# Codes are digits behind a zero, or more digits than an integer of 64 bits can hold.
CODE_PATTERN = r"^[+-]?(0[0-9]+|[0-9]{19,})$"
SHOWN_CHARACTERS = 40  # of a value in a note
DATE_FORMATS = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y")
TIMESTAMP_FORMATS = tuple(
    f"{date_format} {time_format}"
    for date_format in DATE_FORMATS
    for time_format in ("%H:%M", "%H:%M:%S")
)
# The decimal marks and thousands separators that people write together.
NUMBER_MARKS = (
    (".", ""),
    (",", ""),
    (".", ","),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
)
# A unit before a number is a currency sign; one behind it may be a word, too.
UNIT_PATTERNS = (
    r"^[+-]?(\p{Sc})\s?\d",
    r"\d\s*(\p{Sc}|[%‰°]|[[:alpha:]]{2,4})$",
)


def suggest_name(name: str, candidates: list[str]) -> str:
    """Return a question whether the most similar candidate is meant, or nothing."""
    by_folded_name = {candidate.casefold(): candidate for candidate in candidates}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, 1)
    if not similar:
        return ""
    return f": did you mean '{by_folded_name[similar[0]]}'?"


def note_doubtful_text(
    source: Source, file: CsvFile, text_format: TextFormat, roles: ColumnRoles
) -> None:
    """Add notes on columns that are text, though most values read as another type."""
    texts = {
        name: null_if_missing(column.text, text_format)
        for name, column in source.columns.items()
        if column.type == TEXT
        and column.text is not None
        and name not in roles.keys
        and name not in roles.ignore
    }
    first_rows = (
        source.frame.head(FIRST_ROWS)
        .select(text.alias(str(i)) for i, text in enumerate(texts.values()))
        .collect(engine="streaming")
    )
    for first_values, (name, text) in zip(first_rows, texts.items()):
        filled = source.frame.select(text=text).with_row_index("row").drop_nulls("text")
        sample = first_values.drop_nulls().head(SAMPLED_VALUES).to_frame("text")
        if sample.is_empty():
            sample = filled.head(SAMPLED_VALUES).collect(engine="streaming")
        formats = _find_fitting_formats(sample, text_format)
        if not formats:
            continue
        odd = _find_odd_values(filled, text_format, file)
        if odd is None:
            # Numbers and dates stand beside each other: none of them is the odd one.
            continue
        if text_format in formats:
            (count,) = count_values(source.frame, [source.columns[name].values])
            source.notes.append(
                f"column '{name}' is text because of {odd.count} of {count} values:"
                f" '{odd.first_value}' in line {odd.line} of {source.name}: correct it,"
                " or write it in data.missing in settings.yml."
            )
        else:
            settings = _name_settings(text_format, formats)
            source.notes.append(
                f"column '{name}' is text, though most of it may be numbers or dates"
                f" ('{odd.first_value}' in line {odd.line} of {source.name}): if so,"
                f" write {settings} in settings.yml."
            )


def suggest_settings(sample: pl.DataFrame, text_format: TextFormat) -> str:
    """Return the settings by which most of the sampled values would be quantities.

    Returns an empty text if there are none, or if they need no other setting.
    """
    formats = _find_fitting_formats(sample, text_format)
    if text_format in formats:
        return ""
    return _name_settings(text_format, formats) if formats else ""


def _find_fitting_formats(
    sample: pl.DataFrame, text_format: TextFormat
) -> list[TextFormat]:
    """Return the formats in which most of the sampled values are quantities.

    Quantities are numbers, booleans, dates and timestamps. Several formats are returned
    if they read equally many values, that of settings.yml first if it is among them. The
    list is empty if fewer than half of the values are quantities in any format, or if
    the column holds codes, which are text on purpose.
    """
    values = sample["text"]
    half = len(values) / 2
    # Most columns of text end here, before the formats are tried, which takes longer.
    may_be_quantity = values.str.contains(r"(?i)\d|^(true|false)$")
    if may_be_quantity.sum() < half:
        return []
    is_code = values.str.contains(CODE_PATTERN)
    if is_code.sum() > len(values) * MOST_CODES:
        return []

    formats = list(
        dict.fromkeys([text_format, *_list_other_formats(sample, text_format)])
    )
    quantities_by_format = sample.select(
        _is_quantity(pl.col("text"), candidate).sum().alias(str(i))
        for i, candidate in enumerate(formats)
    ).row(0)
    most_quantities = max(quantities_by_format)
    if most_quantities == 0 or most_quantities < half:
        return []
    return [
        candidate
        for candidate, quantities in zip(formats, quantities_by_format)
        if quantities == most_quantities
    ]


@dataclass(frozen=True)
class OddValues:
    """The values of a column that are no quantities: their number, and the first one."""

    count: int
    first_value: str
    line: int


def _find_odd_values(
    filled: pl.LazyFrame, text_format: TextFormat, file: CsvFile
) -> OddValues | None:
    """Count the values that are no quantities, and find the line of the first one.

    `filled` has the columns `row` and `text`. Returns None if all are quantities.
    """
    odd = filled.filter(~_is_quantity(pl.col("text"), text_format))
    count = odd.select(pl.len()).collect(engine="streaming").item()
    if not count:
        return None
    row, value = odd.head(1).collect(engine="streaming").row(0)
    # A row may span several lines, so its line is looked up in the file.
    line, _ = next(islice(file.rows(), row, None), (row, []))
    return OddValues(count, value[:SHOWN_CHARACTERS], line)


def _is_quantity(text: pl.Expr, text_format: TextFormat) -> pl.Expr:
    """Return whether text reads as a number, a boolean, a date or a timestamp."""
    return pl.any_horizontal(
        parse_text(text, reading, text_format).is_not_null()
        for reading in list_usual_readings(text_format)
    )


def _list_other_formats(
    sample: pl.DataFrame, text_format: TextFormat
) -> Iterator[TextFormat]:
    """Yield the formats that the values of a column could be written in."""
    if sample.is_empty():
        return
    for decimal, thousands in NUMBER_MARKS:
        yield replace(text_format, decimal=decimal, thousands=thousands)
    for pattern in UNIT_PATTERNS:
        units = sample.select(pl.col("text").str.extract(pattern)).drop_nulls()
        if not units.is_empty():
            with_unit = replace(text_format, units=(units.item(0, 0),))
            yield with_unit
            yield replace(with_unit, decimal=",")
            yield replace(with_unit, thousands=",")
            yield replace(with_unit, decimal=",", thousands=".")
    has_long_years = sample["text"].str.contains(r"\d{4}").any()
    for date_format in (*DATE_FORMATS, *TIMESTAMP_FORMATS):
        if not has_long_years:
            date_format = date_format.replace("%Y", "%y")
        yield replace(text_format, date_format=date_format)


def _name_settings(text_format: TextFormat, formats: list[TextFormat]) -> str:
    """Return how settings.yml would have to change for one of the formats.

    Only the formats that need the fewest settings are named, joined by "or".
    """
    changes = [_list_changes(text_format, other) for other in formats]
    fewest = min(len(change) for change in changes)
    alternatives = [" and ".join(c) for c in changes if len(c) == fewest]
    return " or ".join(dict.fromkeys(alternatives))


def _list_changes(text_format: TextFormat, other: TextFormat) -> list[str]:
    """Return the settings in which `other` differs from `text_format`."""
    changes = []
    for key, value in vars(other).items():
        if value != getattr(text_format, key):
            written = list(value) if isinstance(value, tuple) else repr(value)
            changes.append(f"data.{key}: {written}")
    return changes


def note_missing_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> None:
    """Add notes that tell how words such as NA are read, for columns that hold any.

    In CSV files they are missing values. In Parquet files, which have missing values of
    their own, they are text.
    """
    for name, dtype in types.items():
        # The words of a key are always values.
        if name in roles.keys:
            continue
        is_text_target = name == roles.target and dtype == TEXT
        in_csv: list[tuple[Source, Column]] = []
        in_parquet: list[tuple[Source, Column]] = []
        for source in sources:
            column = source.columns.get(name)
            if column is None or not column.missing_words:
                continue
            # Only the columns of CSV files have a text.
            if column.text is not None:
                in_csv.append((source, column))
            elif not is_text_target:
                in_parquet.append((source, column))
        if in_csv:
            _add_note_on_words(name, in_csv, is_csv=True)
        if in_parquet:
            _add_note_on_words(name, in_parquet, is_csv=False)


def _add_note_on_words(
    name: str, columns_with_words: list[tuple[Source, Column]], *, is_csv: bool
) -> None:
    """Add a note on words such as NA in the column `name` to the first file with any.

    `columns_with_words` are the files that have them, all CSV or all Parquet.
    """
    source, column = columns_with_words[0]
    word = _find_missing_word(source, column)
    file_names = source.name
    other_files = len(columns_with_words) - 1
    if other_files == 1:
        file_names += " and 1 more file"
    elif other_files:
        file_names += f" and {other_files} more files"
    count = sum(column.missing_words for _, column in columns_with_words)
    rows = "1 row" if count == 1 else f"{count} rows"
    if is_csv and column.type == TEXT:
        source.notes.append(
            f"'{word}' in the column '{name}' of {file_names} is read as a missing value"
            f" ({rows} with such words): if it is a category, write"
            f" data.not_missing: ['{word}'] in settings.yml."
        )
    elif is_csv:
        source.notes.append(
            f"'{word}' in the column '{name}' of {file_names} is read as a missing value"
            f" ({rows} with such words)."
        )
    else:
        source.notes.append(
            f"'{word}' in the column '{name}' of {file_names} is a value of its own, as"
            f" Parquet has missing values apart ({rows} with such words)."
        )


def _find_missing_word(source: Source, column: Column) -> str:
    """Return the first word such as NA in a column that holds one."""
    if column.text is None:
        text = column.values
        is_word = text.is_in(MISSING_WORDS)
    else:
        text = null_if_empty(column.text)
        is_word = column.values.is_null()
    filled = source.frame.select(text=text, is_word=is_word).drop_nulls("text")
    first_word = filled.filter("is_word").head(1).collect(engine="streaming")
    return str(first_word.item(0, 0))
