"""Write notes on CSV files whose lines may have to be split differently."""

from __future__ import annotations

from csv_file import CsvFile, looks_like_number
from messages import join_sentences
from sources import Note, Source
from table_layout import SPACES, find_layout, suggest_header

COMMENT_SIGNS = ("#", "%", "//")
TRIED_ROWS = 100
SHOWN_CHARACTERS = 40  # of names in a note


def note_layout(source: Source, file: CsvFile) -> None:
    """Add notes to a source if its header or its only column looks wrong.

    The header may be a line of data, and the only column may be a comment or several
    columns.
    """
    notes = [_create_header_note(source, file)]
    if len(file.header) == 1:
        notes.append(_create_single_column_note(source, file))
    source.notes += [note for note in notes if note is not None]


def _create_header_note(source: Source, file: CsvFile) -> Note | None:
    """Return a note if the header looks like a line of data, else None."""
    hint = suggest_header(file.header)
    if not hint:
        return None
    names = ", ".join(file.header)[:SHOWN_CHARACTERS]
    text = f"{source.name} names its columns {names}."
    return Note(join_sentences(text, hint))


def _create_single_column_note(source: Source, file: CsvFile) -> Note | None:
    """Return a note if the only column of a file may be a comment or several columns.

    Its name may begin with a sign of comments, such as #, or another delimiter may split
    its values into several columns. Returns None in all other cases.
    """
    name = file.header[0]
    shown_name = name[:SHOWN_CHARACTERS]
    if name.startswith(COMMENT_SIGNS):
        text = (
            f"{source.name} begins with '{shown_name}', which is taken for the name of its"
            " only column: if it is a comment, write data.skip_lines: 1 in settings.yml."
        )
        return Note(text, column=name)

    hint = _suggest_delimiter(source, file)
    if not hint:
        return None
    text = f"{source.name} has one column, '{shown_name}'."
    return Note(join_sentences(text, hint), column=name)


def _suggest_delimiter(source: Source, file: CsvFile) -> str:
    """Suggest settings that split the only column of a file into several columns.

    Returns "" if no settings do.
    """
    layout = find_layout(file.read_first_lines())
    has_title = layout is not None and layout.skipped_lines > file.skipped_lines
    if layout is not None and has_title and layout.delimiter != SPACES:
        return layout.suggest_skipping_lines()
    if _spaces_may_separate_columns(source, file.header[0]):
        return (
            "If spaces separate its columns, write data.delimiter: ' ' in settings.yml."
        )
    return ""


def _spaces_may_separate_columns(source: Source, name: str) -> bool:
    """Return whether spaces may separate several columns in a file that has only one.

    The first lines must all hold as many words as the column's name. Each line must also
    hold a number, because words alone may be a name, such as Ada Lovelace.
    """
    word_count = len(name.split())
    column = source.columns.get(name)
    if word_count < 2 or column is None or column.csv_text is None:
        return False
    texts = source.frame.select(column.csv_text).head(TRIED_ROWS)
    values = texts.collect(engine="streaming").to_series().drop_nulls()
    words_by_line = [text.split() for text in values]
    if not words_by_line:
        return False
    return all(
        len(words) == word_count and _has_number(words) for words in words_by_line
    )


def _has_number(words: list[str]) -> bool:
    """Return whether any of the words looks like a number."""
    return any(looks_like_number(word) for word in words)
