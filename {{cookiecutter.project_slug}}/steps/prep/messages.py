"""Write messages for the user."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


def show_text(text: object) -> str:
    """Return text for messages, in which invisible characters are shown as escapes."""
    return "".join(
        character if character.isprintable() else _escape(character)
        for character in str(text)
    )


def _escape(character: str) -> str:
    """Return the escape by which a character is written in Python."""
    quoted = ascii(character)
    return quoted[1:-1]


def join_sentences(*sentences: str) -> str:
    """Join the sentences that are not empty by spaces."""
    return " ".join(sentence for sentence in sentences if sentence)


def suggest_similar_name(name: str, candidates: Iterable[str]) -> str:
    """Ask whether the most similar candidate is meant; return "" if none is similar."""
    candidate_by_folded = {candidate.casefold(): candidate for candidate in candidates}
    similar = difflib.get_close_matches(name.casefold(), candidate_by_folded, n=1)
    if not similar:
        return ""
    candidate = candidate_by_folded[similar[0]]
    return f"Did you mean '{show_text(candidate)}'?"


def find_system_error(error: Exception) -> str | None:
    """Return the operating system's reason for not reading or writing a file.

    Returns None if the error is about the content of the file. Errors of Python hold the
    reason as a number. Errors of polars hold it in their text, such as
    "Permission denied (os error 13): /the/path".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    polars_reason = re.search(r"([^:]+) \(os error \d+\)(: .*)?", str(error))
    if polars_reason is None:
        return None
    reason, path = polars_reason.groups(default="")
    return f"{reason.strip()}{path}"
