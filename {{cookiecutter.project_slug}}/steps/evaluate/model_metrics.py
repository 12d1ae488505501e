"""The metrics that judge a model: their names, their values, and notes on weak ones.

The values are scikit-learn's.
"""

from __future__ import annotations

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
    """A metric by which models are judged and compared.

    `name` is that of `training.metric` in settings.yml, and `title` what people read.
    """

    name: str
    title: str
    higher_is_better: bool
    #: Whether the value, which is a fraction, is shown as a percentage.
    is_percentage: bool = False

    @property
    def direction(self) -> str:
        """Which values are better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def format(self, value: float, *, signed: bool = False) -> str:
        """Return a value of this metric as text: with a percent sign if it is a percentage."""
        if self.is_percentage:
            return f"{format_value(100 * value, signed=signed)} %"
        return format_value(value, signed=signed)


# By task. The first one is the default.
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
# A note names a class if fewer rows are predicted to be of it than this share of its rows.
RARELY_PREDICTED = 0.2
SMALLEST_PROBABILITY = float(np.finfo(float).eps)  # as in scikit-learn's log loss


class CannotCompute(Exception):
    """A metric has no value for these rows; the message says why."""


def format_value(value: float, *, signed: bool = False) -> str:
    """Return a value of a metric as text, with four significant digits.

    Digits before the decimal point are never left out: 45231.7 is "45,232".
    """
    sign = "+" if signed else ""
    if 1_000 <= abs(value) < 1e15:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.4g}"


def find_metric(name: str, task: str) -> Metric:
    """Return a metric of a task; `default` names the first one. Raises KeyError."""
    if name == "default":
        return METRICS[task][0]
    return {metric.name: metric for metric in METRICS[task]}[name]


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for some rows.

    In a classification, `values` are positions in a list of classes, and `probabilities`
    has a column for each of these classes. In a regression, `values` are the numbers, and
    there are no probabilities.
    """

    values: Array
    probabilities: Array | None = None


def list_classes(target: pd.Series, models: Iterable[Pipeline]) -> list[str]:
    """Return the names of all classes that occur in the rows or that a model knows.

    Classes are told apart by name, as their type may change when data is added. The list
    is empty if the models predict numbers.
    """
    names = set()
    for model in models:
        if not is_classifier(model):
            return []
        names |= {str(name) for name in model.classes_}
    names |= {str(name) for name in target.unique()}
    return sorted(names)


def encode_classes(values: Any, classes: Sequence[str]) -> Array:
    """Return the position of each value in the list of classes."""
    categories = pd.Categorical(values).rename_categories(str)
    return np.asarray(categories.set_categories(list(classes)).codes, dtype=int)


def encode_target(target: pd.Series, classes: Sequence[str]) -> Array:
    """Return the target as positions in the list of classes, or as numbers if it is empty."""
    if not classes:
        return np.asarray(target, dtype=float)
    return encode_classes(target, classes)


def predict(
    model: Pipeline, features: pd.DataFrame, classes: Sequence[str]
) -> Predictions:
    """Let a model predict rows. The list of classes is empty in a regression."""
    if not classes:
        return Predictions(np.asarray(model.predict(features), dtype=float))
    positions = encode_classes(model.classes_, classes)
    probabilities = np.zeros((len(features), len(classes)))
    probabilities[:, positions] = model.predict_proba(features)
    return Predictions(encode_classes(model.predict(features), classes), probabilities)


