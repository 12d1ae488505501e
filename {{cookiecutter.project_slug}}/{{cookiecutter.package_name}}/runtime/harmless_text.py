"""Make text from data, a log or a server harmless before it is printed on the screen."""

from __future__ import annotations

import json
import re
from typing import Any

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

    If an argument or a file name has bytes that are not valid UTF-8, Python puts surrogate
    characters in their place. A text with surrogates cannot be written as UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def make_harmless(text: str) -> str:
    """Replace control characters and commands to CI agents by visible text, and return it.

    The character ESC becomes `\\x1b`, and `##vso[` becomes `# #vso[`.
    """
    return HARMFUL.sub(_make_visible, text)


def format_json(value: Any) -> str:
    """Return a value as JSON on one line, without commands to CI agents."""
    # Azure Pipelines executes text after ## as a command, anywhere in a line. JSON parsers
    # read the escape sequence as #.
    return json.dumps(value).replace("#", "\\u0023")


def _make_visible(harmful: re.Match[str]) -> str:
    """Return the visible form of a match of HARMFUL.

    The beginning of a CI command, such as `::`, gets spaces between its characters, so that
    no agent recognizes it. Control characters become escape sequences, such as `\\x1b`.
    """
    characters = harmful[0]
    if characters.isprintable():
        return " ".join(characters)
    return characters.encode("unicode_escape").decode()
