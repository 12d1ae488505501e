"""Text from elsewhere, such as data, a log or a server, made harmless for the screen."""

from __future__ import annotations

import re

#: What a terminal, Azure Pipelines or GitHub would take for a command, and characters that
#: reverse the direction of the text behind them.
COMMANDS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|##(?=vso\[|\[)|^[ \t]*::",
    re.MULTILINE,
)


def make_harmless(text: str) -> str:
    """Replace what a terminal or a CI agent would take for a command by visible text."""
    return COMMANDS.sub(_make_visible, text)


def _make_visible(command: re.Match[str]) -> str:
    characters = command[0]
    if characters.isprintable():
        return " ".join(characters)
    return characters.encode("unicode_escape").decode()
