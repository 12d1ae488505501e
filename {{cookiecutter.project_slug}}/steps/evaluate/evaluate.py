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
import pyarrow as pa
import pyarrow.dataset as ds
from matplotlib import rc_context
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from sklearn import metrics
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

# The metric by which models are compared, and whether more of it is better.
COMPARED_BY = {"classification": ("f1_macro", True), "regression": ("rmse", False)}
IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table
MOST_FEATURES = 20  # in the figure
MOST_CLASSES = 30  # in the figure
LONGEST_NAME = 24  # in the figures
NOT_YET = "no model is registered yet"
FEW = 30  # groups of rows held out from both models: with fewer, they are not compared
RESAMPLES = 2_000
MOST_BLOCKS = 10_000  # that the bootstrap draws from; rows are summed up to them
MOST_SUMS = 2_000_000  # numbers in these blocks
# The types of a model's signature in Arrow.
TYPES = {"double": pa.float64(), "datetime": pa.timestamp("us"), "string": pa.string()}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; }
body { padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
"""


def measure(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, float]:
    """The metrics of a model's predictions; what cannot be computed is left out."""
    predicted = model.predict(features)
    if task == "regression":
        return {
            "rmse": float(metrics.root_mean_squared_error(target, predicted)),
            "mae": float(metrics.mean_absolute_error(target, predicted)),
            **(
                {"r2": float(metrics.r2_score(target, predicted))}
                if len(target) > 1
                else {}
            ),
        }
    found = {
        "accuracy": float(metrics.accuracy_score(target, predicted)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(target, predicted)),
        "f1_macro": float(metrics.f1_score(target, predicted, average="macro")),
    }
    classes = model.classes_
    probabilities = model.predict_proba(features)
    if set(target) <= set(classes):
        found["log_loss"] = float(
            metrics.log_loss(target, probabilities, labels=classes)
        )
    if set(target) == set(classes):  # else the ROC curve of a class has no points
        scores = probabilities[:, 1] if len(classes) == 2 else probabilities
        found["roc_auc"] = float(
            metrics.roc_auc_score(target, scores, multi_class="ovr", labels=classes)
        )
    return found


def newest_version(name: str) -> str | None:
    """The newest version of a registered model; None if there is none."""
    try:
        versions = MlflowClient().search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return max((str(v.version) for v in versions), key=int, default=None)


def load(folder: Path) -> tuple[Pipeline, dict[str, pa.DataType]]:
    """A saved model, and the columns that it asks for with their types."""
    # A copy in a plain place, since MLflow takes a %20 in a path for a blank.
    with TemporaryDirectory() as plain:
        copy = shutil.copytree(folder, Path(plain) / "model")
        model = mlflow.sklearn.load_model(copy.as_uri())
        inputs = Model.load(str(copy)).signature.inputs.to_dict()
    return model, {column["name"]: TYPES[column["type"]] for column in inputs}


def columns_of(table: pa.Table, columns: dict[str, pa.DataType]) -> pd.DataFrame:
    """The columns that a model asks for, in its types; KeyError if one is missing."""
    found = {n: table[n].cast(dtype, safe=False) for n, dtype in columns.items()}
    return pa.table(found).to_pandas()


class NotComparable(Exception):
    """The registered model cannot be compared with the new one; the message says why."""


def compare_registered(
    name: str, new: Pipeline, columns: dict[str, pa.DataType], table: pa.Table
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
    try:
        old, old_columns = registered_model(name, newest)
        common, groups = held_out_from_both(new, old, old_columns, table)
        target = common[new.target].to_pandas()
        try:
            features = columns_of(common, old_columns)
            predicted = [
                new.predict(columns_of(common, columns)),
                old.predict(features),
            ]
            metrics_of_old = measure(old, features, target, new.task)
        except Exception as error:  # noqa: BLE001 (whatever a foreign model raises)
            raise NotComparable(f"it cannot predict these rows ({error})") from None
    except NotComparable as error:
        reason = f"not comparable with {version}: {error}"
        return {"version": newest, "verdict": "not comparable", "reason": reason}
    found = compare(target, predicted[0], predicted[1], groups, new.task)
    found["rows"] = len(common)
    is_same = (vars(new.split), columns) == (vars(old.split), old_columns) and (
        np.array_equal(_scores(new, features), _scores(old, features))
    )
    low, high = found["interval"]
    reason = (
        f"{found['verdict']} than {version}: {found['metric']} {found['new']:.4g}, not"
        f" {found['current']:.4g}, on {len(common)} rows held out from both; difference"
        f" {found['difference']:+.4g} (95 % interval {low:+.4g} to {high:+.4g})"
    )
    return {
        "version": newest,
        "verdict": "the same" if is_same else found["verdict"],
        "reason": f"it is {version} again" if is_same else reason,
        "comparison": found,
        "metrics": metrics_of_old,
    }


def registered_model(
    name: str, version: str
) -> tuple[Pipeline, dict[str, pa.DataType]]:
    """A registered model and its columns; NotComparable if it cannot be loaded."""
    try:
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}")
        return load(Path(folder))
    except (MlflowException, OSError) as error:
        raise NotComparable(f"its files are gone ({error})") from None
    except Exception as error:  # noqa: BLE001 (whatever a foreign pickle raises)
        raise NotComparable(f"it cannot be loaded ({error})") from None


def held_out_from_both(
    new: Pipeline, old: Pipeline, old_columns: dict[str, pa.DataType], table: pa.Table
) -> tuple[pa.Table, npt.NDArray[np.uint64]]:
    """The rows of the hold-out that the registered model has not seen either.

    With them the group of each, as rows of one key do not count for themselves.
    NotComparable if there are too few of them, or another question was asked.
    """
    if not hasattr(old, "split"):
        raise NotComparable("it does not say which rows it was trained on")
    asked = [f"a {one.task} of '{one.target}'" for one in (old, new)]
    if asked[0] != asked[1]:
        raise NotComparable(f"it is {asked[0]}, not {asked[1]}")
    if new.task == "classification":
        classes = [set(map(str, one.classes_)) for one in (old, new)]
        if classes[0].isdisjoint(classes[1]):
            names = ", ".join(sorted(classes[0])[:5])
            raise NotComparable(f"it knows other classes ({names})")
    needed = dict.fromkeys([*old.split.by, *old_columns])
    if missing := [name for name in needed if name not in table.column_names]:
        raise NotComparable(f"it needs columns that are gone: {', '.join(missing)}")
    common = table.filter(old.split.held_out(table))
    # Whichever holds more rows together: what was trained on is not known of others.
    groups = min(
        (one.split.groups(common) for one in (new, old)),
        key=lambda found: len(np.unique(found)),
    )
    if (count := len(np.unique(groups))) < FEW:
        raise NotComparable(
            f"only {count} groups of rows (equal ones, or of one key) are held out from"
            f" both, and {FEW} are needed"
        )
    return common, groups


def _scores(model: Pipeline, features: pd.DataFrame) -> npt.NDArray[Any]:
    score = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    return np.asarray(score(features))


def compare(
    target: pd.Series,
    new: npt.NDArray[Any],
    current: npt.NDArray[Any],
    groups: npt.NDArray[np.uint64],
    task: str,
) -> dict[str, Any]:
    """How two models' predictions of the same rows differ, and what is chance in it.

    `difference` is the new metric less the current one; `interval` holds it with 95 %
    probability: a paired bootstrap, which draws rows of one group together, as they are
    not independent. `verdict` is worse or better only if all of the interval is.
    """
    rows = len(target)
    if task == "classification":
        actual, *both = (codes := _coded(target, new, current))
        classes = max(one.max() for one in codes) + 1
        width = 5 * classes
        # Columns: rows of each class, then predicted and hit, for each model.
        place = [actual]
        for i, one in enumerate(both):
            place.append(one + (2 * i + 1) * classes)
            place.append(np.where(one == actual, one + (2 * i + 2) * classes, -1))
        weight = [np.ones(rows)] * 5
    else:
        width = 3
        place = [np.full(rows, i) for i in range(width)]
        errors = [(np.asarray(target) - one) ** 2 for one in (new, current)]
        weight = [np.ones(rows), *errors]
    # Rows are summed up to blocks of whole groups, which are drawn instead of them.
    different, block = np.unique(groups, return_inverse=True)
    count = max(1, min(len(different), MOST_BLOCKS, MOST_SUMS // width))
    if count < len(different):
        block = (groups % np.uint64(count)).astype(np.int64)
    sums = np.zeros((count, width))
    for one, much in zip(place, weight, strict=True):
        is_counted = one >= 0
        cell = block[is_counted] * width + one[is_counted]
        sums += np.bincount(cell, much[is_counted], count * width).reshape(sums.shape)

    random = np.random.default_rng(0)
    samples = np.empty(RESAMPLES)
    for some in np.array_split(np.arange(RESAMPLES), RESAMPLES // 50):
        drawn = random.integers(count, size=(len(some), count))
        drawn += np.arange(len(some))[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        samples[some] = np.subtract(*_metrics(times.astype(np.float64) @ sums, task))
    metric, higher_is_better = COMPARED_BY[task]
    value, now = _metrics(sums.sum(axis=0)[None], task)
    low, high = np.percentile(samples, [2.5, 97.5])
    if not higher_is_better:
        is_worse, is_better = low > 0, high < 0
    else:
        is_worse, is_better = high < 0, low > 0
    return {
        "metric": metric,
        "new": float(value[0]),
        "current": float(now[0]),
        "difference": float(value[0] - now[0]),
        "interval": [float(low), float(high)],
        "verdict": "worse" if is_worse else "better" if is_better else "no worse",
    }


def _coded(*columns: Any) -> list[npt.NDArray[np.int64]]:
    """Classes as numbers: by name, as their type may have changed between models."""
    found = [pd.factorize(np.asarray(column)) for column in columns]
    names = sorted({str(name) for _, known in found for name in known})
    number = {name: i for i, name in enumerate(names)}
    return [
        np.array([number[str(name)] for name in known])[codes] for codes, known in found
    ]


def _metrics(sums: npt.NDArray[np.float64], task: str) -> list[npt.NDArray[np.float64]]:
    """The metric of the new and of the current model, of each line of sums."""
    if task == "regression":
        return [np.sqrt(sums[:, i] / sums[:, 0]) for i in (1, 2)]
    actual, *models = np.split(sums, 5, axis=1)
    found = []
    for predicted, hit in (models[:2], models[2:]):
        both = actual + predicted  # of classes that are not there, nothing counts
        f1 = np.divide(2 * hit, both, out=np.zeros_like(hit), where=both > 0)
        found.append(f1.sum(axis=1) / (both > 0).sum(axis=1))
    return found


def importance(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> pd.Series:
    """How much worse the model gets when a feature is shuffled, the largest first."""
    rows = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    scoring = {
        "classification": "f1_macro",
        "regression": "neg_root_mean_squared_error",
    }
    # One thread: so few rows at a time are not worth waking others for.
    with threadpool_limits(1, user_api="openmp"):
        found = permutation_importance(
            model,
            rows,
            target[rows.index],
            scoring=scoring[task],
            n_repeats=5,
            random_state=0,
        )
    return pd.Series(found.importances_mean, features.columns).sort_values(
        ascending=False
    )


def plain(name: object) -> str:
    """A name as a figure shows it: short, on one line, and never read as a formula."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
    return text.replace("$", r"\$")


def plot_importance(found: pd.Series) -> Figure:
    """A bar for each of the features that matter most."""
    top = found.head(MOST_FEATURES)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(top)), layout="constrained")
    axes = figure.subplots()
    names = [plain(name) for name in top.index]
    axes.barh(range(len(top)), top.to_numpy(), tick_label=names, color="#4878a8")
    axes.set_xlabel("loss of score when the feature is shuffled")
    return figure


def plot_confusion(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """How many rows of each class were predicted as which class."""
    classes = target.value_counts().index[:MOST_CLASSES].sort_values()
    size = 3 + 0.5 * len(classes)
    figure = Figure(figsize=(size + 1.5, size), layout="constrained")
    metrics.ConfusionMatrixDisplay(
        metrics.confusion_matrix(target, predicted, labels=classes),
        display_labels=[plain(name) for name in classes],
    ).plot(ax=figure.subplots(), cmap="Blues", xticks_rotation=45, colorbar=False)
    return figure


def plot_errors(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """Actual values against the predicted ones; a perfect model is on the line."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    metrics.PredictionErrorDisplay(y_true=target, y_pred=predicted).plot(
        ax=figure.subplots(), kind="actual_vs_predicted"
    )
    return figure


def report_html(
    title: str, evaluation: dict[str, Any], figures: dict[str, Figure]
) -> str:
    """The evaluation as one HTML page that needs no other file."""
    registered = evaluation["registered"]
    table = pd.DataFrame({"new model": evaluation["metrics"]})
    words = registered["reason"] if registered else NOT_YET
    note = f"{words[0].upper()}{words[1:]}."
    if registered and "comparison" in registered:
        rows = registered["comparison"]["rows"]
        heading = f"version {registered['version']}, on {rows} rows held out from both"
        table[heading] = pd.Series(registered["metrics"])
    pictures = "".join(
        f"<h2>{html.escape(name)}</h2>"
        f'<img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{_svg(figure)}">'
        for name, figure in figures.items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{evaluation["rows"]} held-out rows. {html.escape(note)}</p>
{table.to_html(float_format="{:.4g}".format, border=0)}
{pictures}
</html>
"""


def _svg(figure: Figure) -> str:
    picture = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # text, in whatever letters it is
        figure.savefig(picture, format="svg")
    return base64.b64encode(picture.getvalue()).decode()


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate as the command line says, and write metrics, figures and the report."""
    model, columns = load(args.model)
    table = ds.dataset(args.holdout, format="parquet").to_table()
    features, target = columns_of(table, columns), table[args.target].to_pandas()
    predicted = model.predict(features)
    metric, higher_is_better = COMPARED_BY[args.task]
    evaluation = {
        "task": args.task,
        "target": args.target,
        "rows": len(target),
        "compared_by": {"metric": metric, "higher_is_better": higher_is_better},
        "metrics": measure(model, features, target, args.task),
        "registered": compare_registered(args.model_name, model, columns, table),
    }
    plot = {"classification": plot_confusion, "regression": plot_errors}[args.task]
    figures = {
        "Predictions": plot(target, predicted),
        "Importance of the features": plot_importance(
            importance(model, features, target, args.task)
        ),
    }
    title = f"{args.model_name}: {args.task} of {args.target}"
    args.evaluation.mkdir(parents=True, exist_ok=True)
    (args.evaluation / "metrics.json").write_text(
        json.dumps(evaluation, indent=2, allow_nan=False)
    )
    (args.evaluation / "report.html").write_text(
        report_html(title, evaluation, figures), encoding="utf-8"
    )
    with mlflow.start_run():
        mlflow.log_metrics(evaluation["metrics"])
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"{name.lower().replace(' ', '_')}.png")
        mlflow.log_artifacts(str(args.evaluation))
    shown = (f"{name} {value:.4g}" for name, value in evaluation["metrics"].items())
    registered = evaluation["registered"]
    words = registered["reason"] if registered else NOT_YET
    print(f"{len(target)} held-out rows: {', '.join(shown)}; {words}")


def main() -> None:
    """Read the command line, and end with one sentence where a file cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--task", choices=list(COMPARED_BY), required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model-name", required=True)
    try:
        evaluate(parser.parse_args())
    except OSError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
