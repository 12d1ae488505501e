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
    """The number of dates of a column in training, and the earliest and latest of them.

    `earliest` is None in a profile that an earlier version of this project has saved.
    """

    missing: int
    filled: int
    earliest: datetime | None
    latest: datetime


ColumnProfile = NumberProfile | TextProfile | DateProfile


@dataclass(frozen=True)
class RepeatProfile:
    """How many training rows repeat an earlier row in the keys.

    `keys` are the columns of the keys. Without keys, rows are compared in all features.
    `repeated` of the `rows` repeat an earlier one.
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


def parse_profile(profile: Mapping[str, Any]) -> Profile:
    """Return the profile that `profile.json` describes.

    `profile` has the contents of this file as Python reads JSON.
    """
    return Profile(
        rows=profile["rows"],
        features={
            name: parse_column(column) for name, column in profile["features"].items()
        },
        repeats=RepeatProfile(**profile["repeats"]),
        predictions=parse_column(profile["predictions"]),
        probabilities={
            name: parse_column(column)
            for name, column in profile.get("probabilities", {}).items()
        },
    )


def parse_column(column: Mapping[str, Any]) -> ColumnProfile:
    """Return the profile of a column that a part of `profile.json` describes.

    `kind` is "number", "text" or "date". Raises ValueError for another kind.
    """
    fields = dict(column)
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
