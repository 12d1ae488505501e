"""Write the profile of the training data: the distribution of each feature of a model.

It is saved with the model as `profile.json`. Before new data is scored, the step `monitor`
compares that data with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.selectors as cs
from sklearn.pipeline import Pipeline
from split import DATE, NUMBER, TEXT, get_column

FILE_NAME = "profile.json"
# With fewer bins, the population stability index often stays below its usual limit although
# the mean has moved by half a standard deviation.
BINS = 20
# The edges of the bins are quantiles of about this many rows. All rows are counted.
ROWS_FOR_EDGES = 100_000
# The categories of a column are listed if there are at most this many.
MOST_CATEGORIES = 10_000
# The model predicts about this many of the held-out rows.
PREDICTED_ROWS = 10_000
# Of more classes than this, only the probabilities of the most probable ones are described.
MOST_CLASSES = 30
# Smaller differences in a probability mean little, and its last digits depend on the
# processor. If all digits were kept, equal rows could fall into different bins.
PROBABILITY_DIGITS = 4
# The types of features by the kinds of NumPy's types.
TYPES = {"f": NUMBER, "M": DATE, "O": TEXT}

# The profile of all features, as it is written to the file.
Profile = dict[str, Any]
# The part of it for one feature, or for the predictions.
ColumnProfile = dict[str, Any]


def describe_training_data(
    prepared_rows: pl.DataFrame,
    training: pl.DataFrame,
    features: pd.DataFrame,
    keys: Sequence[str],
) -> Profile:
    """Return the profile of the features in the rows that a model is trained on.

    It also has the number of prepared rows with the same keys as another row or, without
    keys, with the same features. Features without any value are left out, because new
    values cannot be compared with them.
    """
    repeat_columns = keys or list(features)
    hashes = prepared_rows.select(cs.by_name(*repeat_columns)).hash_rows()
    columns = {}
    for name in features:
        column = profile_column(get_column(training, name))
        if column["missing"] < len(training):
            columns[name] = column
    return {
        "rows": len(training),
        "features": columns,
        "repeats": {
            "keys": list(keys),
            "rows": len(prepared_rows),
            "repeated": len(prepared_rows) - hashes.n_unique(),
        },
    }


def profile_column(values: pl.Series) -> ColumnProfile:
    """Return the profile of a column of text, dates or numbers."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
    missing = values.null_count()
    filled = values.drop_nulls()
    if filled.is_empty():
        return {"missing": missing}
    if values.dtype == TEXT:
        return {"kind": "text", "missing": missing, **profile_categories(filled)}
    if values.dtype.is_temporal():
        return {"kind": "date", "missing": missing, **profile_dates(filled)}
    numbers = filled.cast(NUMBER)
    return {"kind": "number", "missing": missing, **profile_numbers(numbers)}


def profile_dates(dates: pl.Series) -> ColumnProfile:
    """Return the number of dates, and the earliest and the latest of them in ISO 8601."""
    # A file may hold years that Python's dates cannot represent, such as the year 0.
    representable = dates.cast(DATE).clip(datetime.min, datetime.max)
    texts = representable.dt.to_string("iso:strict")
    return {"filled": len(dates), "earliest": texts.min(), "latest": texts.max()}


def profile_categories(texts: pl.Series) -> ColumnProfile:
    """Count the rows of each frequent category, and group the others into bins.

    A category is frequent if it has at least 1/BINS of the rows. The bins divide the
    alphabetical order of the others into ranges of about as many rows each, so that a new
    category falls into one of them as well. If there are not too many categories, `seen`
    lists the rows of each.
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
    """Group texts in alphabetical order into bins of about `rows_per_bin` rows.

    `rare` has a `text` and its number of `rows` in each row. Returns the last text of each
    bin except for the last bin, and the number of rows in each bin.
    """
    bins = (rare["rows"].cum_sum() - rare["rows"]) // rows_per_bin
    grouped = rare.group_by(bins.alias("bin"), maintain_order=True).agg(
        pl.col("text").last(), pl.col("rows").sum()
    )
    # The last bin is open-ended. It exists even if no text is rare.
    return grouped["text"].to_list()[:-1], grouped["rows"].to_list() or [0]


def profile_numbers(numbers: pl.Series) -> ColumnProfile:
    """Return the range and the mean of numbers, and how many of them are in each bin.

    The numbers in a bin are greater than the edge before it, and at most the edge after
    it. The first bin has no lower edge, and the last one no upper edge.
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
    """Return the edges between at most BINS bins of numbers, of about as many rows each.

    If there are at most BINS distinct numbers, each has a bin of its own.
    """
    sample = numbers.gather_every(math.ceil(len(numbers) / ROWS_FOR_EDGES))
    distinct = sample.unique().sort()
    if len(distinct) <= BINS:
        return [float(number) for number in distinct[:-1]]
    shares = [number / BINS for number in range(1, BINS)]
    quantiles = np.quantile(sample.to_numpy(), shares, method="lower")
    return [float(edge) for edge in np.unique(quantiles)]


def describe_predictions(
    pipeline: Pipeline, held_out: pl.DataFrame, features: pd.DataFrame, task: str
) -> Profile:
    """Return the part of the profile that is on a model's predictions for held-out rows.

    It has the distribution of the predictions and, for classification, those of the
    classes' probabilities. `features` are those that the model was trained on.
    """
    sample = held_out.gather_every(math.ceil(len(held_out) / PREDICTED_ROWS))
    columns = {
        name: get_column(sample, name).cast(TYPES[dtype.kind])
        for name, dtype in features.dtypes.items()
    }
    table = pl.DataFrame(columns).to_pandas()
    predictions = pipeline.predict(table)
    if task == "regression":
        values = pl.Series(predictions, dtype=NUMBER)
        return {"predictions": profile_column(values), "probabilities": {}}

    classes = pl.Series([str(name) for name in predictions], dtype=TEXT)
    return {
        "predictions": profile_column(classes),
        "probabilities": describe_probabilities(pipeline, table),
    }


def describe_probabilities(
    pipeline: Pipeline, table: pd.DataFrame
) -> dict[str, ColumnProfile]:
    """Return the distribution of each class's probability, by the name of its column.

    Of two classes, only the second is described, as the probability of the first follows
    from it. There is none if the model does not predict probabilities.
    """
    if not hasattr(pipeline, "predict_proba"):
        return {}
    probabilities = pipeline.predict_proba(table).round(PROBABILITY_DIGITS)
    positions = [1]
    if len(pipeline.classes_) > 2:
        most_probable_first = np.argsort(-probabilities.mean(axis=0))
        positions = sorted(most_probable_first[:MOST_CLASSES])
    return {
        f"probability_{pipeline.classes_[position]}": profile_column(
            pl.Series(probabilities[:, position], dtype=NUMBER)
        )
        for position in positions
    }


def save_profile(profile: Profile, model: Path) -> None:
    """Save the profile in the folder of a model."""
    text = json.dumps(profile, indent=2, ensure_ascii=False)
    (model / FILE_NAME).write_text(text, encoding="utf-8")
