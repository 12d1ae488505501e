"""Measure by cross-validation how well a model predicts rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from iterations import FOLDS, MOST_ROWS_FOR_ALL_FOLDS
from sklearn import metrics
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from split import DATE, Split, TimeSplit, get_column

Array = npt.NDArray[Any]

# The same metrics as in steps/evaluate/model_metrics.py. The first one is the default.
METRICS = {
    "classification": [
        "log_loss",
        "roc_auc",
        "average_precision",
        "f1_macro",
        "balanced_accuracy",
        "accuracy",
    ],
    "regression": ["rmse", "mae", "mape", "r2"],
}
LOWER_IS_BETTER = {"log_loss", "rmse", "mae", "mape"}
# If rows are held out by date, each fold judges a period, and the model is fitted on the
# rows before it. A period begins after each of these shares of the rows.
PERIOD_STARTS = [0.4, 0.6, 0.8]


class CannotJudge(Exception):
    """The metric has no value for these rows. The message says why."""


@dataclass(frozen=True)
class Fold:
    """The rows that a model is fitted on, and the rows that it is judged on."""

    fitted: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.bool_]


def list_folds(
    training: pl.DataFrame,
    fold_numbers: npt.NDArray[np.int64],
    split: Split | TimeSplit,
) -> list[Fold]:
    """Return the folds of the training rows.

    `fold_numbers` has the fold number of each row. If there are many rows, only the first
    fold is judged, which saves time. If rows are held out by date, each fold is a period
    of time, and the model that is judged on it is fitted on the rows before it.
    """
    if isinstance(split, TimeSplit):
        return _list_periods(get_column(training, split.column).cast(DATE))
    fold_count = FOLDS
    if len(training) > MOST_ROWS_FOR_ALL_FOLDS:
        fold_count = 1
    return [
        Fold(fitted=fold_numbers != fold, judged=fold_numbers == fold)
        for fold in range(fold_count)
    ]


def _list_periods(dates: pl.Series) -> list[Fold]:
    """Return a fold for each period. Rows without a date are only fitted on."""
    starts = [dates.quantile(share) for share in PERIOD_STARTS]
    ends = [*starts[1:], None]
    folds = []
    for start, end in zip(starts, ends, strict=True):
        is_later = (dates >= start).fill_null(value=False)
        is_in_period = is_later
        if end is not None:
            is_in_period = is_later & (dates < end)
        folds.append(
            Fold(
                fitted=~is_later.to_numpy(),
                judged=is_in_period.fill_null(value=False).to_numpy(),
            )
        )
    return folds


@dataclass(frozen=True)
class JudgedRows:
    """The actual target of some rows, and what a model predicts for them.

    In a classification, `actual` and `predicted` are positions in the list of classes, and
    `probabilities` has a column for each class. In a regression, they are numbers.
    """

    actual: Array
    predicted: Array
    probabilities: Array | None = None


def cross_validate(
    pipeline: Pipeline,
    features: pd.DataFrame,
    target: pd.Series,
    folds: Sequence[Fold],
    task: str,
    metric: str,
) -> float:
    """Return a metric of rows that are each predicted by a model fitted without them.

    The metric is computed once, for the judged rows of all folds together. A fold is left
    out if it has no judged row, or fewer than two different values to fit a model to.

    Raises CannotJudge if no fold is left, or if the metric has no value for these rows.
    """
    judged = []
    for fold in folds:
        can_be_fitted = target[fold.fitted].nunique() >= 2
        if can_be_fitted and fold.judged.any():
            judged.append(_predict_fold(pipeline, features, target, fold, task))
    if not judged:
        raise CannotJudge(
            "no part of the training rows can be predicted from the others"
        )

    actual = np.concatenate([rows.actual for rows in judged])
    predicted = np.concatenate([rows.predicted for rows in judged])
    if task == "regression":
        return _judge_numbers(metric, actual, predicted)
    probabilities = np.concatenate([rows.probabilities for rows in judged])
    return _judge_classes(metric, actual, predicted, probabilities)


def _predict_fold(
    pipeline: Pipeline, features: pd.DataFrame, target: pd.Series, fold: Fold, task: str
) -> JudgedRows:
    """Fit a model on the rows of a fold, and predict the judged rows."""
    model = clone(pipeline).fit(features[fold.fitted], target[fold.fitted])
    judged_features = features[fold.judged]
    actual = target[fold.judged].to_numpy()
    predicted = model.predict(judged_features)
    if task == "regression":
        return JudgedRows(actual, predicted)

    # The classes of all folds, in sorted order.
    classes = np.unique(target)
    # A class that the model was not fitted on keeps the probability 0.
    probabilities = np.zeros((len(judged_features), len(classes)))
    fitted_classes = np.searchsorted(classes, model.classes_)
    probabilities[:, fitted_classes] = model.predict_proba(judged_features)
    return JudgedRows(
        actual=np.searchsorted(classes, actual),
        predicted=np.searchsorted(classes, predicted),
        probabilities=probabilities,
    )


def _judge_numbers(metric: str, actual: Array, predicted: Array) -> float:
    """Return a metric of predicted numbers. Raises CannotJudge if it has no value."""
    if metric == "mape" and not actual.all():
        raise CannotJudge("mape divides by the target, which is 0 in some rows")
    if metric == "r2" and np.ptp(actual) == 0:
        raise CannotJudge("the target has the same value in all rows that are judged")
    compute = {
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "mape": metrics.mean_absolute_percentage_error,
        "r2": metrics.r2_score,
    }
    return float(compute[metric](actual, predicted))


def _judge_classes(
    metric: str, actual: Array, predicted: Array, probabilities: Array
) -> float:
    """Return a metric of predicted classes. Raises CannotJudge if it has no value."""
    match metric:
        case "log_loss":
            positions = range(probabilities.shape[1])
            return float(metrics.log_loss(actual, probabilities, labels=positions))
        case "accuracy":
            return float(metrics.accuracy_score(actual, predicted))
        case "f1_macro":
            return float(metrics.f1_score(actual, predicted, average="macro"))
        case "balanced_accuracy":
            recall = metrics.recall_score(
                actual, predicted, labels=np.unique(actual), average="macro"
            )
            return float(recall)
        case "roc_auc":
            compute = metrics.roc_auc_score
        case "average_precision":
            compute = metrics.average_precision_score
        case _:
            raise KeyError(metric)

    scores = [
        compute(actual == position, probabilities[:, position])
        for position in _select_ranked_classes(metric, actual, probabilities)
    ]
    return float(np.mean(scores))


def _select_ranked_classes(
    metric: str, actual: Array, probabilities: Array
) -> list[int]:
    """Return the positions of the classes whose ranking is judged.

    They are the same as in the evaluation. Raises CannotJudge if there is only one class.
    """
    occurring = np.unique(actual)
    if len(occurring) < 2:
        raise CannotJudge("all rows that are judged are of one class")
    if probabilities.shape[1] > 2:
        return [int(position) for position in occurring]

    counts = np.bincount(actual, minlength=2)
    if metric == "average_precision" and counts[0] < counts[1]:
        return [0]
    return [1]
