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
import sys
from pathlib import Path
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
FEW = 30  # rows held out from both models: with fewer, they are not compared
RESAMPLES = 2_000
MOST_BLOCKS = 10_000  # that the bootstrap draws from; rows are summed up to them
MOST_SUMS = 20_000_000  # numbers in these blocks
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
    # As a URI, since MLflow takes a %20 in a path for a blank.
    model = mlflow.sklearn.load_model(folder.absolute().as_uri())
    inputs = Model.load(str(folder)).signature.inputs.to_dict()
    return model, {column["name"]: TYPES[column["type"]] for column in inputs}


def columns_of(table: pa.Table, columns: dict[str, pa.DataType]) -> pd.DataFrame:
    """The columns that a model asks for, in its types; KeyError if one is missing."""
    found = {n: table[n].cast(dtype, safe=False) for n, dtype in columns.items()}
    return pa.table(found).to_pandas()


def compare_registered(
    name: str, new: Pipeline, columns: dict[str, pa.DataType], table: pa.Table
) -> dict[str, Any] | None:
    """The new model beside the registered one, on the rows that both have held out.

    None if no model is registered. Else its `version`, and `problem` where the two cannot
    be compared, or `comparison` and `metrics`, the registered model's on these rows.
    """
    newest = newest_version(name)
    if newest is None:
        return None
    said = {"version": newest}
    try:
        folder = mlflow.artifacts.download_artifacts(f"models:/{name}/{newest}")
        old, old_columns = load(Path(folder))
    except Exception as error:  # noqa: BLE001 (whatever a foreign pickle raises)
        return said | {"problem": f"its files cannot be read ({error})"}
    if not hasattr(old, "split"):
        return said | {"problem": "it does not say which rows it was trained on"}
    if (old.task, old.target) != (new.task, new.target):
        problem = f"it is a {old.task} of '{old.target}', not a {new.task} of"
        return said | {"problem": f"{problem} '{new.target}'"}
    needed = dict.fromkeys([*old.split.by, *old_columns])
    if missing := [n for n in needed if n not in table.column_names]:
        return said | {
            "problem": f"it needs columns that are gone: {', '.join(missing)}"
        }
    common = table.filter(old.split.held_out(table))
    if len(common) < FEW:
        problem = f"only {len(common)} rows are held out from both, fewer than {FEW}"
        return said | {"problem": problem}
    target = common[new.target].to_pandas()
    groups = new.split.groups(common)
    try:
        models = [(new, columns_of(common, columns))]
        models.append((old, columns_of(common, old_columns)))
        predicted = [np.asarray(model.predict(x)) for model, x in models]
        scores = [_scores(model, x) for model, x in models]
        is_same = (
            (vars(new.split), columns) == (vars(old.split), old_columns)
            and np.array_equal(predicted[0], predicted[1])
            and np.array_equal(scores[0], scores[1])
        )
        metrics_of_old = measure(*models[1], target, new.task)
    except Exception as error:  # noqa: BLE001 (whatever a foreign model raises)
        return said | {"problem": f"it cannot predict these rows ({error})"}
    found = compare(target, predicted[0], predicted[1], groups, new.task)
    return said | {
        "is_same": is_same,
        "comparison": {**found, "rows": len(common)},
        "metrics": metrics_of_old,
    }


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
    different, block = np.unique(groups, return_inverse=True)
    if task == "classification":
        # By name, as classes may have changed their type.
        names, codes = np.unique(
            np.concatenate([np.asarray(v).astype(str) for v in (target, new, current)]),
            return_inverse=True,
        )
        actual, *both = codes.reshape(3, -1)
        width = 5 * len(names)
        pieces = [actual]
        for i, one in enumerate(both):
            hit = np.where(one == actual, one + (2 * i + 2) * len(names), -1)
            pieces += [one + (2 * i + 1) * len(names), hit]
        # Columns: rows of each class, then predicted and hit, for each model.
        place = np.concatenate(pieces)
        weight = np.ones(len(place))
    else:
        errors = [(np.asarray(target) - one) ** 2 for one in (new, current)]
        width = 3
        place = np.repeat(np.arange(3), len(target))
        weight = np.concatenate([np.ones(len(target)), *errors])
    count = max(1, min(len(different), MOST_BLOCKS, MOST_SUMS // width))
    if count < len(different):
        block = (groups % np.uint64(count)).astype(np.int64)
    cell = np.tile(block * width, len(place) // len(target)) + place
    sums = np.bincount(
        cell[place >= 0], weight[place >= 0], minlength=count * width
    ).reshape(count, width)

    random = np.random.default_rng(0)
    drawn = np.empty((RESAMPLES, width))
    for i in range(RESAMPLES):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        drawn[i] = times @ sums
    metric, higher_is_better = COMPARED_BY[task]
    value, now = _metrics(sums.sum(axis=0)[None], task)
    samples = np.subtract(*_metrics(drawn, task))
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


def in_words(registered: dict[str, Any] | None) -> str:
    """The comparison with the registered model as part of a sentence."""
    if registered is None:
        return "no model is registered yet"
    version = f"the registered version {registered['version']}"
    if "problem" in registered:
        return f"not comparable with {version}: {registered['problem']}"
    if registered["is_same"]:
        return f"{version} again"
    found = registered["comparison"]
    low, high = found["interval"]
    return (
        f"{found['verdict']} than {version}: {found['metric']} {found['new']:.4g}, not"
        f" {found['current']:.4g}, on {found['rows']} rows held out from both; difference"
        f" {found['difference']:+.4g} (95 % interval {low:+.4g} to {high:+.4g})"
    )


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
    words = in_words(registered)
    note = f"{words[0].upper()}{words[1:]}."
    if registered and "metrics" in registered:
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
    compared = in_words(evaluation["registered"])
    print(f"{len(target)} held-out rows: {', '.join(shown)}; {compared}")


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
