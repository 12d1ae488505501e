"""Warn of a feature that gives the target away, so that a model looks better than it is."""

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
# Missing values become this number, which is smaller than all others.
MISSING = -2 * LARGEST_NUMBER

Array = npt.NDArray[Any]


def note_leak(
    model: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    importance: pd.Series,
    task: str,
) -> list[str]:
    """Return a warning if one feature alone predicts the target almost perfectly.

    Features are only checked if the model is almost perfect, because a leak would make it
    so. `importance` has the features as its index, the most important one first. The result
    is a list with one note, or an empty list.
    """
    classes = list_classes(target, [model])
    encoded_target = encode_target(target, classes)
    predictions = predict(model, features, classes)
    if predictions.probabilities is None:
        output = predictions.values
    else:
        output = predictions.probabilities
    if measure_skill(encoded_target, output, task) < NEARLY_PERFECT:
        return []

    for name in importance.index[:CHECKED_FEATURES]:
        skill = measure_skill_of_feature(features[name], encoded_target, task)
        if skill >= NEARLY_PERFECT:
            note = (
                f"'{name}' alone explains {skill:.1%} of the target. If it is known only"
                " after the target, or is derived from it, the metrics are too optimistic:"
                " list it under data.ignore in settings.yml."
            )
            return [note]
    return []


def measure_skill(target: Array, predicted: Array, task: str) -> float:
    """Return how good predictions are, independent of the unit of the target.

    The skill is 1 for perfect predictions, 0 for predictions that are no better than
    guessing, and below 0 for worse ones. In a regression, it is R². In a classification,
    it is the mean of 2 AUC - 1 over the classes, and `predicted` has a column of
    probabilities for each class. If all rows have the same target, the skill is 0.
    """
    occurring_values = np.unique(target)
    if len(occurring_values) < 2:
        return 0.0
    if task == "regression":
        return float(r2_score(target, predicted))
    aucs = [
        roc_auc_score(target == position, predicted[:, position])
        for position in occurring_values
    ]
    return float(2 * np.mean(aucs) - 1)


def measure_skill_of_feature(feature: pd.Series, target: Array, task: str) -> float:
    """Return the skill of a decision tree that predicts the target from a single feature.

    The skill is 1 for perfect predictions, and 0 for guesses (see measure_skill). It is
    measured by cross-validation on at most MOST_ROWS rows. With too few rows for a
    cross-validation, it is 0.
    """
    if len(target) < FOLDS:
        return 0.0
    sampled_rows = np.random.default_rng(0).permutation(len(target))[:MOST_ROWS]
    column = encode_feature(feature)[sampled_rows].reshape(-1, 1)
    if task == "regression":
        return _measure_regression_tree(column, target[sampled_rows])
    return _measure_classification_tree(column, target[sampled_rows])


def _measure_regression_tree(feature: Array, target: Array) -> float:
    """Return R² of a decision tree that predicts numbers, by cross-validation."""
    tree = DecisionTreeRegressor(min_samples_leaf=SMALLEST_LEAF, random_state=0)
    predicted = cross_val_predict(tree, feature, target, cv=KFold(FOLDS))
    return measure_skill(target, predicted, "regression")


def _measure_classification_tree(feature: Array, target: Array) -> float:
    """Return the skill of a decision tree that predicts classes, by cross-validation.

    The skill is 1 for perfect predictions, and 0 for guesses (see measure_skill). Classes
    with fewer rows than the cross-validation has folds are left out. If fewer than two
    classes remain, the skill is 0.
    """
    rows_of_class = np.bincount(target)
    has_enough_rows = rows_of_class[target] >= FOLDS
    remaining_target = target[has_enough_rows]
    classes = np.unique(remaining_target)
    if len(classes) < 2:
        return 0.0

    # The probabilities have a column for each remaining class, so classes are renumbered.
    renumbered_target = np.searchsorted(classes, remaining_target)
    tree = DecisionTreeClassifier(min_samples_leaf=SMALLEST_LEAF, random_state=0)
    probabilities = cross_val_predict(
        tree,
        feature[has_enough_rows],
        renumbered_target,
        cv=StratifiedKFold(FOLDS),
        method="predict_proba",
    )
    return measure_skill(renumbered_target, probabilities, "classification")


def encode_feature(feature: pd.Series) -> Array:
    """Return a feature as numbers that a decision tree accepts.

    Larger values get larger numbers: texts are numbered from 0 in alphabetical order, and
    dates become integers. Missing values get a number below all others.
    """
    if feature.dtype == object:
        # factorize gives the number -1 to missing values.
        numbers, _ = pd.factorize(feature, sort=True)
        return np.asarray(numbers, dtype=float)

    is_date = feature.dtype.kind == "M"
    values = feature.astype("int64") if is_date else feature
    # The tree converts numbers to 32 bits. Numbers beyond LARGEST_NUMBER would become
    # infinite there. MISSING is smaller than -LARGEST_NUMBER.
    clipped = np.clip(np.asarray(values, dtype=float), -LARGEST_NUMBER, LARGEST_NUMBER)
    return np.where(np.asarray(feature.isna()), MISSING, clipped)
