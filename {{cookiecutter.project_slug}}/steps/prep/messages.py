"""Help to write messages for the user: escapes, suggestions, and system errors."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


def show_text(text: object) -> str:
    """Return text for messages, with invisible characters shown as escapes.

    For example, a zero-width space is shown as `\\u200b`.
    """
    return "".join(
        character if character.isprintable() else _escape(character)
        for character in str(text)
    )


def _escape(character: str) -> str:
    """Return the escape sequence that Python shows for a character, such as `\\u200b`."""
    quoted = ascii(character)
    return quoted[1:-1]


def join_sentences(*sentences: str) -> str:
    """Join sentences with spaces, and skip those that are empty."""
    return " ".join(sentence for sentence in sentences if sentence)


def suggest_similar_name(name: str, candidates: Iterable[str]) -> str:
    """Return the question "Did you mean ...?" with the most similar candidate.

    Upper and lower case do not matter. Returns "" if no candidate is similar.
    """
    candidate_by_folded = {candidate.casefold(): candidate for candidate in candidates}
    similar = difflib.get_close_matches(name.casefold(), candidate_by_folded, n=1)
    if not similar:
        return ""
    candidate = candidate_by_folded[similar[0]]
    return f"Did you mean '{show_text(candidate)}'?"


def find_system_error(error: Exception) -> str | None:
    """Return the operating system's reason why a file could not be read or written.

    Returns None if the error is about the content of the file. Python's errors give the
    reason as a number. The errors of polars give it in their message, such as
    "Permission denied (os error 13): /the/path".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    polars_reason = re.search(
        r"(?P<reason>[^:]+) \(os error \d+\)(?P<colon_and_path>: .*)?", str(error)
    )
    if polars_reason is None:
        return None
    reason = polars_reason["reason"].strip()
    colon_and_path = polars_reason["colon_and_path"] or ""
    return f"{reason}{colon_and_path}"
