"""Text from elsewhere, such as data, a log or a server, made harmless for the screen."""

from __future__ import annotations

import re

#: Characters that must not reach a terminal.
CONTROLS = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # Control characters, except tab and newline.
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Direction of the text.
    r"\u2028\u2029"  # Separators of lines and paragraphs.
    r"\ud800-\udfff]"  # Lone surrogates.
)
#: The beginnings of logging commands. Azure Pipelines reads them anywhere in a line, and
#: GitHub only at its start, after any white space.
CI_COMMANDS = r"##(?=vso\[|\[)|^[^\S\n]*::"
HARMFUL = re.compile(f"{CONTROLS}|{CI_COMMANDS}", re.MULTILINE | re.IGNORECASE)


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8.

    Arguments and names of files that are not UTF-8 become texts that cannot.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def make_harmless(text: str) -> str:
    """Replace what a terminal or a CI agent would take for a command by visible text."""
    return HARMFUL.sub(_make_visible, text)


def _make_visible(harmful: re.Match[str]) -> str:
    """Return a command with blanks between its characters, or a control as its escape."""
    characters = harmful[0]
    if characters.isprintable():
        return " ".join(characters)
    return characters.encode("unicode_escape").decode()
