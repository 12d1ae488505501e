"""Find a feature that gives the target away, so that a model looks better than it is."""

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

# A model with at least this skill is nearly perfect, see `measure_skill`.
NEARLY_PERFECT = 0.98
# Only this many of the most important features are checked.
CHECKED_FEATURES = 3
# The trees are trained and scored on at most this many rows.
MOST_ROWS = 5_000
FOLDS = 5
# With smaller leaves, a tree could learn single rows by heart.
SMALLEST_LEAF = 3
# A tree takes 32-bit floats, whose largest value is 3.4e38, and no infinite values.
LARGEST_NUMBER = 1e38

Array = npt.NDArray[Any]


def note_leak(
    model: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    importance: pd.Series,
    task: str,
) -> list[str]:
    """Return a note if one feature alone predicts the target almost perfectly.

    Features are only checked if the model itself is almost perfect. `importance` has the
    names of the features, the most important one first.
    """
    classes = list_classes(target, [model])
    encoded_target = encode_target(target, classes)
    predictions = predict(model, features, classes)
    predicted = predictions.values
    if predictions.probabilities is not None:
        predicted = predictions.probabilities
    if measure_skill(encoded_target, predicted, task) < NEARLY_PERFECT:
        return []

    for name in importance.index[:CHECKED_FEATURES]:
        skill = measure_alone(features[name], encoded_target, task)
        if skill >= NEARLY_PERFECT:
            note = (
                f"'{name}' alone predicts nearly everything ({skill:.1%} of what can be"
                " explained). If it is known only after the target, or made from it, the"
                " figures are too good: list it under data.ignore in settings.yml."
            )
            return [note]
    return []


def measure_skill(target: Array, predicted: Array, task: str) -> float:
    """Return how much of the target is explained: 0 for guesses, 1 for no error.

    For numbers, this is R². For classes, it is the mean of 2 AUC - 1 over the classes, and
    `predicted` has a column of probabilities for each class. If all rows have the same
    target, it is 0.
    """
    occurring = np.unique(target)
    if len(occurring) < 2:
        return 0.0
    if task == "regression":
        return float(r2_score(target, predicted))
    areas = [
        roc_auc_score(target == position, predicted[:, position])
        for position in occurring
    ]
    return float(2 * np.mean(areas) - 1)


def measure_alone(values: pd.Series, target: Array, task: str) -> float:
    """Return the skill of a decision tree that has a single feature.

    It is measured by cross-validation on some of the rows, and is 0 if there are too few.
    """
    if len(target) < FOLDS:
        return 0.0
    rows = np.random.default_rng(0).permutation(len(target))[:MOST_ROWS]
    feature = encode_feature(values)[rows].reshape(-1, 1)
    if task == "regression":
        return _measure_regression_tree(feature, target[rows])
    return _measure_classification_tree(feature, target[rows])


def _measure_regression_tree(feature: Array, target: Array) -> float:
    """Return the skill of a decision tree that predicts numbers."""
    tree = DecisionTreeRegressor(min_samples_leaf=SMALLEST_LEAF, random_state=0)
    predicted = cross_val_predict(tree, feature, target, cv=KFold(FOLDS))
    return measure_skill(target, predicted, "regression")


def _measure_classification_tree(feature: Array, target: Array) -> float:
    """Return the skill of a decision tree that predicts classes.

    Classes with too few rows for the cross-validation are left out. The skill is 0 if fewer
    than two classes are left.
    """
    rows_of_class = np.bincount(target)
    has_enough_rows = rows_of_class[target] >= FOLDS
    feature = feature[has_enough_rows]
    target = target[has_enough_rows]
    classes = np.unique(target)
    if len(classes) < 2:
        return 0.0

    # The probabilities have a column for each remaining class, so classes are renumbered.
    target = np.searchsorted(classes, target)
    tree = DecisionTreeClassifier(min_samples_leaf=SMALLEST_LEAF, random_state=0)
    probabilities = cross_val_predict(
        tree, feature, target, cv=StratifiedKFold(FOLDS), method="predict_proba"
    )
    return measure_skill(target, probabilities, "classification")


def encode_feature(values: pd.Series) -> Array:
    """Return a feature as numbers that a decision tree accepts.

    Texts are numbered in alphabetical order. Missing values are smaller than all others.
    """
    if values.dtype == object:
        numbers, _ = pd.factorize(values, sort=True)
        return np.asarray(numbers, dtype=float)

    numbers = values.astype("int64") if values.dtype.kind == "M" else values
    clipped = np.clip(np.asarray(numbers, dtype=float), -LARGEST_NUMBER, LARGEST_NUMBER)
    return np.where(np.asarray(values.isna()), -2 * LARGEST_NUMBER, clipped)
