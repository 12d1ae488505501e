"""Cross-validation: how well a model predicts training rows that it was not fitted on."""

from __future__ import annotations

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
from split import DATE, TimeSplit, get_column

Array = npt.NDArray[Any]

# The metrics that steps/evaluate/model_metrics.py knows. The first one is the default.
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
# With a hold-out by time, each of the last periods is predicted from the rows before it.
# These are the shares of the rows that lie before the periods.
PERIOD_STARTS = [0.4, 0.6, 0.8]


class CannotJudge(Exception):
    """Cross-validation gives no figure for these rows. The message says why."""


@dataclass(frozen=True)
class Fold:
    """The rows that a model is fitted on, and the rows that it is judged by."""

    fitted: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.bool_]


def list_folds(
    training: pl.DataFrame, numbers: npt.NDArray[np.int64], split: Any
) -> list[Fold]:
    """Return the folds of the training rows.

    `numbers` has the number of a fold for each row, in which rows of one group are
    together. Of many rows, a single fold is enough. If rows are held out from a date on,
    each fold is a period that is predicted from the rows before it.
    """
    if isinstance(split, TimeSplit):
        return _list_periods(get_column(training, split.column).cast(DATE))
    count = 1 if len(training) > MOST_ROWS_FOR_ALL_FOLDS else FOLDS
    return [Fold(numbers != fold, numbers == fold) for fold in range(count)]


def _list_periods(dates: pl.Series) -> list[Fold]:
    """Return a fold for each period. Rows without a date are only fitted on."""
    starts = [dates.quantile(share) for share in PERIOD_STARTS]
    folds = []
    for position, start in enumerate(starts):
        is_later = (dates >= start).fill_null(value=False).to_numpy()
        is_judged = is_later
        if position + 1 < len(starts):
            is_before_end = (dates < starts[position + 1]).fill_null(value=False)
            is_judged = is_later & is_before_end.to_numpy()
        folds.append(Fold(~is_later, is_judged))
    return folds


def cross_validate(
    pipeline: Pipeline,
    features: pd.DataFrame,
    answers: pd.Series,
    folds: list[Fold],
    task: str,
    metric: str,
) -> float:
    """Return the metric of all judged rows together, each predicted in its own fold.

    Folds without judged rows, or with less than two values to learn, are left out. Raises
    CannotJudge if no fold is left, or if the metric has no value for the judged rows.
    """
    classes = np.unique(answers) if task == "classification" else np.array([])
    targets = []
    predictions = []
    probabilities = []
    for fold in folds:
        learned = answers[fold.fitted]
        if not fold.judged.any() or learned.nunique() < 2:
            continue
        model = clone(pipeline).fit(features[fold.fitted], learned)
        judged = features[fold.judged]
        target = answers[fold.judged].to_numpy()
        predicted = model.predict(judged)
        if task == "classification":
            target = np.searchsorted(classes, target)
            predicted = np.searchsorted(classes, predicted)
            probabilities.append(_predict_probabilities(model, judged, classes))
        targets.append(target)
        predictions.append(predicted)
    if not targets:
        raise CannotJudge(
            "no part of the training rows can be predicted from the others"
        )

    target = np.concatenate(targets)
    predicted = np.concatenate(predictions)
    if task == "regression":
        return _judge_numbers(metric, target, predicted)
    return _judge_classes(metric, target, predicted, np.concatenate(probabilities))


def _predict_probabilities(
    model: Pipeline, features: pd.DataFrame, classes: Array
) -> Array:
    """Return a column of probabilities for each class, 0 for those the model lacks."""
    probabilities = np.zeros((len(features), len(classes)))
    positions = np.searchsorted(classes, model.classes_)
    probabilities[:, positions] = model.predict_proba(features)
    return probabilities


def _judge_numbers(metric: str, target: Array, predicted: Array) -> float:
    """Return a metric of predicted numbers. Raises CannotJudge if it has no value."""
    if metric == "mape" and not target.all():
        raise CannotJudge("mape divides by the target, which is 0 in some rows")
    compute = {
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "mape": metrics.mean_absolute_percentage_error,
        "r2": metrics.r2_score,
    }
    return float(compute[metric](target, predicted))


def _judge_classes(
    metric: str, target: Array, predicted: Array, probabilities: Array
) -> float:
    """Return a metric of predicted classes, which are positions in a list of classes.

    Raises CannotJudge if it has no value.
    """
    occurring = np.unique(target)
    match metric:
        case "log_loss":
            labels = range(probabilities.shape[1])
            return float(metrics.log_loss(target, probabilities, labels=labels))
        case "accuracy":
            return float(metrics.accuracy_score(target, predicted))
        case "f1_macro":
            return float(metrics.f1_score(target, predicted, average="macro"))
        case "balanced_accuracy":
            recall = metrics.recall_score(
                target, predicted, labels=occurring, average="macro"
            )
            return float(recall)

    if len(occurring) < 2:
        raise CannotJudge("all rows that are judged are of one class")
    ranked = list(occurring)
    if probabilities.shape[1] == 2:
        # The same class as in the evaluation: of two equally frequent ones, the second.
        counts = np.bincount(target, minlength=2)
        rarer = 0 if counts[0] < counts[1] else 1
        ranked = [rarer if metric == "average_precision" else 1]
    compute = {
        "roc_auc": metrics.roc_auc_score,
        "average_precision": metrics.average_precision_score,
    }
    scores = [
        compute[metric](target == position, probabilities[:, position])
        for position in ranked
    ]
    return float(np.mean(scores))
