"""Notes to the user on what one might not expect of the data, and which setting helps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import polars as pl
from csv_dialect import BLANK, CsvFile, find_layout, suggest_header
from date_formats import find_certain_format, list_possible_formats
from sources import (
    FIRST_ROWS,
    NUMBER,
    TEXT,
    Column,
    ColumnRoles,
    Source,
    count_values,
    find_first_values,
    show_text,
)
from text_values import (
    MISSING_WORDS,
    PARENTHESES,
    TRAILING_MINUS,
    Reading,
    TextFormat,
    list_date_readings,
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
# A unit before a number is a currency's sign or code; one behind it may be a word, too.
UNIT_PATTERNS = (
    r"^[(+-]*([A-Z]{0,3}\p{Sc}|[A-Z]{3}|Rs\.?|kr\.?|Fr\.)(?:\s[(+-]?|\(?)\d",
    r"\d\)?\s*(\p{Sc}|[%‰°]|[[:alpha:]]{2,4})\)?$",
)
NEGATIVE_PATTERNS = {
    PARENTHESES: r"^[^()]*\([^()]*\d[^()]*\)$",
    TRAILING_MINUS: r"\d\s*-$",
}
# The first values of a column, whose dates tell which formats are tried.
VALUES_WITH_FORMATS = 20
FEW_ROWS = 100
COMMENT_SIGNS = ("#", "%", "//")
FEWEST_THOUSANDS = 2  # values that make one ask what their mark means


def suggest_name(name: str, candidates: list[str]) -> str:
    """Return a question whether the most similar candidate is meant, or nothing."""
    by_folded_name = {candidate.casefold(): candidate for candidate in candidates}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, 1)
    if not similar:
        return ""
    return f": did you mean '{show_text(by_folded_name[similar[0]])}'?"


def note_readings(
    source: Source,
    names: Sequence[str],
    file: CsvFile,
    text_format: TextFormat,
    roles: ColumnRoles,
) -> None:
    """Add notes on columns of a CSV file that the user might want to be read otherwise.

    `names` are the columns that are looked at. Keys are left out.
    """
    texts: dict[str, pl.Expr] = {}
    for name in names:
        column = source.columns[name]
        if column.text is None or column.type not in (NUMBER, TEXT):
            continue
        if roles.is_read(name) and name not in roles.keys:
            texts[name] = null_if_missing(column.text, text_format)
    if not texts:
        return

    first_rows = (
        source.frame.head(FIRST_ROWS)
        .select(text.alias(str(i)) for i, text in enumerate(texts.values()))
        .collect(engine="streaming")
    )
    for first_values, (name, text) in zip(first_rows, texts.items()):
        values = first_values.drop_nulls().head(SAMPLED_VALUES)
        if source.columns[name].type == TEXT:
            _note_doubtful_text(source, name, text, values, file, text_format)
        elif not values.is_empty():
            _note_doubtful_number(source, name, text, values, text_format)


def _note_doubtful_text(
    source: Source,
    name: str,
    text: pl.Expr,
    values: pl.Series,
    file: CsvFile,
    text_format: TextFormat,
) -> None:
    """Add a note on a column that is text, if most values read as another type.

    `values` are those of the first rows, without missing values.
    """
    filled = source.frame.select(text=text).with_row_index("row").drop_nulls("text")
    sample = values.to_frame("text")
    if sample.is_empty():
        sample = filled.head(SAMPLED_VALUES).collect(engine="streaming")
    certain_readings = _find_certain_readings(sample)
    formats = _find_fitting_formats(sample, text_format, certain_readings)
    if not formats:
        return
    odd = _find_odd_values(filled, text_format, certain_readings, file)
    if odd is None:
        # Numbers and dates stand beside each other: none of them is the odd one.
        return
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


def _note_doubtful_number(
    source: Source,
    name: str,
    text: pl.Expr,
    values: pl.Series,
    text_format: TextFormat,
) -> None:
    """Add a note on a number that was a time of day or may have thousands separators.

    Times of day are read as seconds. The point of 1.234 may separate thousands. `values`
    are those of the first rows, without missing values.
    """
    first_value = values[0]
    if source.columns[name].holds_times:
        source.notes.append(
            f"column '{name}' of {source.name} holds times, such as '{first_value}', and"
            " is read as a number of seconds."
        )
        return
    if not _may_have_thousands(values.head(FEW_ROWS), text_format):
        return
    if _all_may_have_thousands(source, text, text_format):
        other = "," if text_format.decimal == "." else "."
        source.notes.append(
            f"column '{name}' of {source.name} holds numbers with three digits behind"
            f" '{text_format.decimal}', such as '{first_value}': if it separates"
            f" thousands, write data.thousands: '{text_format.decimal}' and"
            f" data.decimal: '{other}' in settings.yml."
        )


def suggest_settings(sample: pl.DataFrame, text_format: TextFormat) -> str:
    """Return the settings by which most of the sampled values would be quantities.

    Returns an empty text if there are none, or if they need no other setting.
    """
    certain_readings = _find_certain_readings(sample)
    formats = _find_fitting_formats(sample, text_format, certain_readings)
    if text_format in formats:
        return ""
    return _name_settings(text_format, formats) if formats else ""


def _find_certain_readings(sample: pl.DataFrame) -> list[Reading]:
    """Return how the first values of a column can be read if they mean one date only."""
    readings: list[Reading] = []
    for value in sample["text"].head(VALUES_WITH_FORMATS):
        date_format = find_certain_format(value)
        if date_format is not None:
            readings += list_date_readings(date_format)
    return list(dict.fromkeys(readings))


def _find_fitting_formats(
    sample: pl.DataFrame, text_format: TextFormat, certain_readings: list[Reading]
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
        _is_quantity(pl.col("text"), candidate, certain_readings).sum().alias(str(i))
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
    filled: pl.LazyFrame,
    text_format: TextFormat,
    certain_readings: list[Reading],
    file: CsvFile,
) -> OddValues | None:
    """Count the values that are no quantities, and find the line of the first one.

    `filled` has the columns `row` and `text`. Returns None if all are quantities.
    """
    odd = filled.filter(~_is_quantity(pl.col("text"), text_format, certain_readings))
    count = odd.select(pl.len()).collect(engine="streaming").item()
    if not count:
        return None
    row, value = odd.head(1).collect(engine="streaming").row(0)
    # A row may span several lines, so its line is looked up in the file.
    line, _ = next(islice(file.rows(), row, None), (row, []))
    return OddValues(count, value[:SHOWN_CHARACTERS], line)


def _is_quantity(
    text: pl.Expr, text_format: TextFormat, certain_readings: list[Reading]
) -> pl.Expr:
    """Return whether text reads as a number, a boolean, a date or a timestamp."""
    readings = [*list_usual_readings(text_format), *certain_readings]
    return pl.any_horizontal(
        parse_text(text, reading, text_format).is_not_null() for reading in readings
    )


def _list_other_formats(
    sample: pl.DataFrame, text_format: TextFormat
) -> Iterator[TextFormat]:
    """Yield the formats that the values of a column could be written in."""
    if sample.is_empty():
        return
    for units in _list_units(sample["text"], text_format):
        for negative in _list_negatives(sample["text"], text_format):
            usual_marks = (text_format.decimal, text_format.thousands)
            for decimal, thousands in (usual_marks, *NUMBER_MARKS):
                yield replace(
                    text_format,
                    units=units,
                    negative=negative,
                    decimal=decimal,
                    thousands=thousands,
                )
    for date_format in _list_date_formats(sample["text"]):
        yield replace(text_format, date_format=(*text_format.date_formats, date_format))


def _list_units(text: pl.Series, text_format: TextFormat) -> list[tuple[str, ...]]:
    """Return the units of settings.yml, and these with a unit of the first values."""
    units = [text_format.units]
    for pattern in UNIT_PATTERNS:
        matches = text.str.extract(pattern).drop_nulls()
        if not matches.is_empty():
            units.append((*text_format.units, matches[0]))
    return units


def _list_negatives(text: pl.Series, text_format: TextFormat) -> list[str]:
    """Return how negative numbers may be written, that of settings.yml first."""
    negatives = [text_format.negative]
    for negative, pattern in NEGATIVE_PATTERNS.items():
        if text.str.contains(pattern).any():
            negatives.append(negative)
    return negatives


def _list_date_formats(text: pl.Series) -> list[str]:
    """Return the formats that the first dates of a column may have."""
    date_formats: list[str] = []
    for value in text.head(VALUES_WITH_FORMATS):
        date_formats += list_possible_formats(value)
    return list(dict.fromkeys(date_formats))


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
        if value == getattr(text_format, key):
            continue
        if key == "date_format" and len(value) == 1:
            written = repr(value[0])
        elif isinstance(value, tuple):
            written = str(list(value))
        else:
            written = repr(value)
        changes.append(f"data.{key}: {written}")
    return changes


def note_layout(source: Source, file: CsvFile) -> None:
    """Add notes if the first line may hold data or a comment, or blanks are delimiters."""
    if hint := suggest_header(file.header):
        names = ", ".join(file.header)[:SHOWN_CHARACTERS]
        source.notes.append(f"{source.name} names its columns {names}{hint}.")
    if len(file.header) > 1:
        return
    name = file.header[0]
    if name.startswith(COMMENT_SIGNS):
        source.notes.append(
            f"{source.name} begins with '{name[:SHOWN_CHARACTERS]}', which is taken for the"
            " name of its only column: if it is a comment, write data.skip_lines: 1 in"
            " settings.yml."
        )
        return
    layout = find_layout(file.read_first_lines())
    if (
        layout
        and layout.skipped_lines > file.skipped_lines
        and layout.delimiter != BLANK
    ):
        source.notes.append(
            f"{source.name} has one column, '{name[:SHOWN_CHARACTERS]}'"
            f"{layout.suggest_to_skip_lines()}."
        )
    elif _may_be_divided_by_blanks(source, name):
        source.notes.append(
            f"{source.name} has one column, '{name[:SHOWN_CHARACTERS]}': if blanks separate"
            " its columns, write data.delimiter: ' ' in settings.yml."
        )


def _may_be_divided_by_blanks(source: Source, name: str) -> bool:
    """Return whether the lines of a file of one column hold equally many words.

    One of them must be a number, as two words may be the name of a person.
    """
    words = len(name.split())
    column = source.columns.get(name)
    if words < 2 or column is None or column.text is None:
        return False
    lines = source.frame.select(column.text).head(FEW_ROWS).collect(engine="streaming")
    values = [text.split() for text in lines.to_series().drop_nulls()]
    if not values:
        return False
    have_numbers = all(
        any(re.fullmatch(r"[+-]?[\d.]+", word) for word in line) for line in values
    )
    return have_numbers and all(len(line) == words for line in values)


def _thousands_pattern(text_format: TextFormat) -> str:
    """Return the pattern of a number such as 1.234, with the decimal mark in use."""
    mark = re.escape(text_format.decimal)
    return r"^[+-]?[1-9]\d{0,2}" + mark + r"\d{3}$"


def _may_have_thousands(values: pl.Series, text_format: TextFormat) -> bool:
    """Return whether the decimal mark of several values may separate thousands."""
    if text_format.thousands or len(values) < FEWEST_THOUSANDS:
        return False
    return bool(values.str.contains(_thousands_pattern(text_format)).all())


def _all_may_have_thousands(
    source: Source, text: pl.Expr, text_format: TextFormat
) -> bool:
    """Return whether the decimal mark of all values of a column may separate thousands."""
    fits = text.str.contains(_thousands_pattern(text_format)).all()
    return bool(source.frame.select(fits).collect(engine="streaming").item())


@dataclass(frozen=True)
class ColumnWithWords:
    """A column that holds words such as NA, and the files in which it does.

    The files are all CSV or all Parquet.
    """

    name: str
    sources: list[Source]
    is_csv: bool


def note_missing_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> None:
    """Add notes that tell how words such as NA are read, for columns that hold any.

    In CSV files they are missing values. In Parquet files, which have missing values of
    their own, they are text.
    """
    columns_by_file: dict[str, list[ColumnWithWords]] = {}
    for column in _list_columns_with_words(sources, types, roles):
        first_file = column.sources[0].name
        columns_by_file.setdefault(first_file, []).append(column)
    for columns in columns_by_file.values():
        source = columns[0].sources[0]
        words = [_select_words(source.columns[column.name]) for column in columns]
        for column, word in zip(columns, find_first_values(source.frame, words)):
            source.notes.append(_explain_word(column, str(word)))


def _list_columns_with_words(
    sources: list[Source], types: dict[str, pl.DataType], roles: ColumnRoles
) -> Iterator[ColumnWithWords]:
    """Yield the columns that hold words such as NA, if it matters how these are read."""
    for name, dtype in types.items():
        # The words of a key are always values.
        if name in roles.keys:
            continue
        in_csv: list[Source] = []
        in_parquet: list[Source] = []
        for source in sources:
            column = source.columns.get(name)
            if column is None or not column.missing_words:
                continue
            # Only the columns of CSV files have a text.
            files = in_parquet if column.text is None else in_csv
            files.append(source)
        if in_csv:
            yield ColumnWithWords(name, in_csv, is_csv=True)
        is_text_target = name == roles.target and dtype == TEXT
        if in_parquet and not is_text_target:
            yield ColumnWithWords(name, in_parquet, is_csv=False)


def _select_words(column: Column) -> pl.Expr:
    """Return the words such as NA in a column, and null for its other values."""
    if column.text is None:
        is_word = column.values.is_in(MISSING_WORDS)
        return pl.when(is_word).then(column.values)
    return pl.when(column.values.is_null()).then(null_if_empty(column.text))


def _explain_word(column_with_words: ColumnWithWords, word: str) -> str:
    """Return a note that tells how a word such as NA is read in a column."""
    name = column_with_words.name
    columns = [source.columns[name] for source in column_with_words.sources]
    file_names = column_with_words.sources[0].name
    other_files = len(columns) - 1
    if other_files == 1:
        file_names += " and 1 more file"
    elif other_files:
        file_names += f" and {other_files} more files"
    count = sum(column.missing_words for column in columns)
    rows = "1 row" if count == 1 else f"{count} rows"
    if column_with_words.is_csv and columns[0].type == TEXT:
        return (
            f"'{word}' in the column '{name}' of {file_names} is read as a missing value"
            f" ({rows} with such words): if it is a category, write"
            f" data.not_missing: ['{word}'] in settings.yml."
        )
    if column_with_words.is_csv:
        return (
            f"'{word}' in the column '{name}' of {file_names} is read as a missing value"
            f" ({rows} with such words)."
        )
    return (
        f"'{word}' in the column '{name}' of {file_names} is a value of its own, as"
        f" Parquet has missing values apart ({rows} with such words)."
    )
