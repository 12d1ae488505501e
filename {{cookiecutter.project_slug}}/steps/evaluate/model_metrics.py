"""The metrics that judge a model: their values, and their values without some rows.

The values are scikit-learn's. The second part computes each metric again without one
block of rows at a time, for all blocks at once: comparison.py needs it to tell how much
of a difference is chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    @property
    def direction(self) -> str:
        """Which values are better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


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
        Metric("mape", "mean absolute percentage error", higher_is_better=False),
        Metric("r2", "R²", higher_is_better=True),
    ],
}
# A note names a class if the rows predicted to be of it are a smaller share of its rows.
RARELY_PREDICTED = 0.2
# Probabilities of different rows count as equal if they are in the same of so many ranges
# with equally many rows. Only intervals depend on it, and only for more rows than this.
MOST_RANKS = 5_000
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
            return float(_losses_of_probabilities(target, predictions).mean())
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
    """Return all metrics of a model's predictions, but those without a value."""
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
    if task == "regression":
        return notes

    actual_rows = np.bincount(encoded, minlength=len(classes))
    predicted_rows = np.bincount(predictions.values, minlength=len(classes))
    known = {str(name) for name in model.classes_}
    hint = ""
    if len(classes) == 2:
        hint = " To predict it more often, see docs/change.md, 'Decide by a threshold'."
    for name, actual, predicted in zip(classes, actual_rows, predicted_rows):
        if actual and name not in known:
            notes.append(
                f"{actual} held-out rows are of the class '{name}', which the model does"
                " not know: each of them adds 36 to the sum that log loss is the mean of."
            )
        elif actual and not predicted:
            notes.append(
                f"no row is predicted to be '{name}', though {actual} of {len(target)} are:"
                " accuracy says nothing about this class. Look at average precision."
                f"{hint}"
            )
        elif predicted < RARELY_PREDICTED * actual:
            verb = "row is" if predicted == 1 else "rows are"
            notes.append(
                f"only {predicted} {verb} predicted to be '{name}', though {actual} of"
                f" {len(target)} are: accuracy says little about this class. Look at"
                f" average precision.{hint}"
            )
    return notes


def _losses_of_probabilities(target: Array, predictions: Predictions) -> Array:
    """Return minus the logarithm of each row's probability of its own class."""
    assert predictions.probabilities is not None
    probabilities = predictions.probabilities[np.arange(len(target)), target]
    return np.asarray(-np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1)))


def _average_over_classes(
    score: Any, name: str, target: Array, predictions: Predictions
) -> float:
    """Return the mean of a metric of ranks over the classes that it looks at."""
    assert predictions.probabilities is not None
    scores = [
        score(target == position, predictions.probabilities[:, position])
        for position in select_classes(name, target, predictions)
    ]
    return float(np.mean(scores))


