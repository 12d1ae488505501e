"""How a new model compares with the registered one, and with the baseline.

They are judged on rows that none of them has been trained on, and by what is more than
chance. Nobody needs to change this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from difference import Difference, compare_predictions
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from model_metrics import (
    CannotCompute,
    Metric,
    encode_target,
    format_value,
    list_classes,
    measure,
    predict,
)
from prep_changes import describe_prep_changes, list_prep_changes
from saved_model import SavedModel, load_model, select_columns, select_features
from sklearn.pipeline import Pipeline

# With fewer groups of rows held out from both models, they are not compared.
FEWEST_GROUPS = 30
# With fewer groups of held-out rows, no model is said to beat the baseline.
FEWEST_GROUPS_FOR_BASELINE = 10
# Rows that are held out by date are divided into this many periods.
PERIODS = 10
# The tag of a registered version that names the version by which it was judged.
REFERENCE_TAG = "reference"
SHOWN_CLASSES = 5  # in a message

Array = npt.NDArray[Any]


class NotComparable(Exception):
    """The registered model cannot be compared with the new one; the message says why."""


class AnotherQuestion(Exception):
    """The registered model predicts something else; the message says what."""


# The baseline


def compare_with_baseline(
    new: SavedModel, holdout: pl.DataFrame, metric: Metric
) -> dict[str, Any]:
    """Compare a new model with the baseline that was saved with it.

    Returns the `name` of the baseline, its `metrics`, whether the model `is_beaten` by
    more than chance or not, and the `reason` in words. Unless the two could not be
    compared, the `comparison` comes with them.
    """
    if new.baseline is None or new.split is None:
        raise ValueError("The model was saved without a baseline.")
    features = select_columns(holdout, new.columns)
    target = holdout[new.target].to_pandas()
    values = measure(new.baseline, features, target, new.task)
    result = {"name": new.baseline_name, "metrics": values, "is_beaten": False}

    groups = new.split.groups(holdout)
    count = len(np.unique(groups))
    if count < FEWEST_GROUPS_FOR_BASELINE:
        reason = (
            f"too few groups of rows (equal ones, or of one key) are held out to tell"
            f" whether the new model is better than the baseline ({new.baseline_name}):"
            f" {count}, and {FEWEST_GROUPS_FOR_BASELINE} are needed"
        )
        return {**result, "reason": reason}
    if new.holdout_column:
        groups = form_periods(holdout[new.holdout_column])
    try:
        difference = compare_pipelines(
            metric, new.pipeline, new.baseline, features, features, target, groups
        )
    except CannotCompute as error:
        reason = f"{metric.title} cannot be computed on the held-out rows: {error}"
        return {**result, "reason": reason}

    is_beaten = difference.verdict == "better"
    relation = difference.verdict
    if relation not in ("better", "worse"):
        relation = "not better by more than chance"
    description = describe_difference(difference, metric, "baseline")
    reason = (
        f"the new model is {relation} than the baseline ({new.baseline_name}):"
        f" {description}"
    )
    return {
        **result,
        "is_beaten": is_beaten,
        "reason": reason,
        "comparison": asdict(difference),
    }


def compare_pipelines(
    metric: Metric,
    new: Pipeline,
    other: Pipeline,
    features_of_new: pd.DataFrame,
    features_of_other: pd.DataFrame,
    target: pd.Series,
    groups: Array,
    margin: float = 0.0,
) -> Difference:
    """Return how two models differ on the same rows. Raises CannotCompute."""
    classes = list_classes(target, [new, other])
    return compare_predictions(
        metric,
        encode_target(target, classes),
        predict(new, features_of_new, classes),
        predict(other, features_of_other, classes),
        groups,
        margin,
    )


def describe_difference(
    difference: Difference, metric: Metric, other_model: str
) -> str:
    """Return both values, the difference and whether it is chance, as part of a sentence.

    `other_model` is what the model is called with which the new one was compared.
    """
    new_value = format_value(difference.new)
    other_value = format_value(difference.other)
    change = format_value(difference.difference, signed=True)
    low, high = (format_value(limit, signed=True) for limit in difference.interval)
    # The interval of these lies on both sides of 0.
    is_within_chance = difference.verdict == "no worse"
    chance = "within chance" if is_within_chance else "more than chance"
    return (
        f"{metric.title} {new_value} ({other_model}: {other_value}; {metric.direction}),"
        f" and the difference of {change} is {chance} (95 % interval {low} to {high})"
    )


# The registered model


def compare_with_registered(
    name: str, new: SavedModel, holdout: pl.DataFrame, metric: Metric, margin: float
) -> dict[str, Any] | None:
    """Compare a new model with the registered one, on the rows that both have held out.

    Returns None if no model is registered, else the `version` it was compared with, the
    `verdict` and the `reason` in words. Verdicts are better, no worse, within the margin,
    worse, the same, not comparable, another question. Unless the models are the same or
    cannot be compared, the `comparison` comes with them, and for the same rows the
    registered model's `metrics` and the `metrics_of_new_model`.

    The newest version is not the one to compare with if it was itself only no worse than
    an earlier one. Else every version could be a little worse than the one before it, and
    many small losses would add up.
    """
    versions = list_versions(name)
    if not versions:
        return None
    newest = max(versions.values(), key=lambda version: int(version.version))
    label = f"the registered version {newest.version}"
    try:
        current = _load_registered(name, str(newest.version))
        rows, groups = _find_shared_rows(new, current, holdout)
        if _is_the_same(new, current, rows):
            return _report(newest, "the same", f"the new model is {label} again")
    except NotComparable as error:
        reason = f"the new model is not comparable with {label}: {error}"
        return _report(newest, "not comparable", reason)
    except AnotherQuestion as error:
        reason = f"{label} answers another question: {error}"
        return _report(newest, "another question", reason)

    reference = versions.get(newest.tags.get(REFERENCE_TAG, ""), newest)
    if reference is not newest:
        try:
            earlier = _load_registered(name, str(reference.version))
            rows, groups = _find_shared_rows(new, earlier, holdout)
            current = earlier
        except (NotComparable, AnotherQuestion):
            reference = newest
    try:
        return _judge(new, current, rows, groups, reference, metric, margin)
    except NotComparable as error:
        reason = (
            "the new model is not comparable with the registered version"
            f" {reference.version}: {error}"
        )
        return _report(reference, "not comparable", reason)


def _report(version: ModelVersion, verdict: str, reason: str) -> dict[str, Any]:
    """Return the outcome of a comparison without figures."""
    return {"version": str(version.version), "verdict": verdict, "reason": reason}


def _judge(
    new: SavedModel,
    reference: SavedModel,
    rows: pl.DataFrame,
    groups: Array,
    version: ModelVersion,
    metric: Metric,
    margin: float,
) -> dict[str, Any]:
    """Compare a new model with a registered version on rows that both have held out.

    Raises NotComparable if the reference cannot predict them.
    """
    target = rows[new.target].to_pandas()
    with _not_comparable_if_it_fails("it cannot predict these rows"):
        features = select_features(reference, rows)
        features_of_new = select_columns(rows, new.columns)
        metrics_of_reference = measure(reference.pipeline, features, target, new.task)
        metrics_of_new_model = measure(new.pipeline, features_of_new, target, new.task)
        difference = compare_pipelines(
            metric,
            new.pipeline,
            reference.pipeline,
            features_of_new,
            features,
            target,
            groups,
            margin,
        )
    relation = difference.verdict
    if relation == "within the margin":
        margin_text = format_value(difference.accepted_loss)
        relation = f"worse by no more than the margin of {margin_text}"
    description = describe_difference(difference, metric, f"version {version.version}")
    reason = (
        f"the new model is {relation} than the registered version {version.version} on"
        f" {len(rows)} rows held out from both: {description}; these rows would show a"
        f" loss of {format_value(difference.detectable)}"
    )
    changes = list_prep_changes(new.schema, reference.schema, reference.columns)
    if changes:
        reason += f"; {describe_prep_changes(changes, str(version.version))}"
    return {
        **_report(version, difference.verdict, reason),
        "comparison": {**asdict(difference), "rows": len(rows)},
        "metrics": metrics_of_reference,
        "metrics_of_new_model": metrics_of_new_model,
    }


def list_versions(name: str) -> dict[str, ModelVersion]:
    """Return the versions of a registered model by their number, none if there is none."""
    try:
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {str(version.version): version for version in versions}


@contextmanager
def _not_comparable_if_it_fails(reason: str) -> Iterator[None]:
    """Turn any error inside the `with` block into NotComparable with this reason."""
    try:
        yield
    except (NotComparable, AnotherQuestion):
        raise
    except Exception as error:  # noqa: BLE001 (a foreign model raises anything)
        raise NotComparable(f"{reason} ({error})") from None


def _load_registered(name: str, version: str) -> SavedModel:
    """Load a registered model. Raises NotComparable if that fails."""
    with _not_comparable_if_it_fails("its files are gone"):
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")
    with _not_comparable_if_it_fails("it cannot be loaded"):
        return load_model(Path(folder))


def _find_shared_rows(
    new: SavedModel, current: SavedModel, holdout: pl.DataFrame
) -> tuple[pl.DataFrame, Array]:
    """Return the rows of `find_shared_rows`; raise NotComparable if the old model fails."""
    with _not_comparable_if_it_fails("it cannot say which rows it was trained on"):
        return find_shared_rows(new, current, holdout)


def find_shared_rows(
    new: SavedModel, current: SavedModel, holdout: pl.DataFrame
) -> tuple[pl.DataFrame, Array]:
    """Return the held-out rows that the current model has not seen either.

    With them comes the group of each row, as rows of one group are not independent.
    Raises AnotherQuestion if the models predict different things, and NotComparable if
    there are too few groups or the hold-outs are of different kinds.
    """
    if new.split is None or current.split is None:
        raise NotComparable("it does not say which rows it was trained on")
    _check_question(new, current)
    if new.holdout_column != current.holdout_column:
        raise NotComparable(
            f"its rows were held out {_describe_holdout(current)}, and those of the new"
            f" model {_describe_holdout(new)}, so one of them knows the time that the other"
            " has to predict"
        )
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
    if new.holdout_column:
        groups = form_periods(rows[new.holdout_column])
    return rows, groups


def form_periods(dates: pl.Series) -> Array:
    """Return the period of each row: ten of them, of equally many dates.

    Errors of neighbouring dates are alike, so rows of one period are not independent
    (H. R. Künsch, "The jackknife and the bootstrap for general stationary observations",
    Annals of Statistics 17, 1989).
    """
    ranks = dates.rank("dense").to_numpy() - 1
    return np.asarray(ranks * PERIODS // (ranks.max() + 1), dtype=np.int64)


def _describe_holdout(model: SavedModel) -> str:
    """Return how rows were held out, as part of a sentence."""
    if model.holdout_column:
        return f"from a date in '{model.holdout_column}' on"
    return "at random"


def _check_question(new: SavedModel, current: SavedModel) -> None:
    """Raise AnotherQuestion if the models have another task, target or other classes."""
    if not current.task:
        raise NotComparable("it does not say which task it was trained for")
    if (current.task, current.target) != (new.task, new.target):
        raise AnotherQuestion(
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
        raise AnotherQuestion(f"it knows other classes ({listed})")


def _is_the_same(new: SavedModel, current: SavedModel, rows: pl.DataFrame) -> bool:
    """Return whether both models were trained alike and predict exactly the same."""
    if vars(new.split) != vars(current.split) or new.columns != current.columns:
        return False
    with _not_comparable_if_it_fails("it cannot predict these rows"):
        features = select_features(current, rows)
        if new.task == "regression":
            predictions = [m.pipeline.predict(features) for m in (new, current)]
        else:
            predictions = [m.pipeline.predict_proba(features) for m in (new, current)]
        return np.array_equal(*predictions)