def compute_metric(name: str, target: Array, predictions: Predictions) -> float:
    """Return the value of a metric. Raises CannotCompute if it has none for these rows.

    `target` holds positions in the list of classes, or numbers. `roc_auc` and
    `average_precision` of several classes are the mean over the classes that occur, each
    against all others. Of two classes, `average_precision` is that of the rarer one.
    """
    values = predictions.values
    match name:
        case "log_loss":
            return float(compute_losses_of_probabilities(target, predictions).mean())
        case "roc_auc":
            return _average_over_classes(
                metrics.roc_auc_score, name, target, predictions
            )
        case "average_precision":
            return _average_over_classes(
                metrics.average_precision_score, name, target, predictions
            )
        case "f1_macro":
            return float(metrics.f1_score(target, values, average="macro"))
        case "balanced_accuracy":
            return float(
                metrics.recall_score(
                    target, values, average="macro", labels=np.unique(target)
                )
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
    raise KeyError(name)


def measure(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, float]:
    """Return all metrics of a model's predictions, except those without a value."""
    classes = list_classes(target, [model])
    encoded = encode_target(target, classes)
    predictions = predict(model, features, classes)
    values = {}
    for metric in METRICS[task]:
        with suppress(CannotCompute):
            values[metric.name] = compute_metric(metric.name, encoded, predictions)
    return values


def note_weak_figures(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> list[str]:
    """Return notes on metrics that have no value for these rows, or that mean little."""
    classes = list_classes(target, [model])
    encoded = encode_target(target, classes)
    predictions = predict(model, features, classes)
    notes = []
    for metric in METRICS[task]:
        try:
            compute_metric(metric.name, encoded, predictions)
        except CannotCompute as error:
            notes.append(f"{metric.title} is left out: {error}.")
    if task == "classification":
        known_classes = {str(name) for name in model.classes_}
        notes += _note_weak_classes(encoded, predictions, classes, known_classes)
    return notes


def _note_weak_classes(
    target: Array,
    predictions: Predictions,
    classes: Sequence[str],
    known_classes: Collection[str],
) -> list[str]:
    """Return notes on classes that the model does not know or hardly ever predicts."""
    rows = len(target)
    actual_rows = np.bincount(target, minlength=len(classes))
    predicted_rows = np.bincount(predictions.values, minlength=len(classes))
    hint = ""
    if len(classes) == 2:
        hint = " To predict it more often, see docs/change.md, 'Decide by a threshold'."

    notes = []
    for name, actual, predicted in zip(classes, actual_rows, predicted_rows):
        if actual and name not in known_classes:
            notes.append(
                f"{actual} held-out rows are of the class '{name}', which the model does"
                " not know: each of them counts with the largest possible log loss, 36."
            )
        elif actual and not predicted:
            notes.append(
                f"no row is predicted to be '{name}', though {actual} of {rows} are:"
                " accuracy says nothing about this class. Look at average precision."
                f"{hint}"
            )
        elif predicted < RARELY_PREDICTED * actual:
            verb = "row is" if predicted == 1 else "rows are"
            notes.append(
                f"only {predicted} {verb} predicted to be '{name}', though {actual} of"
                f" {rows} are: accuracy says little about this class. Look at average"
                f" precision.{hint}"
            )
    return notes


def compute_losses_of_probabilities(target: Array, predictions: Predictions) -> Array:
    """Return minus the logarithm of each row's probability of its own class."""
    assert predictions.probabilities is not None
    probabilities = predictions.probabilities[np.arange(len(target)), target]
    return np.asarray(-np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1)))


def _average_over_classes(
    score: Callable[[Array, Array], float],
    name: str,
    target: Array,
    predictions: Predictions,
) -> float:
    """Return the mean of a ranking metric over the classes that it judges."""
    assert predictions.probabilities is not None
    scores = [
        score(target == position, predictions.probabilities[:, position])
        for position in select_classes(name, target, predictions)
    ]
    return float(np.mean(scores))


def select_classes(name: str, target: Array, predictions: Predictions) -> list[int]:
    """Return the positions of the classes that a ranking metric judges.

    Of several classes, these are all that occur. Of two, it is one: the rarer one for the
    average precision, else the second. Raises CannotCompute if all rows are of one class.
    """
    assert predictions.probabilities is not None
    counts = np.bincount(target, minlength=predictions.probabilities.shape[1])
    occurring = np.flatnonzero(counts)
    if len(occurring) < 2:
        raise CannotCompute("all rows are of one class")
    if len(counts) > 2:
        return [int(position) for position in occurring]
    if name == "average_precision" and counts[0] < counts[1]:
        return [0]
    return [1]
