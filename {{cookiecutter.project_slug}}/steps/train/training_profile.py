"""The profile of the training data: what each feature of a model held.

It is saved with the model as `profile.json`. Before new data is scored, the step `monitor`
compares that data with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
from sklearn.pipeline import Pipeline
from split import DATE, NUMBER, TEXT, get_column

FILE_NAME = "profile.json"
# With fewer bins, a mean that moves by half a standard deviation stays below the usual
# limit of the population stability index too often.
BINS = 20
# The edges of the bins are quantiles of about so many rows; all rows are counted.
ROWS_FOR_EDGES = 100_000
# Of a column of text with more different values, they are not listed.
MOST_CATEGORIES = 10_000
PREDICTED_ROWS = 10_000
# The types of features by the kinds of NumPy's types.
TYPES = {"f": NUMBER, "M": DATE, "O": TEXT}

Profile = dict[str, Any]


def describe_training_data(
    prepared_rows: pl.DataFrame,
    training: pl.DataFrame,
    features: pd.DataFrame,
    keys: Sequence[str],
) -> Profile:
    """Return the profile of the features in the rows that a model is trained on.

    Of all rows that were prepared, it counts those that repeat another one in the keys
    or, without keys, in all features.
    """
    by = keys or list(features)
    different = prepared_rows.select(cs.by_name(*by)).hash_rows().n_unique()
    columns = {}
    for name in features:
        column = describe_column(get_column(training, name))
        if column["missing"] < len(training):
            columns[name] = column
    return {
        "rows": len(training),
        "features": columns,
        "repeats": {
            "keys": list(keys),
            "rows": len(prepared_rows),
            "repeated": len(prepared_rows) - different,
        },
    }


def describe_column(values: pl.Series) -> Profile:
    """Return what a column holds, by its type for a model: text, dates or numbers."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
    missing = values.null_count()
    filled = values.drop_nulls()
    if filled.is_empty():
        return {"missing": missing}
    if values.dtype == TEXT:
        return {"kind": "text", "missing": missing, **describe_categories(filled)}
    if values.dtype.is_temporal():
        return {"kind": "date", "missing": missing, **describe_dates(filled)}
    numbers = filled.cast(NUMBER)
    return {"kind": "number", "missing": missing, **describe_numbers(numbers)}


def describe_dates(dates: pl.Series) -> Profile:
    """Return the number of dates and the latest of them, in ISO 8601."""
    texts = dates.cast(DATE).dt.to_string("iso:strict")
    return {"filled": len(dates), "latest": texts.max()}


def describe_categories(texts: pl.Series) -> Profile:
    """Return how often each text occurs that is in one of BINS rows, or more often.

    The other texts are in bins of about as many rows, in the order of the alphabet, as
    numbers are. So texts that training has not seen have a bin, too. If there are not too
    many texts, the rows of each are listed as `seen`.
    """
    counted = texts.alias("text").value_counts(name="rows").sort("text")
    rows_per_bin = len(texts) / BINS
    frequent = counted.filter(pl.col("rows") >= rows_per_bin)
    frequent = frequent.sort("rows", descending=True, maintain_order=True)
    rare = counted.filter(pl.col("rows") < rows_per_bin)
    edges, counts = group_rare_texts(rare, rows_per_bin)
    is_listed = len(counted) <= MOST_CATEGORIES
    return {
        "frequent": dict(frequent.iter_rows()),
        "edges": edges,
        "counts": counts,
        "seen": dict(counted.iter_rows()) if is_listed else None,
    }


def group_rare_texts(
    rare: pl.DataFrame, rows_per_bin: float
) -> tuple[list[str], list[int]]:
    """Return the edges between bins of texts in the order of the alphabet, and the rows.

    `rare` has a `text` and its number of `rows` in each row.
    """
    bins = (rare["rows"].cum_sum() - rare["rows"]) // rows_per_bin
    grouped = rare.group_by(bins.alias("bin"), maintain_order=True).agg(
        pl.col("text").last(), pl.col("rows").sum()
    )
    # The last bin has no end. There is one, also where no text is rare.
    return grouped["text"].to_list()[:-1], grouped["rows"].to_list() or [0]


def describe_numbers(numbers: pl.Series) -> Profile:
    """Return the range of numbers, and how many of them are in each bin.

    A bin reaches from one of the `edges`, without it, to the next one, with it. The first
    and the last bin have no end.
    """
    edges = choose_edges(numbers)
    values = numbers.to_numpy()
    up_to_edge = [int(np.sum(values <= edge)) for edge in edges]
    counts = np.diff([0, *up_to_edge, len(values)])
    return {
        "smallest": float(values.min()),
        "largest": float(values.max()),
        "mean": float(values.mean()),
        "edges": edges,
        "counts": counts.tolist(),
    }


def choose_edges(numbers: pl.Series) -> list[float]:
    """Return the edges between bins of numbers: at most BINS, of about as many rows each.

    If there are at most BINS different numbers, each has a bin of its own.
    """
    sample = numbers.gather_every(-(-len(numbers) // ROWS_FOR_EDGES))
    different = sample.unique().sort()
    if len(different) <= BINS:
        return [float(number) for number in different[:-1]]
    shares = [number / BINS for number in range(1, BINS)]
    quantiles = np.quantile(sample.to_numpy(), shares, method="lower")
    return [float(edge) for edge in np.unique(quantiles)]


def describe_predictions(
    pipeline: Pipeline, held_out: pl.DataFrame, features: pd.DataFrame, task: str
) -> Profile:
    """Return the distribution of a model's predictions for held-out rows.

    `features` are what the model was trained on. Of many rows, about PREDICTED_ROWS are
    predicted.
    """
    sample = held_out.gather_every(-(-len(held_out) // PREDICTED_ROWS))
    columns = {
        name: get_column(sample, name).cast(TYPES[dtype.kind])
        for name, dtype in features.dtypes.items()
    }
    predictions = pipeline.predict(pl.DataFrame(columns).to_pandas())
    if task == "regression":
        return describe_column(pl.Series(predictions, dtype=NUMBER))
    return describe_column(pl.Series([str(name) for name in predictions], dtype=TEXT))


def save_profile(profile: Profile, model: Path) -> None:
    """Save the profile in the folder of a model."""
    text = json.dumps(profile, indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")
