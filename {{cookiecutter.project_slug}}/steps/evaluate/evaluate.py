"""Evaluate a trained model on the held-out rows, beside the model registered now.

Metrics and figures go to MLflow; `metrics.json` is what the register step decides by,
`report.html` what a person opens.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
from matplotlib import rcParams
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from sklearn import metrics
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

# The metric by which models are compared, and whether more of it is better.
COMPARED_BY = {"classification": ("f1_macro", True), "regression": ("rmse", False)}
IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table
MOST_FEATURES, MOST_CLASSES, LONGEST_NAME = 20, 30, 24  # in the figures
FEW = 30  # groups of rows held out from both models: with fewer, they are not compared
RESAMPLES = 2_000
MOST_BLOCKS = 2_000  # that the bootstrap draws from; rows are summed up to them
MOST_SUMS = 2_000_000  # numbers in these blocks
# The types of a model's signature as polars has them.
TYPES = {"double": pl.Float64(), "datetime": pl.Datetime("us"), "string": pl.String()}
STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
img { max-width: 100%; height: auto; }
"""
# Text in figures is what it says, in whatever letters, and never read as a formula.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})

Columns = dict[str, pl.DataType]  # that a model asks for
Values = npt.NDArray[Any]


def measure(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, float]:
    """The metrics of a model's predictions; what cannot be computed is left out."""
    predicted = model.predict(features)
    if task == "regression":
        found = {"rmse": metrics.root_mean_squared_error(target, predicted)}
        found["mae"] = metrics.mean_absolute_error(target, predicted)
        if len(target) > 1:
            found["r2"] = metrics.r2_score(target, predicted)
    else:
        found = {"accuracy": metrics.accuracy_score(target, predicted)}
        balanced = metrics.balanced_accuracy_score(target, predicted)
        found["balanced_accuracy"] = balanced
        found["f1_macro"] = metrics.f1_score(target, predicted, average="macro")
        labels, scores = model.classes_, model.predict_proba(features)
        if set(target) <= set(labels):
            found["log_loss"] = metrics.log_loss(target, scores, labels=labels)
        if set(target) == set(labels):  # else the ROC curve of a class has no points
            scores = scores[:, 1] if len(labels) == 2 else scores
            of_each = {"multi_class": "ovr", "labels": labels}
            found["roc_auc"] = metrics.roc_auc_score(target, scores, **of_each)
    return {name: float(value) for name, value in found.items()}


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


class NotComparable(Exception):
    """The registered model cannot be compared with the new one; the message says why."""


def compare_registered(
    name: str, new: Pipeline, columns: Columns, table: pl.DataFrame
) -> dict[str, Any] | None:
    """The new model beside the registered one, on the rows that both have held out.

    None if no model is registered. Else its `version`, the `verdict` (better, no worse,
    worse, the same, not comparable), the `reason` in words and, unless they are not
    comparable, the `comparison` and the registered model's `metrics` on these rows.
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


def importance(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> pd.Series:
    """How much worse the model gets when a feature is shuffled, the largest first."""
    rows = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    scoring = "neg_root_mean_squared_error" if task == "regression" else "f1_macro"
    # One thread: so few rows at a time are not worth waking others for.
    with threadpool_limits(1, user_api="openmp"):
        found = permutation_importance(
            model, rows, target[rows.index], scoring=scoring, random_state=0
        )
    loss = pd.Series(found.importances_mean, features.columns)
    return loss.sort_values(ascending=False)


def plain(name: object) -> str:
    """A name as a figure shows it: short, and on one line."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def draw(
    target: pd.Series, predicted: Values, loss: pd.Series, task: str
) -> dict[str, Figure]:
    """Predictions beside the actual values, and the features that matter most."""
    classes = target.value_counts().index[:MOST_CLASSES].sort_values()
    size = 5 if task == "regression" else 3 + 0.5 * len(classes)
    predictions = Figure(figsize=(size + 1, size), layout="constrained")
    axes = predictions.subplots()
    if task == "regression":
        metrics.PredictionErrorDisplay.from_predictions(  # of 1,000 rows at the most
            target, predicted, kind="actual_vs_predicted", random_state=0, ax=axes
        )
    else:
        counts = metrics.confusion_matrix(target, predicted, labels=classes)
        names = [plain(name) for name in classes]
        confusion = metrics.ConfusionMatrixDisplay(counts, display_labels=names)
        confusion.plot(ax=axes, cmap="Blues", xticks_rotation=45, colorbar=False)
    top = loss.head(MOST_FEATURES)[::-1]
    bars = Figure(figsize=(7, 1.2 + 0.28 * len(top)), layout="constrained")
    names = [plain(name) for name in top.index]
    bars.subplots().barh(range(len(top)), top, tick_label=names)
    bars.supxlabel("loss of score when the feature is shuffled", fontsize="medium")
    return {"Predictions": predictions, "Importance of the features": bars}


def report_html(
    title: str, reason: str, evaluation: dict[str, Any], figures: dict[str, Figure]
) -> str:
    """The evaluation as one HTML page that needs no other file."""
    title, registered = html.escape(title), evaluation["registered"]
    table = pd.DataFrame({"new model": evaluation["metrics"]})
    if registered and "comparison" in registered:
        rows = registered["comparison"]["rows"]
        heading = f"version {registered['version']}, on {rows} rows held out from both"
        table[heading] = pd.Series(registered["metrics"])
    pictures = ""
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="svg")
        data = f"image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"
        pictures += f'<h2>{name}</h2><img alt="{name}" src="data:{data}">\n'
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style>
<h1>{title}</h1>
<p>{evaluation["rows"]} held-out rows. {html.escape(reason[0].upper() + reason[1:])}.</p>
{table.to_html(float_format="{:.4g}".format, border=0)}
{pictures}</html>
"""


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate as the command line says, and write metrics, figures and the report."""
    model, columns = load(args.model)
    table = pl.read_parquet(args.holdout)
    features, target = columns_of(table, columns), table[args.target].to_pandas()
    metric, higher_is_better = COMPARED_BY[args.task]
    found = measure(model, features, target, args.task)
    registered = compare_registered(args.model_name, model, columns, table)
    reason = registered["reason"] if registered else "no model is registered yet"
    evaluation = {
        "task": args.task,
        "target": args.target,
        "rows": len(target),
        "compared_by": {"metric": metric, "higher_is_better": higher_is_better},
        "metrics": found,
        "registered": registered,
    }
    loss = importance(model, features, target, args.task)
    figures = draw(target, model.predict(features), loss, args.task)
    title = f"{args.model_name}: {args.task} of {args.target}"
    page = report_html(title, reason, evaluation, figures)
    text = json.dumps(evaluation, indent=2, allow_nan=False)
    args.evaluation.mkdir(parents=True, exist_ok=True)
    (args.evaluation / "metrics.json").write_text(text)
    (args.evaluation / "report.html").write_text(page, encoding="utf-8")
    with mlflow.start_run():
        mlflow.log_metrics(found)
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"{name.lower().replace(' ', '_')}.png")
        mlflow.log_artifacts(str(args.evaluation))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(f"{len(target)} held-out rows: {shown}; {reason}")


def main() -> None:
    """Read the command line, and end with one sentence where a file cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--holdout", "--evaluation"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--task", choices=list(COMPARED_BY), required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model-name", required=True)
    try:
        evaluate(parser.parse_args())
    except OSError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
