"""Measure by cross-validation how well a model predicts rows that it was not trained on.

The training rows are divided into folds. For each fold, a model is trained on other rows,
and tested on the rows of the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
Mask = npt.NDArray[np.bool_]
FoldNumbers = npt.NDArray[np.int64]

# The fold number of rows that are in no fold. Such rows are always trained on.
NO_FOLD = FOLDS
# If rows are held out by date, the number of trees is chosen on a single fold: the latest
# fifth of the training rows, which comes after this share of them.
FOLD_START = 0.8
# If rows are held out by date, a search tests its models on three periods, which begin
# after these shares of the training rows.
PERIOD_STARTS = [0.4, 0.6, 0.8]
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


class CannotCompute(Exception):
    """The metric is not defined for these rows. The message gives the reason."""


# The folds


@dataclass(frozen=True)
class Fold:
    """The rows that a model is trained on, and the rows that it is tested on.

    Each of the two masks has a value for each training row. A row may be in neither mask.
    """

    train: Mask
    test: Mask


def assign_fold_numbers(
    training: pl.DataFrame, split: Split | TimeSplit
) -> FoldNumbers:
    """Return the fold number of each training row, by which the number of trees is chosen.

    If rows are held out at random, there are FOLDS folds. If rows are held out by date,
    there is only the fold of the latest rows.
    """
    if isinstance(split, TimeSplit):
        return _number_latest_rows(get_column(training, split.column).cast(DATE))
    return _number_groups(training, split)


def _number_groups(training: pl.DataFrame, split: Split) -> FoldNumbers:
    """Return a random fold number below FOLDS for each row, the same for a whole group.

    Rows that are equal in the columns `split.by` form a group.
    """
    # The numbers of the groups with the split's seed have decided which rows are held out.
    # With another seed, the folds do not depend on that decision.
    fold_seed = (split.seed + 1) % 2**32
    fold_split = Split(split.by, fold_seed, split.fraction)
    return (fold_split.groups(training) % np.uint64(FOLDS)).astype(np.int64)


def _number_latest_rows(dates: pl.Series) -> FoldNumbers:
    """Return the fold number 0 for the latest rows, and NO_FOLD for all other rows.

    The latest rows are those from the quantile FOLD_START of the `dates` on. So the number
    of trees is chosen on rows that are later than the rows trained on, just as the model is
    evaluated on later rows. Rows without a date are in no fold.
    """
    is_late = (dates >= dates.quantile(FOLD_START)).fill_null(value=False)
    return np.where(is_late.to_numpy(), 0, NO_FOLD)


def list_folds(
    training: pl.DataFrame, fold_numbers: FoldNumbers, split: Split | TimeSplit
) -> list[Fold]:
    """Return the folds by which a search compares hyperparameters.

    `fold_numbers` holds the fold number of each training row. Each fold is tested with a
    model that is trained on all other rows. If there are more than MOST_ROWS_FOR_ALL_FOLDS
    rows, only the first fold is tested, to save time.

    If rows are held out by date, `fold_numbers` is not used. Each fold is then a period of
    time, and its model is trained on the rows before this period.
    """
    if isinstance(split, TimeSplit):
        return _list_period_folds(get_column(training, split.column).cast(DATE))
    fold_count = FOLDS
    if len(training) > MOST_ROWS_FOR_ALL_FOLDS:
        fold_count = 1
    return [
        Fold(train=fold_numbers != number, test=fold_numbers == number)
        for number in range(fold_count)
    ]


def _list_period_folds(dates: pl.Series) -> list[Fold]:
    """Return a fold for each period: trained on the rows before it, tested on its rows.

    The periods begin at the quantiles PERIOD_STARTS of the dates. Each period ends where
    the next one begins, and the last one has no end. Rows without a date are always trained
    on.
    """
    starts = [dates.quantile(share) for share in PERIOD_STARTS]
    ends = [*starts[1:], None]
    folds = []
    for start, end in zip(starts, ends, strict=True):
        # A comparison with a missing date is null. Such a row counts as earlier.
        is_before = (dates < start).fill_null(value=True)
        is_in_period = ~is_before
        if end is not None:
            is_in_period &= (dates < end).fill_null(value=False)
        folds.append(Fold(train=is_before.to_numpy(), test=is_in_period.to_numpy()))
    return folds


# The models of the folds


@dataclass(frozen=True)
class FoldPredictions:
    """The actual target of the test rows of a fold, and what a model predicts for them.

    In a regression, `actual` and `predicted` are numbers. In a classification, they are
    the positions of the classes in the sorted list of all classes, and `probabilities` has
    a column for each class in this order.
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
    """Return a metric of the model, measured by cross-validation.

    The metric is computed once, for the test rows of all folds together. A fold is skipped
    if it has no test row, or if the target of its training rows has a single value.

    Raises CannotCompute if all folds are skipped, or if the metric is not defined for the
    test rows.
    """
    tested_folds = []
    for fold in folds:
        can_be_trained = target[fold.train].nunique() >= 2
        if can_be_trained and fold.test.any():
            tested_folds.append(_test_fold(pipeline, features, target, fold, task))
    if not tested_folds:
        raise CannotCompute(
            "each fold has no test row, or only one target value in its training rows"
        )

    actual = np.concatenate([tested.actual for tested in tested_folds])
    predicted = np.concatenate([tested.predicted for tested in tested_folds])
    if task == "regression":
        return _score_numbers(metric, actual, predicted)
    probabilities = np.concatenate([tested.probabilities for tested in tested_folds])
    return _score_classes(metric, actual, predicted, probabilities)


