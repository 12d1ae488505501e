"""Define the options for reading the raw files."""

from __future__ import annotations

from dataclasses import dataclass

from sources import NO_ROLES, ColumnRoles
from text_values import USUAL_FORMAT, TextFormat


@dataclass(frozen=True)
class ReadOptions:
    """How the text of the raw files is written, and what their columns are used for."""

    text_format: TextFormat = USUAL_FORMAT
    roles: ColumnRoles = NO_ROLES


#: The options without any settings.
USUAL_OPTIONS = ReadOptions()
