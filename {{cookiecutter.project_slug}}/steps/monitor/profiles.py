"""The profile that train has saved with a model: what its training rows held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class NumberProfile:
    """What a column of numbers held in training.

    Bin i holds `counts[i]` numbers. It reaches from `edges[i - 1]`, without it, to
    `edges[i]`, with it; the first and the last bin have no end.
    """

    missing: int
    smallest: float
    largest: float
    mean: float
    edges: Sequence[float]
    counts: Sequence[int]

    @property
    def filled(self) -> int:
        """The number of rows that have a number."""
        return sum(self.counts)


@dataclass(frozen=True)
class TextProfile:
    """How often each category of a column occurred in training.

    Those of many rows are `frequent`, the most frequent one first. All others are in bins
    in the order of the alphabet. Bin i holds `counts[i]` rows. It reaches from
    `edges[i - 1]`, without it, to `edges[i]`, with it; the first and the last bin have no
    end. `seen` has the rows of all categories, or is None if they were too many.
    """

    missing: int
    frequent: Mapping[str, int]
    edges: Sequence[str]
    counts: Sequence[int]
    seen: Mapping[str, int] | None

    @property
    def filled(self) -> int:
        """The number of rows that have a category."""
        return sum(self.frequent.values()) + sum(self.counts)


@dataclass(frozen=True)
class DateProfile:
    """How many dates a column had in training, and the latest of them."""

    missing: int
    filled: int
    latest: datetime


ColumnProfile = NumberProfile | TextProfile | DateProfile


@dataclass(frozen=True)
class RepeatProfile:
    """How many rows of training repeated another one in the keys, if there are any.

    Without keys they did so in all features.
    """

    keys: Sequence[str]
    rows: int
    repeated: int


@dataclass(frozen=True)
class Profile:
    """The training rows of a model by column, and its predictions for held-out rows."""

    rows: int
    features: Mapping[str, ColumnProfile]
    repeats: RepeatProfile
    predictions: ColumnProfile


def parse_profile(profile: Mapping[str, Any]) -> Profile:
    """Return the profile that `profile.json` of a model holds."""
    return Profile(
        rows=profile["rows"],
        features={
            name: parse_column(column) for name, column in profile["features"].items()
        },
        repeats=RepeatProfile(**profile["repeats"]),
        predictions=parse_column(profile["predictions"]),
    )


def parse_column(column: Mapping[str, Any]) -> ColumnProfile:
    """Return the profile of a column, by its kind."""
    fields = dict(column)
    kind = fields.pop("kind")
    if kind == "number":
        return NumberProfile(**fields)
    if kind == "text":
        return TextProfile(**fields)
    return DateProfile(
        missing=fields["missing"],
        filled=fields["filled"],
        latest=datetime.fromisoformat(fields["latest"]),
    )
