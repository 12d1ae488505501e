"""Compute the metrics by which models are compared, and warn of misleading ones.

The values are the same as those of scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A metric by which models are compared.

    `name` is a value of `training.metric` in settings.yml, and `title` is the name that
    people read.
    """

    name: str
    title: str
    higher_is_better: bool
    #: Whether the value is shown as a percentage: 0.05 as "5 %".
    is_percentage: bool = False

    @property
    def direction(self) -> str:
        """Return in words whether higher or lower values are better."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def format(self, value: float, *, signed: bool = False) -> str:
        """Return a value of this metric as text, such as "0.9821", or "5.584 %".

        If `signed` is true, positive values begin with a plus sign.
        """
        if self.is_percentage:
            return f"{format_value(100 * value, signed=signed)} %"
        return format_value(value, signed=signed)


# The metrics of each task. The first one is the default.
METRICS = {
    "classification": [
        Metric("log_loss", "log loss", higher_is_better=False),
        Metric("roc_auc", "ROC AUC", higher_is_better=True),
        Metric("average_precision", "average precision", higher_is_better=True),
        Metric("f1_macro", "macro F1", higher_is_better=True),
        Metric("balanced_accuracy", "balanced accuracy", higher_is_better=True),
        Metric("accuracy", "accuracy", higher_is_better=True),
    ],
    "regression": [
        Metric("rmse", "root mean squared error", higher_is_better=False),
        Metric("mae", "mean absolute error", higher_is_better=False),
        Metric(
            "mape",
            "mean absolute percentage error",
            higher_is_better=False,
            is_percentage=True,
        ),
        Metric("r2", "R²", higher_is_better=True),
    ],
}
# A note warns of a class if the number of rows for which the model predicts it, divided by
# the number of rows of this class, is below this ratio.
RARE_PREDICTION_RATIO = 0.2
# The log loss of a probability of 0 would be infinite. So all smaller probabilities count as
# this probability. scikit-learn has the same limit.
SMALLEST_PROBABILITY = float(np.finfo(float).eps)
LARGEST_LOG_LOSS = -math.log(SMALLEST_PROBABILITY)


class CannotCompute(Exception):
    """A metric cannot be computed for some rows. The message says why."""


def format_value(value: float, *, signed: bool = False) -> str:
    """Return the value of a metric as text, with four significant digits.

    Digits before the decimal point are never left out: 45231.7 is "45,232". If `signed` is
    true, positive values begin with a plus sign.
    """
    sign = "+" if signed else ""
    if 1_000 <= abs(value) < 1e15:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.4g}"


def find_metric(name: str, task: str) -> Metric:
    """Return the metric called `name`, or the first metric of a task for "default".

    Raises KeyError if the task has no metric of this name, or if there is no such task.
    """
    if name == "default":
        return METRICS[task][0]
    metric_by_name = {metric.name: metric for metric in METRICS[task]}
    return metric_by_name[name]


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for some rows.

    In a classification, `values` holds positions in a list of classes, and `probabilities`
    has a column for each of these classes. In a regression, `values` holds numbers, and
    there are no probabilities.
    """

    values: Array
    probabilities: Array | None = None


def list_classes(target: pd.Series, models: Iterable[Pipeline]) -> list[str]:
    """Return the sorted names of the classes that are in `target` or that models predict.

    Classes are compared by name, because the same class may be the integer 1 in one data
    set and the text "1" in another. If the models predict numbers, the list is empty.
    """
    models = list(models)
    if not all(is_classifier(model) for model in models):
        return []
    names = {str(name) for name in target.unique()}
    for model in models:
        names |= {str(name) for name in model.classes_}
    return sorted(names)


def encode_classes(values: Any, classes: Sequence[str]) -> Array:
    """Return the position of each value's name in the list of classes.

    The position is -1 for a value that is not in the list.
    """
    by_name = pd.Categorical(values).rename_categories(str)
    return np.asarray(by_name.set_categories(list(classes)).codes, dtype=int)


def encode_target(target: pd.Series, classes: Sequence[str]) -> Array:
    """Return the target as positions in `classes`, or as numbers if this list is empty."""
    if not classes:
        return np.asarray(target, dtype=float)
    return encode_classes(target, classes)


def predict(
    model: Pipeline, features: pd.DataFrame, classes: Sequence[str]
) -> Predictions:
    """Return the predictions of a model for the rows of `features`.

    `classes` is empty in a regression. In a classification, `classes` may also have classes
    that the model does not know. Their probability is 0.
    """
    if not classes:
        return Predictions(np.asarray(model.predict(features), dtype=float))
    positions_of_model = encode_classes(model.classes_, classes)
    probabilities = np.zeros((len(features), len(classes)))
    probabilities[:, positions_of_model] = model.predict_proba(features)
    values = encode_classes(model.predict(features), classes)
    return Predictions(values, probabilities)


