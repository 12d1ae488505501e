"""Fit a baseline: a model that predicts the target without using any feature.

A model that is not better than the baseline has learned nothing useful from the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from sklearn.dummy import DummyClassifier, DummyRegressor


@dataclass(frozen=True)
class Baseline:
    """A model without features, and a name that says how it predicts."""

    name: str
    model: DummyClassifier | DummyRegressor


def fit_baseline(
    target: pd.Series, task: str, dates: pd.Series | None = None
) -> Baseline:
    """Return a baseline that is fitted to the target of the training rows.

    For a classification, the baseline predicts the most frequent class, and the share of
    each class as its probability. For a regression, it predicts the mean of the target. If
    the `dates` of the rows are given, it predicts the mean of the target on the last date.
    """
    no_features = pd.DataFrame(index=target.index)
    if task == "classification":
        class_shares = DummyClassifier(strategy="prior")
        return Baseline("class shares", class_shares.fit(no_features, target))

    if dates is None or dates.isna().all():
        mean = DummyRegressor(strategy="mean")
        return Baseline("mean", mean.fit(no_features, target))

    is_last_date = dates == dates.max()
    last_value = DummyRegressor(
        strategy="constant", constant=target[is_last_date].mean()
    )
    return Baseline("last value", last_value.fit(no_features, target))
