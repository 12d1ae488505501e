"""How a new model compares with the one that is registered now.

They are judged on the rows that neither has been trained on, and by what is more than
chance. Nobody needs to change this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from saved_model import SavedModel, load_model, select_columns, select_features
from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Metric:
    """A metric by which models are compared."""

    name: str
    higher_is_better: bool


METRICS = {
    "classification": Metric("f1_macro", higher_is_better=True),
    "regression": Metric("rmse", higher_is_better=False),
}
# With fewer groups of rows held out from both models, they are not compared.
FEWEST_GROUPS = 30
RESAMPLES = 2_000  # of the bootstrap
# The bootstrap draws blocks of rows: at most so many, with at most so many sums in them.
MOST_BLOCKS = 2_000
MOST_SUMS = 2_000_000
SHOWN_CLASSES = 5  # in a message

Array = npt.NDArray[Any]
Measure = Callable[[Pipeline, pd.DataFrame, pd.Series, str], dict[str, float]]


class NotComparable(Exception):
    """The registered model cannot be compared with the new one; the message says why."""


def compare_with_registered(
    name: str, new: SavedModel, holdout: pl.DataFrame, measure: Measure
) -> dict[str, Any] | None:
    """Compare a new model with the registered one, on the rows that both have held out.

    Returns None if no model is registered, else its `version`, the `verdict` (better, no
    worse, worse, the same, not comparable) and the `reason` in words. Unless they are
    not comparable, the `comparison` and the registered model's `metrics` on these rows
    come with them.
    """
    version = find_newest_version(name)
    if version is None:
        return None
    label = f"the registered version {version}"
    try:
        current = _load_registered(name, version)
        judged = _predict_shared_rows(new, current, holdout, measure)
    except NotComparable as error:
        return {
            "version": version,
            "verdict": "not comparable",
            "reason": f"not comparable with {label}: {error}",
        }
    comparison = compare_predictions(
        judged.target, judged.new, judged.current, judged.groups, new.task
    )
    comparison["rows"] = len(judged.target)
    verdict = comparison["verdict"]
    low, high = comparison["interval"]
    reason = (
        f"{verdict} than {label}: {comparison['metric']} {comparison['new']:.4g}, not"
        f" {comparison['current']:.4g}, on {comparison['rows']} rows held out from both;"
        f" difference {comparison['difference']:+.4g} (95 % interval {low:+.4g} to"
        f" {high:+.4g})"
    )
    if _is_the_same(new, current, judged.features):
        verdict = "the same"
        reason = f"it is {label} again"
    return {
        "version": version,
        "verdict": verdict,
        "reason": reason,
        "comparison": comparison,
        "metrics": judged.metrics_of_current,
    }


def find_newest_version(name: str) -> str | None:
    """Return the newest version of a registered model, or None if there is none."""
    try:
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    numbers = [str(version.version) for version in versions]
    return max(numbers, key=int, default=None)


@contextmanager
def _not_comparable_if_it_fails(reason: str) -> Iterator[None]:
    """Turn any error inside the `with` block into NotComparable with this reason."""
    try:
        yield
    except NotComparable:
        raise
    except Exception as error:  # noqa: BLE001 (a foreign model raises anything)
        raise NotComparable(f"{reason} ({error})") from None


def _load_registered(name: str, version: str) -> SavedModel:
    """Load a registered model. Raises NotComparable if that fails."""
    with _not_comparable_if_it_fails("its files are gone"):
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")
    with _not_comparable_if_it_fails("it cannot be loaded"):
        return load_model(Path(folder))


@dataclass(frozen=True)
class JudgedRows:
    """The rows by which two models are judged, with what each of them predicts.

    `features` are those of the current model. Rows of one group are not independent.
    """

    target: pd.Series
    features: pd.DataFrame
    groups: Array
    new: Array
    current: Array
    metrics_of_current: dict[str, float]


def _predict_shared_rows(
    new: SavedModel, current: SavedModel, holdout: pl.DataFrame, measure: Measure
) -> JudgedRows:
    """Let both models predict the rows that both have held out.

    Raises NotComparable if the current model cannot be asked.
    """
    with _not_comparable_if_it_fails("it cannot say which rows it was trained on"):
        rows, groups = find_shared_rows(new, current, holdout)
    with _not_comparable_if_it_fails("it cannot predict these rows"):
        target = rows[new.target].to_pandas()
        features = select_features(current, rows)
        return JudgedRows(
            target=target,
            features=features,
            groups=groups,
            new=new.pipeline.predict(select_columns(rows, new.columns)),
            current=current.pipeline.predict(features),
            metrics_of_current=measure(current.pipeline, features, target, new.task),
        )


def find_shared_rows(
    new: SavedModel, current: SavedModel, holdout: pl.DataFrame
) -> tuple[pl.DataFrame, Array]:
    """Return the held-out rows that the current model has not seen either.

    With them comes the group of each row, as rows of one key are not independent. Raises
    NotComparable if there are too few groups, or the models answer different questions.
    """
    if new.split is None or current.split is None:
        raise NotComparable("it does not say which rows it was trained on")
    _check_question(new, current)
    needed = dict.fromkeys([*current.split.by, *current.columns])
    missing = [name for name in needed if name not in holdout.columns]
    if missing:
        raise NotComparable(f"it needs columns that are gone: {', '.join(missing)}")
    rows = holdout.filter(current.split.held_out(holdout))
    # Grouped by the split that keeps more rows together. Whether the current model was
    # trained on rows similar to those that only the other split separates is unknown.
    groups = min(
        (split.groups(rows) for split in (new.split, current.split)),
        key=lambda groups: len(np.unique(groups)),
    )
    count = len(np.unique(groups))
    if count < FEWEST_GROUPS:
        raise NotComparable(
            "too few groups of rows (equal ones, or of one key) are held out from both:"
            f" {count}, and {FEWEST_GROUPS} are needed"
        )
    return rows, groups


def _check_question(new: SavedModel, current: SavedModel) -> None:
    """Raise NotComparable if the models have another task, target or other classes."""
    if not current.task:
        raise NotComparable("it does not say which task it was trained for")
    if (current.task, current.target) != (new.task, new.target):
        raise NotComparable(
            f"it is a {current.task} of '{current.target}', not a {new.task} of"
            f" '{new.target}'"
        )
    if new.task != "classification":
        return
    # By name, as their type may have changed between the models.
    new_classes = {str(name) for name in new.pipeline.classes_}
    current_classes = sorted(str(name) for name in current.pipeline.classes_)
    if new_classes.isdisjoint(current_classes):
        listed = ", ".join(current_classes[:SHOWN_CLASSES])
        raise NotComparable(f"it knows other classes ({listed})")


def _is_the_same(new: SavedModel, current: SavedModel, features: pd.DataFrame) -> bool:
    """Return whether both models were trained alike and predict exactly the same."""
    if vars(new.split) != vars(current.split) or new.columns != current.columns:
        return False
    if new.task == "regression":
        predictions = [m.pipeline.predict(features) for m in (new, current)]
    else:
        predictions = [m.pipeline.predict_proba(features) for m in (new, current)]
    return np.array_equal(*predictions)


def compare_predictions(
    target: pd.Series, new: Array, current: Array, groups: Array, task: str
) -> dict[str, Any]:
    """Return how two models' predictions of the same rows differ, and what is chance.

    `difference` is the new metric less the current one. `interval` holds it with a
    probability of 95 %, by a paired bootstrap, which draws the rows of one group
    together, as they are not independent. `verdict` is worse or better only if all of
    the interval is.
    """
    sums = _sum_up_blocks(target, [new, current], groups, task)
    blocks = sums.shape[2]
    drawn = np.random.default_rng(0).integers(blocks, size=(RESAMPLES, blocks))
    times_drawn = np.array([np.bincount(draw, minlength=blocks) for draw in drawn])
    samples = _compute_metric(np.tensordot(times_drawn, sums, (1, 2)), task)
    differences = samples[:, 0] - samples[:, 1]
    low, high = np.percentile(differences, [2.5, 97.5]).tolist()

    metric = METRICS[task]
    new_value, current_value = _compute_metric(sums.sum(axis=2), task).tolist()
    least_gain, most_gain = low, high
    if not metric.higher_is_better:
        least_gain, most_gain = -high, -low
    verdict = "no worse"
    if most_gain < 0:
        verdict = "worse"
    elif least_gain > 0:
        verdict = "better"
    return {
        "metric": metric.name,
        "new": new_value,
        "current": current_value,
        "difference": new_value - current_value,
        "interval": [low, high],
        "verdict": verdict,
    }


def _sum_up_blocks(
    target: pd.Series, predictions: list[Array], groups: Array, task: str
) -> Array:
    """Return the sums by which the metric is computed, for blocks of whole groups.

    The array has four axes: the sum (0 for the numerator of the metric, 1 for its
    denominator), the model, the block and the class.

    The F1 of a class is twice the rows that are predicted correctly, divided by the rows
    of that class plus the rows predicted as it. In a regression, all rows are of a single
    class 0 and count with their squared errors instead of their correct predictions:
    twice the squared errors divided by twice the rows is the mean squared error.
    """
    actual: Array
    predicted: list[Array]
    if task == "regression":
        actual = np.zeros(len(target), int)
        predicted = [actual for _ in predictions]
        weights = list((np.array(predictions) - np.asarray(target)) ** 2)
    else:
        actual, *predicted = _encode_classes([target, *predictions])
        weights = [codes == actual for codes in predicted]
    classes = 1 + max(codes.max() for codes in (actual, *predicted))
    distinct, positions = np.unique(groups, return_inverse=True)
    blocks = max(1, min(len(distinct), MOST_BLOCKS, MOST_SUMS // (4 * classes)))
    block_of_row = positions % blocks

    def sum_up(codes: Array, weights_of_rows: Array | None = None) -> Array:
        """Sum up the rows, or their weights, of each class in each block."""
        cells = block_of_row * classes + codes
        sums = np.bincount(cells, weights_of_rows, blocks * classes)
        return sums.reshape(blocks, classes)

    numerators = [2 * sum_up(actual, weights_of_rows) for weights_of_rows in weights]
    denominators = [sum_up(actual) + sum_up(codes) for codes in predicted]
    return np.array([numerators, denominators])


def _encode_classes(columns: list[Any]) -> list[Array]:
    """Return columns of classes as integers: the same for classes of the same name.

    By name, as their type may have changed between the models.
    """
    categories = [pd.Categorical(column).rename_categories(str) for column in columns]
    codes = pd.api.types.union_categoricals(categories).codes.astype(int)
    return list(codes.reshape(len(columns), -1))


def _compute_metric(sums: Array, task: str) -> Array:
    """Return the metric of each model from the sums of `_sum_up_blocks`, added up.

    The last three axes of `sums` are the sum (0 for the numerator, 1 for the
    denominator), the model and the class. Axes before them, such as that of the bootstrap
    samples, are kept. In a classification the result is the mean F1 of the classes that
    occur, in a regression the root of the mean squared error.
    """
    numerators = sums[..., 0, :, :]
    denominators = sums[..., 1, :, :]
    # A class that does not occur has 0 in both, and must not be divided by 0.
    score_by_class = numerators / np.maximum(denominators, 1)
    occurring_classes = (denominators > 0).sum(axis=-1)
    mean_score: Array = score_by_class.sum(axis=-1) / occurring_classes
    if task == "regression":
        # The score of the single class is the mean squared error.
        return np.sqrt(mean_score)
    return mean_score
