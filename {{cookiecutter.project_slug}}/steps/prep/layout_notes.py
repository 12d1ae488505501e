"""Write notes on CSV files whose lines may have to be split differently."""

from __future__ import annotations

from csv_file import CsvFile, looks_like_number
from messages import join_sentences
from sources import Note, Source
from table_layout import SPACES, find_layout, suggest_header

COMMENT_CHARACTERS = ("#", "%", "//")
TRIED_ROWS = 100  # are examined to find out whether spaces separate columns
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
    """Return a note if the header looks like a line of data, or None if it does not."""
    hint = suggest_header(file.header)
    if not hint:
        return None
    names = ", ".join(file.header)[:SHOWN_CHARACTERS]
    text = f"{source.name} names its columns {names}."
    return Note(join_sentences(text, hint))


def _create_single_column_note(source: Source, file: CsvFile) -> Note | None:
    """Return a note if the single column of a file looks like a comment or several columns.

    The name of the column may begin with a comment character, such as #, or another
    delimiter may split its values into several columns. Returns None in all other cases.
    """
    name = file.header[0]
    shown_name = name[:SHOWN_CHARACTERS]
    if name.startswith(COMMENT_CHARACTERS):
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
    """Suggest settings that split the single column of a file into several columns.

    Returns a sentence for the user, or "" if there are no such settings.
    """
    layout = find_layout(file.read_first_lines())
    # Spaces are examined more closely below, because text such as a title has spaces, too.
    if layout is not None and layout.delimiter != SPACES:
        header_may_be_title = layout.skipped_lines > file.skipped_lines
        if header_may_be_title:
            return layout.suggest_skipping_lines()
    if _spaces_may_separate_columns(source, file.header[0]):
        return (
            "If spaces separate its columns, write data.delimiter: ' ' in settings.yml."
        )
    return ""


def _spaces_may_separate_columns(source: Source, name: str) -> bool:
    """Return whether the single column of a file may be several columns, split by spaces.

    `name` is the name of the column. Each of the first lines must hold as many words as the
    name. Each line must also hold a number, because words alone may be the name of a
    person, such as Ada Lovelace.
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
