"""Text from elsewhere, such as data, a log or a server, made harmless for the screen."""

from __future__ import annotations

import re

#: Characters that control a terminal, reverse the direction of the text behind them, end a
#: line, or are no characters but halves of one.
CONTROLS = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    r"\u2028\u2029"
    r"\ud800-\udfff]"
)
#: What Azure Pipelines takes for a command anywhere in a line, and GitHub at its beginning,
#: behind blanks of any kind.
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
    characters = harmful[0]
    if characters.isprintable():
        return " ".join(characters)
    return characters.encode("unicode_escape").decode()
