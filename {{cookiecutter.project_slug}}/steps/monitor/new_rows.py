"""Counting new rows in the bins and categories of a profile, in one pass over the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from profiles import ColumnProfile, DateProfile, TextProfile

NUMBER = pl.Float64()
DATE = pl.Datetime("us")
TEXT = pl.String()


@dataclass(frozen=True)
class NewNumbers:
    """New values of a column of numbers, in the bins of its profile.

    `smallest`, `largest` and `mean` are None if there is no value. `below` and `above` count the
    values beyond the range of training.
    """

    missing: int
    counts: Sequence[int]
    smallest: float | None
    largest: float | None
    mean: float | None
    below: int
    above: int

    @property
    def filled(self) -> int:
        """The number of rows that have a number."""
        return sum(self.counts)


@dataclass(frozen=True)
class NewTexts:
    """How often each category occurs in new rows."""

    missing: int
    categories: Mapping[str, int]

    @property
    def filled(self) -> int:
        """The number of rows that have a category."""
        return sum(self.categories.values())


@dataclass(frozen=True)
class NewDates:
    """The latest new date, None without any, and how many are after those of training."""

    missing: int
    filled: int
    latest: datetime | None
    after: int


NewColumn = NewNumbers | NewTexts | NewDates


@dataclass(frozen=True)
class NewRows:
    """All new rows by column, how many of them repeat another one, and a sample of them."""

    rows: int
    columns: Mapping[str, NewColumn]
    repeated: int
    sample: pl.DataFrame


def scan_parts(prepared: Path) -> pl.LazyFrame:
    """Return the prepared parts in a folder as one table, in the order of their names."""
    return pl.scan_parquet(sorted(prepared.glob("*.parquet")), glob=False)


def count_new_rows(
    table: pl.LazyFrame,
    profiles: Mapping[str, ColumnProfile],
    repeat_by: Sequence[str],
    sampled: Sequence[str] = (),
    sampled_rows: int = 10_000,
) -> NewRows:
    """Count the rows of a table in the bins of each profile.

    A row repeats another one if they are the same in the columns `repeat_by`. The sample
    has the columns `sampled` of rows at even distances. Nothing but the counts and the
    sample is held in memory, and a hash of each row.
    """
    rows: int = table.select(pl.len()).collect().item()
    distance = -(-rows // sampled_rows)
    figures = [hash_rows(repeat_by).n_unique().alias("different")]
    # Columns are numbered, as a name of a column may be anything.
    for number, name in enumerate(sampled):
        values = cs.by_name(name).gather_every(distance).implode()
        figures.append(values.alias(f"sample {number}"))
    for number, (name, profile) in enumerate(profiles.items()):
        for figure, expression in describe_column(name, profile).items():
            figures.append(expression.alias(f"{figure} {number}"))
    collected = table.select(figures).collect(engine="streaming")

    columns = {}
    for number, (name, profile) in enumerate(profiles.items()):
        counted = {
            figure: collected[f"{figure} {number}"][0]
            for figure in describe_column(name, profile)
        }
        columns[name] = read_counts(counted, profile)
    sample = {
        name: collected[f"sample {number}"][0].alias("")
        for number, name in enumerate(sampled)
    }
    return NewRows(
        rows=rows,
        columns=columns,
        repeated=rows - collected["different"][0],
        sample=pl.DataFrame(sample),
    )


def hash_rows(columns: Sequence[str]) -> pl.Expr:
    """Return a hash of each row that is the same if some columns hold the same.

    It is the sum of the columns' own hashes, which takes half the time of `pl.struct`.
    """
    hashes = [cs.by_name(name).hash(seed=number) for number, name in enumerate(columns)]
    return pl.sum_horizontal(hashes)


def describe_column(name: str, profile: ColumnProfile) -> dict[str, pl.Expr]:
    """Return what is to be computed of a column, by names that `read_counts` reads."""
    if isinstance(profile, TextProfile):
        texts = cs.by_name(name).cast(TEXT, strict=False)
        return {
            "missing": texts.null_count(),
            "texts": texts.drop_nulls().value_counts(name="rows").implode(),
        }
    if isinstance(profile, DateProfile):
        dates = cs.by_name(name).cast(DATE, strict=False)
        return {
            "missing": dates.null_count(),
            "filled": dates.count(),
            "latest": dates.max(),
            "after": (dates > profile.latest).sum(),
        }
    numbers = cs.by_name(name).cast(NUMBER, strict=False).fill_nan(None)
    figures = {
        "missing": numbers.null_count(),
        "smallest": numbers.min(),
        "largest": numbers.max(),
        "mean": numbers.mean(),
        "below": (numbers < profile.smallest).sum(),
        "above": (numbers > profile.largest).sum(),
        "filled": numbers.count(),
    }
    for number, edge in enumerate(profile.edges):
        figures[f"up_to_{number}"] = (numbers <= edge).sum()
    return figures


def read_counts(values: Mapping[str, Any], profile: ColumnProfile) -> NewColumn:
    """Return what was computed of a column as its counts."""
    if isinstance(profile, TextProfile):
        text, rows = values["texts"].struct.fields
        counted = values["texts"].struct.unnest()
        texts = dict(zip(counted[text], counted[rows], strict=True))
        return NewTexts(values["missing"], texts)
    if isinstance(profile, DateProfile):
        return NewDates(
            missing=values["missing"],
            filled=values["filled"],
            latest=values["latest"],
            after=values["after"],
        )
    up_to_edges = [values[f"up_to_{number}"] for number in range(len(profile.edges))]
    counts = np.diff([0, *up_to_edges, values["filled"]])
    return NewNumbers(
        missing=values["missing"],
        counts=counts.tolist(),
        smallest=values["smallest"],
        largest=values["largest"],
        mean=values["mean"],
        below=values["below"],
        above=values["above"],
    )


def select_features(
    table: pl.DataFrame, columns: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Return the columns that a model asks for, in its types.

    Values of another type count as missing: score refuses them, and says where they are.
    """
    features = {}
    for name, dtype in columns.items():
        # polars would take a name such as `^a$` for a pattern, so the column has none.
        features[name] = table[name].alias("").cast(dtype, strict=False)
    return pl.DataFrame(features)
