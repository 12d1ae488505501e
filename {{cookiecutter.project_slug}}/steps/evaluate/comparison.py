"""Compare a new model with the baseline and with the registered model.

They are compared on rows that neither model was trained on. A difference counts only if it
is larger than chance explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    list_classes,
    measure,
    predict,
)
from prep_changes import describe_prep_changes, list_prep_changes
from saved_model import SavedModel, load_model, select_columns, select_features
from shared_rows import (
    NotComparable,
    PredictsSomethingElse,
    SharedRows,
    find_shared_rows,
    form_periods,
    not_comparable_if_it_fails,
)
from sklearn.pipeline import Pipeline

# With fewer groups of held-out rows, no model is said to beat the baseline.
FEWEST_GROUPS_FOR_BASELINE = 10
# A registered version that was not better than an earlier one has this tag. It names the
# earlier version, with which later models are compared, too.
REFERENCE_TAG = "reference"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelOnRows:
    """A model, and the features of the rows that it predicts."""

    pipeline: Pipeline
    features: pd.DataFrame


@dataclass(frozen=True)
class Reference:
    """The registered version that a new model is compared with, and the rows for this."""

    version: str
    model: SavedModel
    rows: SharedRows


def compare_pipelines(
    metric: Metric,
    new: ModelOnRows,
    other: ModelOnRows,
    target: pd.Series,
    groups: Array,
    margin: float = 0.0,
) -> Difference:
    """Return how a metric of two models differs on the same rows.

    Raises CannotCompute if the metric has no value for these rows.
    """
    classes = list_classes(target, [new.pipeline, other.pipeline])
    return compare_predictions(
        metric,
        encode_target(target, classes),
        predict(new.pipeline, new.features, classes),
        predict(other.pipeline, other.features, classes),
        groups,
        margin,
    )


def describe_difference(
    difference: Difference, metric: Metric, other_model: str
) -> str:
    """Return the values of two models and their difference, as part of a sentence.

    `other_model` is the name of the model that the new one was compared with.
    """
    new_value = metric.format(difference.new)
    other_value = metric.format(difference.other)
    change = metric.format(difference.difference, signed=True)
    low, high = (metric.format(limit, signed=True) for limit in difference.interval)
    # With this verdict, the interval contains 0.
    is_within_chance = difference.verdict == "no worse"
    chance = "within chance" if is_within_chance else "more than chance"
    return (
        f"{metric.title} {new_value} ({other_model}: {other_value}; {metric.direction}),"
        f" and the difference of {change} is {chance} (95 % interval {low} to {high})"
    )


# The baseline


def compare_with_baseline(
    new: SavedModel, holdout: pl.DataFrame, metric: Metric
) -> dict[str, Any]:
    """Compare a new model with the baseline that was saved with it.

    Returns the `name` of the baseline, its `metrics`, and a `reason` in words. `is_beaten`
    says whether the new model is better by more than chance. The `comparison` is missing if
    the two could not be compared.

    Raises ValueError if the model was saved without a baseline, or without the rule by
    which rows were held out.
    """
    if new.baseline is None:
        raise ValueError("The model was saved without a baseline.")
    if new.split is None:
        raise ValueError(
            "The model was saved without the rule by which rows were held out."
        )
    features = select_columns(holdout, new.columns)
    target = holdout[new.target].to_pandas()
    result: dict[str, Any] = {
        "name": new.baseline_name,
        "metrics": measure(new.baseline, features, target, new.task),
        "is_beaten": False,
    }

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
            metric,
            ModelOnRows(new.pipeline, features),
            ModelOnRows(new.baseline, features),
            target,
            groups,
        )
    except CannotCompute as error:
        reason = f"{metric.title} cannot be computed on the held-out rows: {error}"
        return {**result, "reason": reason}

    return {
        **result,
        "is_beaten": difference.verdict == "better",
        "reason": _explain_baseline(difference, metric, new.baseline_name),
        "comparison": asdict(difference),
    }


def _explain_baseline(
    difference: Difference, metric: Metric, baseline_name: str
) -> str:
    """Return the result of a comparison with the baseline in words."""
    relation = "not better by more than chance"
    if difference.verdict in ("better", "worse"):
        relation = difference.verdict
    description = describe_difference(difference, metric, "baseline")
    return f"the new model is {relation} than the baseline ({baseline_name}): {description}"


# The registered model


def compare_with_registered(
    name: str, new: SavedModel, holdout: pl.DataFrame, metric: Metric, margin: float
) -> dict[str, Any] | None:
    """Compare a new model with the registered model called `name`.

    Returns None if no model is registered. Otherwise, returns the `version` that it was
    compared with, a `reason` in words, and one of these verdicts:

    - `better`, `no worse`, `within the margin` or `worse`, see `Difference`. With these,
      the result has the `comparison`, and for the same rows the `metrics` of the registered
      model and the `metrics_of_new_model`.
    - `the same` if both models were trained in the same way and predict the same.
    - `not comparable` if the registered model cannot be used for a comparison.
    - `another question` if the registered model predicts something else.
    """
    versions = list_versions(name)
    if not versions:
        return None

    version = max(versions, key=int)
    try:
        newest = _load_reference(versions[version], new, holdout)
        if _is_the_same(new, newest):
            reason = f"the new model is the registered version {version} again"
            return _report(version, "the same", reason)
        reference = _choose_reference(newest, versions, new, holdout)
        version = reference.version
        return _compare_with_reference(
            new, reference, metric, margin, is_newest=reference is newest
        )
    except NotComparable as error:
        reason = (
            f"the new model is not comparable with the registered version {version}:"
            f" {error}"
        )
        return _report(version, "not comparable", reason)
    except PredictsSomethingElse as error:
        reason = f"the registered version {version} predicts something else: {error}"
        return _report(version, "another question", reason)


def list_versions(name: str) -> dict[str, ModelVersion]:
    """Return the versions of a registered model by their numbers, which may be none."""
    try:
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {str(version.version): version for version in versions}


def _load_reference(
    version: ModelVersion, new: SavedModel, holdout: pl.DataFrame
) -> Reference:
    """Load a registered version, and find the rows to compare it with the new model on.

    Raises NotComparable or PredictsSomethingElse if it cannot be compared.
    """
    with not_comparable_if_it_fails("its files are gone"):
        folder = mlflow.artifacts.download_artifacts(
            f"models:/{version.name}/{version.version}"
        )
    with not_comparable_if_it_fails("it cannot be loaded"):
        model = load_model(Path(folder))
    rows = find_shared_rows(new, model, holdout)
    return Reference(str(version.version), model, rows)


def _choose_reference(
    newest: Reference,
    versions: Mapping[str, ModelVersion],
    new: SavedModel,
    holdout: pl.DataFrame,
) -> Reference:
    """Return the version to compare with: the newest one, or the one that its tag names.

    A version that was only no worse than an earlier one is not compared with. Otherwise,
    each version could be a little worse than the one before, and the losses would add up.
    The newest version is used after all if the earlier one cannot be compared.
    """
    earlier = versions[newest.version].tags.get(REFERENCE_TAG, "")
    if earlier not in versions or earlier == newest.version:
        return newest
    try:
        return _load_reference(versions[earlier], new, holdout)
    except (NotComparable, PredictsSomethingElse):
        return newest


def _is_the_same(new: SavedModel, reference: Reference) -> bool:
    """Return whether both models were trained in the same way and predict the same.

    Raises NotComparable if the registered model cannot predict the rows.
    """
    registered = reference.model
    have_same_split = vars(new.split) == vars(registered.split)
    if not have_same_split or new.columns != registered.columns:
        return False

    with not_comparable_if_it_fails("it cannot predict these rows"):
        features = select_features(registered, reference.rows.table)
        if new.task == "regression":
            new_values = new.pipeline.predict(features)
            registered_values = registered.pipeline.predict(features)
        else:
            new_values = new.pipeline.predict_proba(features)
            registered_values = registered.pipeline.predict_proba(features)
        return np.array_equal(new_values, registered_values)


def _compare_with_reference(
    new: SavedModel,
    reference: Reference,
    metric: Metric,
    margin: float,
    *,
    is_newest: bool,
) -> dict[str, Any]:
    """Compare a new model with a registered version on the rows that both held out.

    Raises NotComparable if the registered version cannot predict the rows.
    """
    rows = reference.rows.table
    target = rows[new.target].to_pandas()
    with not_comparable_if_it_fails("it cannot predict these rows"):
        registered_on_rows = ModelOnRows(
            reference.model.pipeline, select_features(reference.model, rows)
        )
        new_on_rows = ModelOnRows(new.pipeline, select_columns(rows, new.columns))
        metrics = _measure(registered_on_rows, target, new.task)
        metrics_of_new_model = _measure(new_on_rows, target, new.task)
        difference = compare_pipelines(
            metric,
            new_on_rows,
            registered_on_rows,
            target,
            reference.rows.groups,
            margin,
        )

    reason = _explain_registered(difference, metric, reference, is_newest=is_newest)
    changes = list_prep_changes(
        new.schema, reference.model.schema, reference.model.columns
    )
    if changes:
        reason += f"; {describe_prep_changes(changes, reference.version)}"
    return {
        **_report(reference.version, difference.verdict, reason),
        "comparison": {**asdict(difference), "rows": len(rows)},
        "metrics": metrics,
        "metrics_of_new_model": metrics_of_new_model,
    }


def _measure(model: ModelOnRows, target: pd.Series, task: str) -> dict[str, float]:
    """Return all metrics of a model on some rows."""
    return measure(model.pipeline, model.features, target, task)


def _explain_registered(
    difference: Difference, metric: Metric, reference: Reference, *, is_newest: bool
) -> str:
    """Return the result of a comparison with a registered version in words.

    `is_newest` is whether the reference is the newest registered version.
    """
    relation: str = difference.verdict
    if relation == "within the margin":
        margin = metric.format(difference.accepted_loss)
        relation = f"worse by no more than the margin of {margin}"
    version = reference.version
    chosen = ""
    if not is_newest:
        chosen = " (the reference: no later version was better by more than chance)"
    description = describe_difference(difference, metric, f"version {version}")
    detectable = metric.format(difference.detectable)
    return (
        f"the new model is {relation} than the registered version {version}{chosen} on"
        f" {len(reference.rows.table)} rows held out from both: {description}; on these"
        f" rows, a loss of {detectable} would be noticed with a probability of 95 %"
    )


def _report(version: str, verdict: str, reason: str) -> dict[str, Any]:
    """Return the result of a comparison, without metrics."""
    return {"version": version, "verdict": verdict, "reason": reason}
