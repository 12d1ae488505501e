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


def fit_baseline(answers: pd.Series, task: str) -> Baseline:
    """Return the baseline for the targets of the training rows.

    In a classification it predicts the most frequent class, with the shares of all
    classes as probabilities, and in a regression the mean.
    """
    no_features = pd.DataFrame(index=answers.index)
    if task == "classification":
        shares = DummyClassifier(strategy="prior")
        return Baseline("class shares", shares.fit(no_features, answers))
    mean = DummyRegressor(strategy="mean")
    return Baseline("mean", mean.fit(no_features, answers))
