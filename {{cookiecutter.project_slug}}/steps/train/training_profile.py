"""Write the profile of the training data: the distribution of each feature of a model.

The profile is saved with the model as `profile.json`. Before new data is scored, the step
`monitor` compares the new data with the profile.
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
# The number of bins for a distribution. With fewer bins, the population stability index
# often stays below its usual limit, even if the mean moves by half a standard deviation.
BINS = 20
# The edges of the bins are quantiles of about this many rows. All rows are counted.
ROWS_FOR_EDGES = 100_000
# The categories of a column are listed if there are at most this many.
MOST_CATEGORIES = 10_000
# The model predicts about this many of the held-out rows.
PREDICTED_ROWS = 10_000
# If there are more classes, the profile has only the probabilities of this many classes,
# the most probable ones.
MOST_CLASSES = 30
# Smaller differences in a probability mean little, and its last digits depend on the
# processor. If all digits were kept, equal rows could fall into different bins.
PROBABILITY_DIGITS = 4
# The polars types of features, by the kinds of NumPy's types.
TYPES = {"f": NUMBER, "M": DATE, "O": TEXT}

# The profile of all features, as it is written to the file.
Profile = dict[str, Any]
# The part of the profile that describes one feature, or the predictions.
ColumnProfile = dict[str, Any]


def describe_training_data(
    prepared_rows: pl.DataFrame,
    training: pl.DataFrame,
    feature_names: Sequence[str],
    keys: Sequence[str],
) -> Profile:
    """Return the profile of the features in the rows that a model is trained on.

    `training` has the training rows. Features without any value in these rows are left out,
    because new values cannot be compared with them.

    `prepared_rows` has all rows, also the held-out ones, and serves only to count repeated
    rows: those that have the same keys as an earlier row or, without keys, the same values
    in all features.
    """
    column_profiles = {}
    for name in feature_names:
        column_profile = profile_column(get_column(training, name))
        if column_profile["missing"] < len(training):
            column_profiles[name] = column_profile
    return {
        "rows": len(training),
        "features": column_profiles,
        "repeats": {
            "keys": list(keys),
            "rows": len(prepared_rows),
            "repeated": count_repeats(prepared_rows, keys or feature_names),
        },
    }


def count_repeats(table: pl.DataFrame, columns: Sequence[str]) -> int:
    """Return how many rows have the same values in `columns` as an earlier row.

    For example, two equal rows count as one repeated row.
    """
    # `select` would read a name such as `^a$` as a pattern, but `cs.by_name` does not.
    # Counting distinct hashes needs less memory than counting distinct rows.
    hashes = table.select(cs.by_name(*columns)).hash_rows()
    return len(table) - hashes.n_unique()


def profile_column(values: pl.Series) -> ColumnProfile:
    """Return the profile of a column of text, dates or numbers.

    `missing` is the number of missing values, and `kind` is "text", "date" or "number". A
    column without any value has only `missing`. NaN counts as missing.
    """
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
    """Return the number of dates, and the earliest and the latest of them in ISO 8601.

    A date that Python cannot represent, such as a day in the year 0, is replaced by the
    nearest date that it can represent.
    """
    representable = dates.cast(DATE).clip(datetime.min, datetime.max)
    texts = representable.dt.to_string("iso:strict")
    return {"filled": len(dates), "earliest": texts.min(), "latest": texts.max()}


def profile_categories(texts: pl.Series) -> ColumnProfile:
    """Count the rows of each frequent category, and group the rarer categories into bins.

    A category is frequent if it has at least 1/BINS of the rows. The rarer categories are
    sorted alphabetically, and divided into bins with about 1/BINS of the rows each. Since a
    bin is a range of the alphabet, a category that is new also falls into one of the bins.

    `seen` holds the number of rows of every category. It is None if there are more than
    MOST_CATEGORIES.
    """
    # If two categories are equally frequent, the alphabet decides which comes first.
    counted = texts.alias("text").value_counts(name="rows").sort("text")
    rows_per_bin = len(texts) / BINS
    is_frequent = pl.col("rows") >= rows_per_bin
    frequent = counted.filter(is_frequent)
    frequent = frequent.sort("rows", descending=True, maintain_order=True)
    edges, counts = group_rare_texts(counted.filter(~is_frequent), rows_per_bin)

    can_be_listed = len(counted) <= MOST_CATEGORIES
    return {
        "frequent": dict(frequent.iter_rows()),
        "edges": edges,
        "counts": counts,
        "seen": dict(counted.iter_rows()) if can_be_listed else None,
    }


def group_rare_texts(
    rare: pl.DataFrame, rows_per_bin: float
) -> tuple[list[str], list[int]]:
    """Group texts in alphabetical order into bins of about `rows_per_bin` rows.

    `rare` has the column `text`, in alphabetical order, and the column `rows`: how many
    rows of the data have this text.

    Returns the edges and the counts of the bins. There is a count for each bin: its number
    of rows. There is an edge for each bin but the last one: its last text. For example, if
    a, b, c and d have 2 rows each, and `rows_per_bin` is 4, the edges are ["b"], and the
    counts are [4, 4].
    """
    # The bin of a text depends on the number of rows that come before it.
    rows_before = rare["rows"].cum_sum() - rare["rows"]
    bin_numbers = rows_before // rows_per_bin
    bins = rare.group_by(bin_numbers.alias("bin"), maintain_order=True).agg(
        pl.col("text").last(), pl.col("rows").sum()
    )
    if bins.is_empty():
        # One bin without rows is kept, so that new texts have a bin.
        return [], [0]
    return bins["text"].to_list()[:-1], bins["rows"].to_list()


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
    """Return the edges that divide numbers into at most BINS bins of about equal size.

    A number that equals an edge is in the bin below the edge. The last bin has no upper
    edge, so there is one edge fewer than there are bins. If there are at most BINS distinct
    numbers, each has its own bin: the numbers 1, 2 and 5 have the edges 1 and 2.

    If there are more than ROWS_FOR_EDGES numbers, a sample of them is used.
    """
    sample = numbers.gather_every(math.ceil(len(numbers) / ROWS_FOR_EDGES))
    distinct = sample.unique().sort()
    if len(distinct) <= BINS:
        return [float(number) for number in distinct[:-1]]
    shares = [number / BINS for number in range(1, BINS)]
    # With the method "lower", each quantile is a number that occurs.
    quantiles = np.quantile(sample.to_numpy(), shares, method="lower")
    # If one number is very frequent, several quantiles are equal.
    return [float(edge) for edge in np.unique(quantiles)]


def describe_predictions(
    pipeline: Pipeline, held_out: pl.DataFrame, features: pd.DataFrame, task: str
) -> Profile:
    """Return the profile of the predictions of a model for a sample of held-out rows.

    The profile has the distribution of the predictions and, for a classification, those of
    the classes' probabilities. `features` are the features of the training rows. The
    held-out rows are converted to the types of these features.
    """
    sample = held_out.gather_every(math.ceil(len(held_out) / PREDICTED_ROWS))
    columns = {
        name: get_column(sample, name).cast(TYPES[dtype.kind])
        for name, dtype in features.dtypes.items()
    }
    sample_features = pl.DataFrame(columns).to_pandas()
    predictions = pipeline.predict(sample_features)
    if task == "regression":
        values = pl.Series(predictions, dtype=NUMBER)
        return {"predictions": profile_column(values), "probabilities": {}}

    class_names = [str(predicted_class) for predicted_class in predictions]
    return {
        "predictions": profile_column(pl.Series(class_names, dtype=TEXT)),
        "probabilities": describe_probabilities(pipeline, sample_features),
    }


def describe_probabilities(
    pipeline: Pipeline, features: pd.DataFrame
) -> dict[str, ColumnProfile]:
    """Return the profiles of the predicted probabilities of the classes.

    The keys are the names of columns in the predictions, such as "probability_Adelie". If
    there are two classes, only the second one has a profile, because the probability of the
    first class follows from it. If there are more than MOST_CLASSES classes, only the
    MOST_CLASSES classes with the highest mean probability have one.

    Returns an empty dictionary if the model does not predict probabilities.
    """
    if not hasattr(pipeline, "predict_proba"):
        return {}
    probabilities = pipeline.predict_proba(features).round(PROBABILITY_DIGITS)
    if len(pipeline.classes_) == 2:
        positions = [1]
    else:
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
