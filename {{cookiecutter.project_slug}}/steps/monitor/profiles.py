"""Read `profile.json`, the profile of the training rows that is saved with a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class NumberProfile:
    """How the training rows are distributed in a column of numbers.

    Bin i has `counts[i]` numbers. They are greater than `edges[i - 1]`, and at most
    `edges[i]`. The first bin has no lower edge, and the last one no upper edge.
    """

    missing: int
    smallest: float
    largest: float
    mean: float
    edges: Sequence[float]
    counts: Sequence[int]

    @property
    def filled(self) -> int:
        """Return the number of rows that have a number."""
        return sum(self.counts)


@dataclass(frozen=True)
class TextProfile:
    """How the training rows are distributed in a column of categories.

    `frequent` has the number of rows of each frequent category, the most frequent one
    first. The other categories are in alphabetical order and divided into bins. Bin i has
    `counts[i]` rows, with categories after `edges[i - 1]`, up to and including `edges[i]`.
    The first bin has no lower edge, and the last one no upper edge.

    `seen` has the number of rows of every category. It is None if there are too many
    categories.
    """

    missing: int
    frequent: Mapping[str, int]
    edges: Sequence[str]
    counts: Sequence[int]
    seen: Mapping[str, int] | None

    @property
    def filled(self) -> int:
        """Return the number of rows that have a category."""
        return sum(self.frequent.values()) + sum(self.counts)


@dataclass(frozen=True)
class DateProfile:
    """The number of training dates in a column, and the earliest and the latest date.

    `earliest` is None in a profile that an earlier version of this project has saved.
    """

    missing: int
    filled: int
    earliest: datetime | None
    latest: datetime


ColumnProfile = NumberProfile | TextProfile | DateProfile


@dataclass(frozen=True)
class RepeatProfile:
    """How many rows of the training data repeat an earlier row: their keys are the same.

    `keys` are the columns of the keys. Without keys, a row repeats an earlier one if all
    features are the same. Of the `rows`, the number `repeated` repeat an earlier one. The
    held-out rows are counted, too.
    """

    keys: Sequence[str]
    rows: int
    repeated: int


@dataclass(frozen=True)
class Profile:
    """How the training rows are distributed, and the predictions for the held-out rows.

    `probabilities` has the distribution of each predicted probability by the name of its
    column, such as "probability_Adelie". It is empty for a regression, and in a profile
    that an earlier version of this project has saved.
    """

    rows: int
    features: Mapping[str, ColumnProfile]
    repeats: RepeatProfile
    predictions: ColumnProfile
    probabilities: Mapping[str, ColumnProfile]


def parse_profile(contents: Mapping[str, Any]) -> Profile:
    """Return the profile that `profile.json` describes.

    `contents` is what `json.load` returns for this file.
    """
    return Profile(
        rows=contents["rows"],
        features={
            name: parse_column(column) for name, column in contents["features"].items()
        },
        repeats=RepeatProfile(**contents["repeats"]),
        predictions=parse_column(contents["predictions"]),
        # Earlier versions of this project have saved no probabilities.
        probabilities={
            name: parse_column(column)
            for name, column in contents.get("probabilities", {}).items()
        },
    )


def parse_column(contents: Mapping[str, Any]) -> ColumnProfile:
    """Return the profile of a column from its contents in `profile.json`.

    The field `kind` is "number", "text" or "date". Raises ValueError for another kind.
    """
    fields = dict(contents)
    kind = fields.pop("kind")
    if kind == "number":
        return NumberProfile(**fields)
    if kind == "text":
        return TextProfile(**fields)
    if kind != "date":
        raise ValueError(f"a column has the unknown kind {kind!r}")

    earliest = None
    # Earlier versions of this project have saved no earliest date.
    if "earliest" in fields:
        earliest = datetime.fromisoformat(fields["earliest"])
    return DateProfile(
        missing=fields["missing"],
        filled=fields["filled"],
        earliest=earliest,
        latest=datetime.fromisoformat(fields["latest"]),
    )
