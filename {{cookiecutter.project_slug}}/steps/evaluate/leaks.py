"""Find a feature that gives the target away, so that a model looks better than it is.

Nobody needs to change this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from model_metrics import encode_target, list_classes, predict
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

# A model with at least this skill is nearly perfect. The skill is the share that the model
# explains of what there is to explain.
NEARLY_PERFECT = 0.98
SUSPECTS = 3  # features that matter most
MOST_ROWS = 5_000
FOLDS = 5
# Small leaves would learn the rows by heart.
SMALLEST_LEAF = 3
LARGEST = 1e38  # A tree refuses numbers of more than 32 bits, and infinite ones.

Array = npt.NDArray[Any]


def note_leak(
    model: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    importance: pd.Series,
    task: str,
) -> list[str]:
    """Return a note if one feature alone predicts the target almost perfectly.

    This is only checked if the model itself is almost perfect. For each of the most
    important features, a decision tree is trained on this feature alone, and scored on
    rows that it was not trained on. The list is empty if there is no such feature.
    """
    classes = list_classes(target, [model])
    answers = encode_target(target, classes)
    predictions = predict(model, features, classes)
    predicted = predictions.probabilities
    if predicted is None:
        predicted = predictions.values
    if measure_skill(answers, predicted, task) < NEARLY_PERFECT:
        return []

    for name in importance.index[:SUSPECTS]:
        alone = measure_alone(features[name], answers, task)
        if alone >= NEARLY_PERFECT:
            note = (
                f"'{name}' alone predicts nearly everything ({alone:.1%} of what can be"
                " explained). If it is known only after the target, or made from it, the"
                " figures are too good: list it under data.ignore in settings.yml."
            )
            return [note]
    return []


def measure_skill(target: Array, predicted: Array, task: str) -> float:
    """Return the share of what there is to explain, 0 for guesses and 1 for no error.

    It is R² for numbers. For classes it is 2 AUC - 1, the mean over the classes, where
    `predicted` has a column of probabilities for each of them.
    It is 0 if all rows are alike.
    """
    if len(np.unique(target)) < 2:
        return 0.0
    if task == "regression":
        return float(r2_score(target, predicted))
    areas = [
        roc_auc_score(target == position, predicted[:, position])
        for position in np.unique(target)
    ]
    return float(2 * np.mean(areas) - 1)


def measure_alone(values: pd.Series, target: Array, task: str) -> float:
    """Return the skill of a decision tree that sees one feature, by cross-validation.

    Rare classes are left out. The skill is 0 if there are too few rows or classes.
    """
    if len(target) < FOLDS:
        return 0.0
    rows = np.random.default_rng(0).permutation(len(target))[:MOST_ROWS]
    column = encode_feature(values)[rows].reshape(-1, 1)
    target = target[rows]
    if task == "regression":
        number = DecisionTreeRegressor(min_samples_leaf=SMALLEST_LEAF, random_state=0)
        folds = KFold(FOLDS)
        predicted = cross_val_predict(number, column, target, cv=folds)
        return measure_skill(target, predicted, task)
    _, positions, counts = np.unique(target, return_inverse=True, return_counts=True)
    # Each part of a cross-validation needs a row of each class.
    is_frequent = counts[positions] >= FOLDS
    column = column[is_frequent]
    positions = np.unique(positions[is_frequent], return_inverse=True)[1]
    if len(np.unique(positions)) < 2:
        return 0.0
    tree = DecisionTreeClassifier(min_samples_leaf=SMALLEST_LEAF, random_state=0)
    predicted = cross_val_predict(
        tree, column, positions, cv=StratifiedKFold(FOLDS), method="predict_proba"
    )
    return measure_skill(positions, predicted, task)


def encode_feature(values: pd.Series) -> Array:
    """Return a feature as numbers that a decision tree takes.

    Missing values are smaller than all others, and texts are numbered in their order.
    """
    if values.dtype == object:
        return np.asarray(pd.factorize(values, sort=True)[0], dtype=float)
    numbers = values.astype("int64") if values.dtype.kind == "M" else values
    filled = np.clip(np.asarray(numbers, dtype=float), -LARGEST, LARGEST)
    return np.where(np.asarray(values.isna()), -2 * LARGEST, filled)