def _test_fold(
    pipeline: Pipeline, features: pd.DataFrame, target: pd.Series, fold: Fold, task: str
) -> FoldPredictions:
    """Return a model's predictions for the test rows of a fold.

    The model is a copy of the pipeline, trained on the training rows of the fold.
    """
    model = clone(pipeline).fit(features[fold.train], target[fold.train])
    test_features = features[fold.test]
    actual = target[fold.test].to_numpy()
    predicted = model.predict(test_features)
    if task == "regression":
        return FoldPredictions(actual, predicted)

    # The training rows of this fold may lack some classes of the whole target. The model
    # does not know such a class, so its probability stays 0.
    classes = np.unique(target)
    positions_of_model = np.searchsorted(classes, model.classes_)
    probabilities = np.zeros((len(test_features), len(classes)))
    probabilities[:, positions_of_model] = model.predict_proba(test_features)
    return FoldPredictions(
        actual=np.searchsorted(classes, actual),
        predicted=np.searchsorted(classes, predicted),
        probabilities=probabilities,
    )


# The metrics


def _score_numbers(metric: str, actual: Array, predicted: Array) -> float:
    """Return the value of a metric of a regression.

    Raises CannotCompute if the metric is not defined for these rows.
    """
    if metric == "mape" and not actual.all():
        raise CannotCompute("the target is 0 in some rows, and mape divides by it")
    if metric == "r2" and np.ptp(actual) == 0:
        raise CannotCompute("the target has the same value in all rows that are tested")
    compute = {
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "mape": metrics.mean_absolute_percentage_error,
        "r2": metrics.r2_score,
    }
    return float(compute[metric](actual, predicted))


def _score_classes(
    metric: str, actual: Array, predicted: Array, probabilities: Array
) -> float:
    """Return the value of a metric of a classification.

    `actual` and `predicted` hold the position of the class of each row. `probabilities` has
    a column for each class.

    Raises CannotCompute if the metric is not defined for these rows.
    """
    match metric:
        case "log_loss":
            positions = range(probabilities.shape[1])
            return float(metrics.log_loss(actual, probabilities, labels=positions))
        case "accuracy":
            return float(metrics.accuracy_score(actual, predicted))
        case "f1_macro":
            return float(metrics.f1_score(actual, predicted, average="macro"))
        case "balanced_accuracy":
            # `balanced_accuracy_score` computes the same number, but it warns if a class is
            # predicted that does not occur.
            recall = metrics.recall_score(
                actual, predicted, labels=np.unique(actual), average="macro"
            )
            return float(recall)
        case "roc_auc":
            return _score_ranking(metrics.roc_auc_score, actual, probabilities)
        case "average_precision":
            return _score_average_precision(actual, probabilities)
        case _:
            raise KeyError(metric)


def _score_ranking(
    compute: Callable[[Array, Array], float], actual: Array, probabilities: Array
) -> float:
    """Return a ranking metric, such as ROC AUC, of the predicted probabilities.

    With two classes, the metric is computed for the second class. With more classes, it is
    computed for each class against all others, and the result is the mean over the classes
    that occur in `actual`. `compute` is a function of scikit-learn.

    Raises CannotCompute if all rows belong to the same class.
    """
    occurring = np.unique(actual)
    if len(occurring) < 2:
        raise CannotCompute("all test rows belong to the same class")
    has_two_classes = probabilities.shape[1] == 2
    if has_two_classes:
        return float(compute(actual == 1, probabilities[:, 1]))

    scores = [
        compute(actual == position, probabilities[:, position])
        for position in occurring
    ]
    return float(np.mean(scores))


def _score_average_precision(actual: Array, probabilities: Array) -> float:
    """Return the average precision of the rarer of two classes, or the mean of several.

    The average precision of a frequent class is high even if the model has learned
    nothing. So if there are two classes, the rarer one is scored, as in the step
    `evaluate`. If there are more classes, the result is the mean over the
    classes that occur.

    Raises CannotCompute if all rows are of one class.
    """
    has_two_classes = probabilities.shape[1] == 2
    rows_of_class = np.bincount(actual, minlength=2)
    if has_two_classes and rows_of_class[0] < rows_of_class[1]:
        # `_score_ranking` scores the second class, and the first class is the rarer one.
        # So the two classes are exchanged.
        actual = 1 - actual
        probabilities = probabilities[:, ::-1]
    return _score_ranking(metrics.average_precision_score, actual, probabilities)
