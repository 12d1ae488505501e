"""How a new model compares with the one that is registered now.

They are judged on the rows that neither has been trained on, and by what is more than
chance. Nobody needs to change this.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from sklearn.pipeline import Pipeline

# The metric by which models are compared, and whether more of it is better.
COMPARED_BY = {"classification": ("f1_macro", True), "regression": ("rmse", False)}
FEW = 30  # groups of rows held out from both models: with fewer, they are not compared
RESAMPLES = 2_000
MOST_BLOCKS = 2_000  # that the bootstrap draws from; rows are summed up to them
MOST_SUMS = 2_000_000  # numbers in these blocks
# The types of a model's signature as polars has them.
TYPES = {"double": pl.Float64(), "datetime": pl.Datetime("us"), "string": pl.String()}

Columns = dict[str, pl.DataType]  # that a model asks for
Values = npt.NDArray[Any]
Measure = Callable[[Pipeline, pd.DataFrame, pd.Series, str], dict[str, float]]


class NotComparable(Exception):
    """The registered model cannot be compared with the new one; the message says why."""


def compare_registered(
    name: str, new: Pipeline, columns: Columns, table: pl.DataFrame, measure: Measure
) -> dict[str, Any] | None:
    """The new model beside the registered one, on the rows that both have held out.

    None if no model is registered. Else its `version`, the `verdict` (better, no worse,
    worse, the same, not comparable), the `reason` in words and, unless they are not
    comparable, the `comparison` and the registered model's `metrics` on these rows, as
    `measure` gives them.
    """
    newest = newest_version(name)
    if newest is None:
        return None
    version = f"the registered version {newest}"
    why = "its files are gone"
    try:
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{newest}")
        why = "it cannot be loaded"
        old, old_columns = load(Path(folder))
        why = "it cannot say which rows it was trained on"
        common, groups = held_out_from_both(new, old, old_columns, table)
        why = "it cannot predict these rows"
        target = common[new.target].to_pandas()
        features = columns_of(common, old_columns)
        predicted = new.predict(columns_of(common, columns)), old.predict(features)
        metrics_of_old = measure(old, features, target, new.task)
    except Exception as error:  # noqa: BLE001 (whatever a foreign model raises)
        why = f"{error}" if isinstance(error, NotComparable) else f"{why} ({error})"
        reason = f"not comparable with {version}: {why}"
        return {"version": newest, "verdict": "not comparable", "reason": reason}
    found = compare(target, *predicted, groups, new.task) | {"rows": len(common)}
    verdict, (low, high) = found["verdict"], found["interval"]
    reason = (
        f"{verdict} than {version}: {found['metric']} {found['new']:.4g}, not"
        f" {found['current']:.4g}, on {len(common)} rows held out from both; difference"
        f" {found['difference']:+.4g} (95 % interval {low:+.4g} to {high:+.4g})"
    )
    if (vars(new.split), columns) == (vars(old.split), old_columns):
        scores = "predict" if new.task == "regression" else "predict_proba"
        if np.array_equal(*(getattr(one, scores)(features) for one in (new, old))):
            verdict, reason = "the same", f"it is {version} again"
    found = {"verdict": verdict, "reason": reason, "comparison": found}
    return {"version": newest, **found, "metrics": metrics_of_old}


def held_out_from_both(
    new: Pipeline, old: Pipeline, old_columns: Columns, table: pl.DataFrame
) -> tuple[pl.DataFrame, Values]:
    """The rows of the hold-out that the registered model has not seen either.

    With them the group of each, as rows of one key do not count for themselves.
    NotComparable if there are too few of them, or another question was asked.
    """
    if not hasattr(old, "split"):
        raise NotComparable("it does not say which rows it was trained on")
    asked, now = (f"a {one.task} of '{one.target}'" for one in (old, new))
    if asked != now:
        raise NotComparable(f"it is {asked}, not {now}")
    if new.task == "classification":
        classes = sorted(map(str, old.classes_))
        if set(classes).isdisjoint(map(str, new.classes_)):
            raise NotComparable(f"it knows other classes ({', '.join(classes[:5])})")
    needed = dict.fromkeys([*old.split.by, *old_columns])
    if missing := [name for name in needed if name not in table.columns]:
        raise NotComparable(f"it needs columns that are gone: {', '.join(missing)}")
    common = table.filter(old.split.held_out(table))
    # Whichever holds more rows together: what was trained on is not known of others.
    both = [one.split.groups(common) for one in (new, old)]
    groups = min(both, key=lambda found: len(np.unique(found)))
    if (count := len(np.unique(groups))) < FEW:
        s, are = ("", "is") if count == 1 else ("s", "are")
        raise NotComparable(
            f"only {count} group{s} of rows (equal ones, or of one key) {are} held out"
            f" from both, and {FEW} are needed"
        )
    return common, groups


def compare(
    target: pd.Series, new: Values, current: Values, groups: Values, task: str
) -> dict[str, Any]:
    """How two models' predictions of the same rows differ, and what is chance in it.

    `difference` is the new metric less the current one; `interval` holds it with 95 %
    probability: a paired bootstrap, which draws rows of one group together, as they are
    not independent. `verdict` is worse or better only if all of the interval is.
    """
    if task == "regression":  # as if of one class, which is hit by its squared errors
        coded = np.zeros((3, len(target)), int)
        hits = (np.array([new, current]) - np.asarray(target)) ** 2
    else:  # classes by name, as their type may have changed between the models
        known = [pd.Categorical(one) for one in (target, new, current)]
        named = [one.rename_categories(str) for one in known]
        coded = pd.api.types.union_categoricals(named).codes.astype(int).reshape(3, -1)
        hits = coded[1:] == coded[0]
    # Rows are summed up to blocks of whole groups, which are drawn instead of them.
    classes = 1 + coded.max()
    different, rank = np.unique(groups, return_inverse=True)
    blocks = max(1, min(len(different), MOST_BLOCKS, MOST_SUMS // (4 * classes)))

    def total(code: Values, weight: Values | None = None) -> Values:
        cells = rank % blocks * classes + code
        return np.bincount(cells, weight, blocks * classes).reshape(blocks, classes)

    actual, *predicted = coded
    twice_hit = [2 * total(actual, hit) for hit in hits]
    there = [total(actual) + total(one) for one in predicted]
    sums = np.array([twice_hit, there])
    drawn = np.random.default_rng(0).integers(blocks, size=(RESAMPLES, blocks))
    times = np.array([np.bincount(one, minlength=blocks) for one in drawn])
    samples = _metrics(np.tensordot(times, sums, (1, 2)), task)
    low, high = np.percentile(samples[:, 0] - samples[:, 1], [2.5, 97.5]).tolist()
    ours, theirs = _metrics(sums.sum(axis=2), task).tolist()
    metric, higher_is_better = COMPARED_BY[task]
    least, most = (low, high) if higher_is_better else (-high, -low)
    verdict = "worse" if most < 0 else "better" if least > 0 else "no worse"
    change = ours - theirs
    found = {"metric": metric, "new": ours, "current": theirs, "difference": change}
    return found | {"interval": [low, high], "verdict": verdict}


def _metrics(sums: Values, task: str) -> Values:
    """The metric of the new and of the current model, for each draw of blocks.

    F1 is twice the hits of a class by its rows and its predictions; the mean is taken
    over the classes that are there. In a regression that is the mean squared error.
    """
    twice_hit, there = sums[..., 0, :, :], sums[..., 1, :, :]
    each = twice_hit / np.maximum(there, 1)
    mean: Values = each.sum(axis=-1) / (there > 0).sum(axis=-1)
    return np.sqrt(mean) if task == "regression" else mean


def newest_version(name: str) -> str | None:
    """The newest version of a registered model; None if there is none."""
    try:
        versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return max((str(v.version) for v in versions), key=int, default=None)


def load(folder: Path) -> tuple[Pipeline, Columns]:
    """A saved model, and the columns that it asks for with their types."""
    # A copy in a plain place, since MLflow takes a %20 in a path for a blank.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        model = mlflow.sklearn.load_model(copy.as_uri())
        inputs = mlflow.models.Model.load(str(copy)).signature.inputs.to_dict()
    return model, {column["name"]: TYPES[column["type"]] for column in inputs}


def columns_of(table: pl.DataFrame, columns: Columns) -> pd.DataFrame:
    """The columns that a model asks for, in its types; an error if that cannot be."""
    found = {}
    for name, dtype in columns.items():
        values, had = table[name], table[name].dtype
        if values.null_count() == len(values):
            values = pl.repeat(None, len(values), dtype=dtype, eager=True)
        elif pl.String not in (had, dtype) and had.is_temporal() != dtype.is_temporal():
            raise TypeError(f"'{name}' is {had}, not {dtype}")
        found[name] = values.cast(dtype)
    return pl.DataFrame(found).to_pandas()
