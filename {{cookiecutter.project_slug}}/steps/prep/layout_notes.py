"""Write notes on CSV files whose lines may have to be divided differently."""

from __future__ import annotations

import re

from csv_file import CsvFile
from messages import join_sentences
from sources import Note, Source
from table_layout import SPACES, find_layout, suggest_header

COMMENT_SIGNS = ("#", "%", "//")
TRIED_ROWS = 100
SHOWN_CHARACTERS = 40  # of names in a note


def note_layout(source: Source, file: CsvFile) -> None:
    """Add notes if the first line may hold data or a comment, or spaces are delimiters."""
    notes = [_note_header(source, file)]
    if len(file.header) == 1:
        notes.append(_note_only_column(source, file))
    source.notes += [note for note in notes if note is not None]


def _note_header(source: Source, file: CsvFile) -> Note | None:
    """Return a note if the first line seems to be data."""
    hint = suggest_header(file.header)
    if not hint:
        return None
    names = ", ".join(file.header)[:SHOWN_CHARACTERS]
    text = f"{source.name} names its columns {names}."
    return Note(join_sentences(text, hint))


def _note_only_column(source: Source, file: CsvFile) -> Note | None:
    """Return a note if the only column of a file may be a comment or several columns."""
    name = file.header[0]
    shown_name = name[:SHOWN_CHARACTERS]
    if name.startswith(COMMENT_SIGNS):
        text = (
            f"{source.name} begins with '{shown_name}', which is taken for the name of its"
            " only column: if it is a comment, write data.skip_lines: 1 in settings.yml."
        )
        return Note(text, column=name)

    hint = _suggest_to_divide(source, file)
    if not hint:
        return None
    text = f"{source.name} has one column, '{shown_name}'."
    return Note(join_sentences(text, hint), column=name)


def _suggest_to_divide(source: Source, file: CsvFile) -> str:
    """Suggest settings that divide the only column of a file; return "" without any."""
    layout = find_layout(file.read_first_lines())
    has_title = layout is not None and layout.skipped_lines > file.skipped_lines
    if layout is not None and has_title and layout.delimiter != SPACES:
        return layout.suggest_to_skip_lines()
    if _may_be_divided_by_spaces(source, file.header[0]):
        return (
            "If blanks separate its columns, write data.delimiter: ' ' in settings.yml."
        )
    return ""


def _may_be_divided_by_spaces(source: Source, name: str) -> bool:
    """Return whether all lines of a file of one column hold the same number of words.

    Each line must also hold a number, because two words may be the name of a person.
    """
    word_count = len(name.split())
    column = source.columns.get(name)
    if word_count < 2 or column is None or column.csv_text is None:
        return False
    texts = source.frame.select(column.csv_text).head(TRIED_ROWS)
    values = texts.collect(engine="streaming").to_series().drop_nulls()
    lines = [text.split() for text in values]
    if not lines:
        return False
    return all(len(words) == word_count and _has_number(words) for words in lines)


def _has_number(words: list[str]) -> bool:
    """Return whether any of the words is a number."""
    return any(re.fullmatch(r"[+-]?[\d.]+", word) for word in words)
