"""Helpers that write messages for the user."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable


def show_text(text: object) -> str:
    """Return text for messages, with characters that nobody can see as escapes."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in str(text)
    )


def join_sentences(*sentences: str) -> str:
    """Return the sentences that are not empty, with a space between them."""
    return " ".join(sentence for sentence in sentences if sentence)


def suggest_similar_name(name: str, candidates: Iterable[str]) -> str:
    """Ask whether the most similar candidate is meant; return "" if none is similar."""
    by_folded_name = {candidate.casefold(): candidate for candidate in candidates}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, 1)
    if not similar:
        return ""
    return f"Did you mean '{show_text(by_folded_name[similar[0]])}'?"


def find_system_error(error: Exception) -> str | None:
    """Return why the operating system refused to read or write a file, if it did.

    Returns None if the error is about what the file holds. Python's errors bring the
    reason as a number, those of polars in their text: "... (os error 13): /the/path".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    polars_reason = re.search(r"([^:]+) \(os error \d+\)(: .*)?", str(error))
    if polars_reason is None:
        return None
    reason, path = polars_reason.groups(default="")
    return f"{reason.strip()}{path}"
