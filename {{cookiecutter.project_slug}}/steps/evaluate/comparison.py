"""Compare a new model with the baseline and with the registered model.

Models are compared on rows that neither of them was trained on. A difference counts only if
it is larger than chance explains.
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
from difference import POWER, Difference, compare_predictions
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
    PREDICTS_SOMETHING_ELSE,
    NotComparable,
    PredictsSomethingElse,
    SharedRows,
    find_shared_rows,
    form_periods,
    raise_not_comparable_on_error,
)
from sklearn.pipeline import Pipeline

# With fewer groups of held-out rows, a model is not compared with the baseline.
FEWEST_GROUPS_FOR_BASELINE = 10
# A registered version that was not clearly better than an earlier version has this tag,
# which names the earlier version. Later models are then compared with the earlier version.
REFERENCE_TAG = "reference"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelOnRows:
    """A pipeline, and the features of some rows as this pipeline needs them."""

    pipeline: Pipeline
    features: pd.DataFrame


@dataclass(frozen=True)
class Reference:
    """A registered version, and the rows on which a new model is compared with it."""

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

    `groups` holds the group of each row, and rows of one group are not independent.
    `margin` is the loss that is accepted, as a share of the other model's value. Raises
    CannotCompute if the metric or its confidence interval cannot be computed.
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
    """Return the values of two models and their difference as part of a sentence.

    An example is "accuracy 0.9672 (baseline: 0.3934; higher is better), and the difference
    of +0.5738 is more than chance explains (95 % interval +0.4 to +0.7)". `other_model` is
    the name of the model that the new model was compared with.
    """
    new_value = metric.format(difference.new)
    other_value = metric.format(difference.other)
    change = metric.format(difference.difference, signed=True)
    low = metric.format(difference.interval[0], signed=True)
    high = metric.format(difference.interval[1], signed=True)
    relation = "is more than chance explains"
    if difference.is_within_chance:
        relation = "may be due to chance"
    return (
        f"{metric.title} {new_value} ({other_model}: {other_value}; {metric.direction}),"
        f" and the difference of {change} {relation} (95 % interval {low} to {high})"
    )


# The baseline


def compare_with_baseline(
    new: SavedModel, holdout: pl.DataFrame, metric: Metric
) -> dict[str, Any]:
    """Compare a new model with its baseline, which predicts without features.

    Returns the `name` of the baseline, its `metrics`, whether it `is_beaten` (the new model
    is better by more than chance), and a `reason` in words. If the two models can be
    compared, the `comparison` is also returned: the difference in `metric`.

    Raises ValueError if the new model was saved without a baseline, or without the rule
    that decides which rows are held out.
    """
    if new.baseline is None:
        raise ValueError("The model was saved without a baseline.")
    if new.split is None:
        raise ValueError(
            "The model was saved without the rule that decides which rows are held out."
        )
    features = select_columns(holdout, new.columns)
    target = holdout[new.target].to_pandas()
    result: dict[str, Any] = {
        "name": new.baseline_name,
        "metrics": measure(new.baseline, features, target, new.task),
        "is_beaten": False,
    }

    groups = new.split.groups(holdout)
    group_count = len(np.unique(groups))
    if group_count < FEWEST_GROUPS_FOR_BASELINE:
        reason = (
            f"only {group_count} independent groups of rows are held out, and"
            f" {FEWEST_GROUPS_FOR_BASELINE} are needed to compare the new model with the"
            f" baseline ({new.baseline_name}); rows that are equal or have the same key"
            " count as one group"
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
        reason = (
            "the new model cannot be compared with the baseline by"
            f" {metric.title}: {error}"
        )
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
    """Return the result of a comparison with the baseline as part of a sentence."""
    if difference.is_within_chance:
        relation = "not better by more than chance"
    else:
        # The comparison with the baseline has no margin, so this is "better" or "worse".
        relation = difference.verdict
    description = describe_difference(difference, metric, "baseline")
    return f"the new model is {relation} than the baseline ({baseline_name}): {description}"


# The registered model


def compare_with_registered(
    name: str, new: SavedModel, holdout: pl.DataFrame, metric: Metric, margin: float
) -> dict[str, Any] | None:
    """Compare a new model with the registered model called `name`.

    Returns None if no model is registered. If a model is registered, returns the `version`
    that the new model was compared with, a `reason` in words, and one of these verdicts:

    - `better`, `no worse`, `within the margin` or `worse` (see `Difference`). In these
      cases, the result also has the `comparison` (the difference in `metric`), `metrics`
      (of the registered model) and `metrics_of_new_model`. They are all computed for the
      rows that were held out from both models.
    - `the same` if both models give the same predictions.
    - `not comparable` if the registered model cannot be used for a comparison.
    - `another question` if the registered model predicts something else.
    """
    versions = list_versions(name)
    if not versions:
        return None

    # The newest version is loaded first. If this or a later comparison fails, the reason
    # names the version.
    compared_version = max(versions, key=int)
    try:
        newest = _load_reference(versions[compared_version], new, holdout)
        if _gives_same_predictions(new, newest):
            reason = (
                "the new model gives the same predictions as the registered version"
                f" {compared_version}"
            )
            return _make_result(compared_version, "the same", reason)
        reference = _choose_reference(newest, versions, new, holdout)
        compared_version = reference.version
        return _compare_with_reference(
            new, reference, metric, margin, is_newest=reference is newest
        )
    except NotComparable as error:
        reason = (
            "the new model is not comparable with the registered version"
            f" {compared_version}: {error}"
        )
        return _make_result(compared_version, "not comparable", reason)
    except PredictsSomethingElse as error:
        reason = (
            f"the registered version {compared_version} predicts something else:"
            f" {error}"
        )
        return _make_result(compared_version, PREDICTS_SOMETHING_ELSE, reason)


def list_versions(name: str) -> dict[str, ModelVersion]:
    """Return the versions of a registered model by their numbers, such as "3".

    The dict is empty if no model of this name is registered.
    """
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
    """Load a registered version, and find the rows on which it can be compared.

    `holdout` has the rows that were held out from the new model. The rows to compare on are
    those that were held out from the registered version, too.

    Raises NotComparable if the version cannot be loaded, or if too few rows were held out
    from both models. Raises PredictsSomethingElse if their targets differ.
    """
    with raise_not_comparable_on_error("its files cannot be downloaded"):
        folder = mlflow.artifacts.download_artifacts(
            f"models:/{version.name}/{version.version}"
        )
    with raise_not_comparable_on_error("it cannot be loaded"):
        model = load_model(Path(folder))
    rows = find_shared_rows(new, model, holdout)
    return Reference(str(version.version), model, rows)


def _choose_reference(
    newest: Reference,
    versions: Mapping[str, ModelVersion],
    new: SavedModel,
    holdout: pl.DataFrame,
) -> Reference:
    """Return the registered version that the new model is compared with.

    Usually, this is the newest version. If the newest version was not clearly better than
    an earlier version, it has a tag that names the earlier version. The new model is then
    compared with the earlier version, or with the newest version if the earlier version
    cannot be compared.

    If every model were compared with the version just before it, each could be a little
    worse, and the losses would add up.
    """
    earlier_version = versions[newest.version].tags.get(REFERENCE_TAG, newest.version)
    if earlier_version == newest.version or earlier_version not in versions:
        return newest
    try:
        return _load_reference(versions[earlier_version], new, holdout)
    except (NotComparable, PredictsSomethingElse):
        return newest


def _gives_same_predictions(new: SavedModel, reference: Reference) -> bool:
    """Return whether a new model is the same as a registered model, as far as can be seen.

    The result is true if both models have the same split (the rule that holds rows out of
    the training) and the same columns, and predict exactly the same for the shared rows.
    Raises NotComparable if the registered model cannot predict these rows.
    """
    registered = reference.model
    # Two splits are the same if all their attributes are equal.
    have_same_split = vars(new.split) == vars(registered.split)
    if not have_same_split or new.columns != registered.columns:
        return False

    with raise_not_comparable_on_error("it cannot predict these rows"):
        features = select_features(registered, reference.rows.table)
        return np.array_equal(
            _predict_exactly(new.pipeline, features, new.task),
            _predict_exactly(registered.pipeline, features, new.task),
        )


def _predict_exactly(pipeline: Pipeline, features: pd.DataFrame, task: str) -> Array:
    """Return the predicted numbers, or in a classification the probabilities."""
    if task == "regression":
        return np.asarray(pipeline.predict(features))
    return np.asarray(pipeline.predict_proba(features))


def _compare_with_reference(
    new: SavedModel,
    reference: Reference,
    metric: Metric,
    margin: float,
    *,
    is_newest: bool,
) -> dict[str, Any]:
    """Compare a new model with a registered version on the rows held out from both.

    `is_newest` is whether the reference is the newest registered version. Returns the
    version, the verdict, the reason in words, the comparison by `metric`, and the metrics
    of both models. Raises NotComparable if the registered version cannot predict the rows,
    or if the metric cannot be computed for these rows.
    """
    registered = reference.model
    table = reference.rows.table
    target = table[new.target].to_pandas()
    with raise_not_comparable_on_error("it cannot predict these rows"):
        # The table was read for the new model. For the registered model, select_features()
        # also checks that the step prep would have read the same values for that model.
        registered_features = select_features(registered, table)
        registered_on_rows = ModelOnRows(registered.pipeline, registered_features)
        new_on_rows = ModelOnRows(new.pipeline, select_columns(table, new.columns))
        metrics_of_registered = measure(
            registered.pipeline, registered_on_rows.features, target, new.task
        )
        metrics_of_new_model = measure(
            new.pipeline, new_on_rows.features, target, new.task
        )
        groups = reference.rows.groups
        try:
            difference = compare_pipelines(
                metric, new_on_rows, registered_on_rows, target, groups, margin
            )
        except CannotCompute as error:
            raise NotComparable(
                f"{metric.title} cannot be compared on the rows that were held out from both"
                f" models: {error}"
            ) from None

    reason = _explain_registered(difference, metric, reference, is_newest=is_newest)
    changes = list_prep_changes(new.schema, registered.schema, registered.columns)
    if changes:
        reason += f"; {describe_prep_changes(changes, reference.version)}"
    return {
        "version": reference.version,
        "verdict": difference.verdict,
        "reason": reason,
        "comparison": {**asdict(difference), "rows": len(table)},
        "metrics": metrics_of_registered,
        "metrics_of_new_model": metrics_of_new_model,
    }


def _explain_registered(
    difference: Difference, metric: Metric, reference: Reference, *, is_newest: bool
) -> str:
    """Return the result of a comparison with a registered version as part of a sentence.

    `is_newest` is whether the reference is the newest registered version. If it is not, the
    sentence says why an earlier version was chosen.
    """
    version = f"the registered version {reference.version}"
    if not is_newest:
        version += " (no later version was clearly better)"
    if difference.verdict == "within the margin":
        margin = metric.format(difference.accepted_loss)
        relation = f"worse than {version}, but within the margin of {margin},"
    else:
        relation = f"{difference.verdict} than {version}"

    row_count = len(reference.rows.table)
    values = describe_difference(difference, metric, f"version {reference.version}")
    detectable = metric.format(difference.detectable)
    return (
        f"the new model is {relation} on {row_count} rows held out from both: {values}; on"
        f" these rows, a loss of {detectable} would be noticed with a probability of"
        f" {100 * POWER:.0f} %"
    )


def _make_result(version: str, verdict: str, reason: str) -> dict[str, Any]:
    """Return the result of a comparison that has no metrics, for `metrics.json`."""
    return {"version": version, "verdict": verdict, "reason": reason}
