"""The baseline: what can be predicted without looking at any feature."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from sklearn.dummy import DummyClassifier, DummyRegressor


@dataclass(frozen=True)
class Baseline:
    """A model without features, and a name for how it predicts."""

    name: str
    model: DummyClassifier | DummyRegressor


def fit_baseline(
    answers: pd.Series, task: str, dates: pd.Series | None = None
) -> Baseline:
    """Return the baseline for the targets of the training rows.

    In a classification it predicts the most frequent class, with the shares of all
    classes as probabilities. In a regression it predicts the mean of all rows, or, if
    their dates are given, the mean of the rows of the last date.
    """
    no_features = pd.DataFrame(index=answers.index)
    if task == "classification":
        shares = DummyClassifier(strategy="prior")
        return Baseline("class shares", shares.fit(no_features, answers))
    if dates is None or dates.isna().all():
        mean = DummyRegressor(strategy="mean")
        return Baseline("mean", mean.fit(no_features, answers))
    last_value = DummyRegressor(
        strategy="constant", constant=answers[dates == dates.max()].mean()
    )
    return Baseline("last value", last_value.fit(no_features, answers))