def compute_metric(metric_name: str, target: Array, predictions: Predictions) -> float:
    """Return the value of a metric for the predictions of some rows.

    `target` holds positions in the list of classes (classification) or numbers
    (regression). With more than two classes, `roc_auc` and `average_precision` are the mean
    over the classes that occur, each against all others. With two classes,
    `average_precision` is that of the rarer class.

    Raises CannotCompute if the metric is undefined for these rows, and KeyError if there is
    no such metric.
    """
    values = predictions.values
    match metric_name:
        case "log_loss":
            return float(compute_losses_of_probabilities(target, predictions).mean())
        case "roc_auc":
            return _average_over_classes(
                metrics.roc_auc_score, metric_name, target, predictions
            )
        case "average_precision":
            return _average_over_classes(
                metrics.average_precision_score, metric_name, target, predictions
            )
        case "f1_macro":
            return float(metrics.f1_score(target, values, average="macro"))
        case "balanced_accuracy":
            # This is the same as balanced_accuracy_score, which prints a warning if a
            # class is predicted that does not occur.
            occurring = np.unique(target)
            return float(
                metrics.recall_score(target, values, average="macro", labels=occurring)
            )
        case "accuracy":
            return float(metrics.accuracy_score(target, values))
        case "rmse":
            return float(metrics.root_mean_squared_error(target, values))
        case "mae":
            return float(metrics.mean_absolute_error(target, values))
        case "mape":
            if not target.all():
                raise CannotCompute(
                    "the target is 0 in some rows, and this metric divides by it"
                )
            return float(metrics.mean_absolute_percentage_error(target, values))
        case "r2":
            if np.ptp(target) == 0:
                raise CannotCompute("the target has the same value in all rows")
            return float(metrics.r2_score(target, values))
    raise KeyError(metric_name)


def measure(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, float]:
    """Return the value of each metric of a task for the predictions of a model.

    Metrics that cannot be computed for these rows are left out.
    """
    classes = list_classes(target, [model])
    encoded_target = encode_target(target, classes)
    predictions = predict(model, features, classes)
    value_by_metric = {}
    for metric in METRICS[task]:
        with suppress(CannotCompute):
            value = compute_metric(metric.name, encoded_target, predictions)
            value_by_metric[metric.name] = value
    return value_by_metric


def note_misleading_metrics(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> list[str]:
    """Return warnings about metrics of a model that are missing or misleading.

    A metric is missing if it cannot be computed for these rows. Accuracy is misleading if
    the model does not know a class, or hardly ever predicts it.
    """
    classes = list_classes(target, [model])
    encoded_target = encode_target(target, classes)
    predictions = predict(model, features, classes)
    notes = []
    for metric in METRICS[task]:
        try:
            # Only the error is of interest here, not the value.
            compute_metric(metric.name, encoded_target, predictions)
        except CannotCompute as error:
            notes.append(f"{metric.title} is left out: {error}.")
    if task == "classification":
        known_classes = {str(name) for name in model.classes_}
        notes += _note_neglected_classes(
            encoded_target, predictions, classes, known_classes
        )
    return notes


def _note_neglected_classes(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    known_classes: Collection[str],
) -> list[str]:
    """Return warnings about classes that the model does not know or hardly ever predicts.

    `target` holds the positions of the actual classes in `classes`. The model was trained
    on `known_classes`, whereas `classes` also has the classes that are new in the target.
    """
    row_count = len(target)
    actual_counts = np.bincount(target, minlength=len(classes))
    predicted_counts = np.bincount(predictions.values, minlength=len(classes))
    advice = "A high accuracy can hide this, so look at average precision, too."
    if len(classes) == 2:
        advice += (
            " To predict the class more often,"
            " see docs/change.md, 'Decide by a threshold'."
        )

    notes = []
    for name, actual_count, predicted_count in zip(
        classes, actual_counts, predicted_counts
    ):
        if actual_count == 0:
            continue
        if name not in known_classes:
            notes.append(
                f"{actual_count} held-out rows are of the class '{name}', which the model"
                " does not know: each of these rows counts with the largest possible log"
                f" loss, {LARGEST_LOG_LOSS:.0f}."
            )
        elif predicted_count == 0:
            notes.append(
                f"the model never predicts '{name}', although {actual_count} of"
                f" {row_count} rows have this class. {advice}"
            )
        elif predicted_count < RARE_PREDICTION_RATIO * actual_count:
            rows = "row" if predicted_count == 1 else "rows"
            notes.append(
                f"the model predicts '{name}' for only {predicted_count} {rows}, although"
                f" {actual_count} of {row_count} have this class. {advice}"
            )
    return notes


def compute_losses_of_probabilities(target: Array, predictions: Predictions) -> Array:
    """Return the log loss of each row: -log of the probability of its actual class.

    `target` holds the positions of the actual classes.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    rows = np.arange(len(target))
    probability_of_actual = predictions.probabilities[rows, target]
    return np.asarray(-np.log(np.clip(probability_of_actual, SMALLEST_PROBABILITY, 1)))


def _average_over_classes(
    compute_score: Callable[[Array, Array], float],
    metric_name: str,
    target: Array,
    predictions: Predictions,
) -> float:
    """Return the mean of a metric over the classes for which it is computed.

    `compute_score` is called with two arrays for a class. The first is true for the rows of
    the class, and the second has the probability of the class for each row. Raises
    CannotCompute if all rows are of one class.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    scores = []
    for position in select_classes(metric_name, target, predictions):
        is_of_class = target == position
        probabilities = predictions.probabilities[:, position]
        scores.append(compute_score(is_of_class, probabilities))
    return float(np.mean(scores))


def select_classes(
    metric_name: str, target: Array, predictions: Predictions
) -> list[int]:
    """Return the positions of the classes that are compared with all others by a metric.

    With three classes or more, these are all classes that occur in `target`. With two
    classes, only one of them is returned: the rarer class for `average_precision`, and the
    second class for `roc_auc`, which has the same value for both classes. Raises
    CannotCompute if all rows are of one class.
    """
    assert predictions.probabilities is not None  # It is None only in a regression.
    counts = np.bincount(target, minlength=predictions.probabilities.shape[1])
    occurring = np.flatnonzero(counts)
    if len(occurring) < 2:
        raise CannotCompute("all rows are of one class")
    if len(counts) > 2:
        return [int(position) for position in occurring]
    first_is_rarer = counts[0] < counts[1]
    if metric_name == "average_precision" and first_is_rarer:
        return [0]
    return [1]