def select_classes(name: str, target: Array, predictions: Predictions) -> list[int]:
    """Return the positions of the classes whose ranks are judged.

    Raises CannotCompute if all rows are of one class.
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


# A metric without some rows


def compute_without_each_block(
    name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """Return the metric of all rows but those of block 0, but those of block 1, and so on.

    A value is NaN if the rows that are left have none. Raises CannotCompute if all rows
    together have none.
    """
    values = predictions.values
    match name:
        case "roc_auc" | "average_precision":
            return _compute_rank_metric(name, target, predictions, block_of_row)
        case "f1_macro" | "balanced_accuracy":
            return _compute_class_metric(name, target, values, block_of_row)
        case "r2":
            return _compute_r2(target, values, block_of_row)
    match name:
        case "log_loss":
            losses = _losses_of_probabilities(target, predictions)
        case "accuracy":
            losses = (values == target).astype(float)
        case "rmse":
            losses = (values - target) ** 2
        case "mae":
            losses = np.abs(values - target)
        case "mape":
            losses = np.abs(values - target) / np.abs(target)
        case _:
            raise KeyError(name)
    rows = _sum_without_each_block(np.ones(len(target)), block_of_row)
    means = _sum_without_each_block(losses, block_of_row) / rows
    return np.sqrt(means) if name == "rmse" else means


def _sum_without_each_block(values: Array, block_of_row: Array) -> Array:
    """Return the sums of a value over all rows but those of each block."""
    sums = np.bincount(block_of_row, values)
    return np.asarray(sums.sum() - sums)


def _count_without_each_block(
    positions: Array, width: int, block_of_row: Array
) -> Array:
    """Return how often each position occurs in all rows but those of each block.

    The result has a row for each block and a column for each position.
    """
    blocks = block_of_row.max() + 1
    cells = block_of_row * width + positions
    counts = np.bincount(cells, minlength=blocks * width).reshape(blocks, width)
    return np.asarray(counts.sum(axis=0) - counts)


def _compute_r2(target: Array, values: Array, block_of_row: Array) -> Array:
    """Return R² without each block."""
    # Sums of squares lose fewer digits around the mean.
    centred = target - target.mean()
    rows = _sum_without_each_block(np.ones(len(target)), block_of_row)
    errors = _sum_without_each_block((values - target) ** 2, block_of_row)
    sums = _sum_without_each_block(centred, block_of_row)
    squares = _sum_without_each_block(centred**2, block_of_row)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - errors / (squares - sums**2 / rows))


def _compute_class_metric(
    name: str, target: Array, values: Array, block_of_row: Array
) -> Array:
    """Return the mean F1 or recall of the classes, without each block."""
    width = int(max(target.max(), values.max())) + 1
    is_correct = target == values
    actual = _count_without_each_block(target, width, block_of_row)
    # The wrong rows are counted in a further column, which is left out.
    correct = _count_without_each_block(
        np.where(is_correct, target, width), width + 1, block_of_row
    )[:, :width]
    if name == "balanced_accuracy":
        numerators = correct
        denominators = actual
    else:
        numerators = 2 * correct
        predicted = _count_without_each_block(values, width, block_of_row)
        denominators = actual + predicted
    # A class that does not occur has 0 in both, and must not be divided by 0.
    scores = numerators / np.maximum(denominators, 1)
    return np.asarray(scores.sum(axis=1) / (denominators > 0).sum(axis=1))


def _compute_rank_metric(
    name: str, target: Array, predictions: Predictions, block_of_row: Array
) -> Array:
    """Return the ROC AUC or average precision without each block.

    It is the mean over classes, without those of which a block holds all rows.
    """
    assert predictions.probabilities is not None
    by_class = []
    for position in select_classes(name, target, predictions):
        ranks = _rank_descending(predictions.probabilities[:, position])
        width = int(ranks.max()) + 1
        is_positive = target == position
        all_rows = _count_without_each_block(ranks, width, block_of_row)
        # The other rows are counted in a further column, which is left out.
        positives = _count_without_each_block(
            np.where(is_positive, ranks, width), width + 1, block_of_row
        )[:, :width]
        if name == "roc_auc":
            by_class.append(_compute_roc_auc(positives, all_rows - positives))
        else:
            by_class.append(_compute_average_precision(positives, all_rows))
    table = np.array(by_class)
    has_value = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.where(has_value, table, 0).sum(axis=0) / has_value.sum(axis=0)
        )


def _rank_descending(probabilities: Array) -> Array:
    """Return the rank of each row, 0 for the largest probability; equal ones share it."""
    distinct, ranks = np.unique(-probabilities, return_inverse=True)
    if len(distinct) <= MOST_RANKS:
        return np.asarray(ranks)
    rows_up_to_rank = np.cumsum(np.bincount(ranks))
    coarse = (rows_up_to_rank - 1) * MOST_RANKS // len(probabilities)
    return np.asarray(coarse[ranks])


def _compute_roc_auc(positives: Array, negatives: Array) -> Array:
    """Return the area under the ROC curve for each line of counts by descending rank.

    It is the share of pairs of a positive and a negative row in which the positive one
    ranks higher; pairs of equal rank count half (Hanley and McNeil, Radiology 1982).
    """
    below = negatives.sum(axis=1, keepdims=True) - negatives.cumsum(axis=1)
    wins = (positives * (below + negatives / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / (positives.sum(axis=1) * negatives.sum(axis=1)))


def _compute_average_precision(positives: Array, all_rows: Array) -> Array:
    """Return the average precision for each line of counts by descending rank."""
    precisions = positives.cumsum(axis=1) / np.maximum(all_rows.cumsum(axis=1), 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positives * precisions).sum(axis=1) / positives.sum(axis=1))
