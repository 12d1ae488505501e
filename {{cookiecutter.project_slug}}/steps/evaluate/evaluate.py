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
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn import metrics
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

# The metric by which models are compared, and whether more of it is better.
COMPARED_BY = {"classification": ("f1_macro", True), "regression": ("rmse", False)}
IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table
MOST_FEATURES = 20  # in the figure
MOST_CLASSES = 30  # in the figure
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
            "r2": float(metrics.r2_score(target, predicted)),
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


def measure_registered(
    name: str, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, Any] | None:
    """The registered model's metrics on the same rows; None if none is registered.

    A model that cannot predict these rows (made for other columns, or another task) has
    an `error` in place of metrics.
    """
    newest = newest_version(name)
    if newest is None:
        return None
    model = mlflow.sklearn.load_model(f"models:/{name}/{newest}")
    try:
        found = measure(model, features, target, task)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return {"version": newest, "error": str(error)}
    return {"version": newest, "metrics": found}


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


def plot_importance(found: pd.Series) -> Figure:
    """A bar for each of the features that matter most."""
    top = found.head(MOST_FEATURES)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(top)), layout="constrained")
    axes = figure.subplots()
    axes.barh([str(name) for name in top.index], top.to_numpy(), color="#4878a8")
    axes.set_xlabel("loss of score when the feature is shuffled")
    return figure


def plot_confusion(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """How many rows of each class were predicted as which class."""
    classes = pd.Series(target).value_counts().index[:MOST_CLASSES].sort_values()
    counts = metrics.confusion_matrix(target, predicted, labels=classes)
    size = 3 + 0.5 * len(classes)
    figure = Figure(figsize=(size + 1.5, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        dark = count > counts.max() / 2
        axes.text(
            column,
            row,
            count,
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    names = [textwrap.shorten(str(name), 24, placeholder="…") for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    return figure


def plot_residuals(target: pd.Series, predicted: npt.NDArray[Any]) -> Figure:
    """Predicted values against the actual ones; a perfect model is on the line."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(target, predicted, s=14, alpha=0.5, color="#4878a8", linewidths=0)
    ends = [min(target.min(), predicted.min()), max(target.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set_xlabel(f"actual {target.name}")
    axes.set_ylabel(f"predicted {target.name}")
    return figure


def report_html(
    title: str, evaluation: dict[str, Any], figures: dict[str, Figure]
) -> str:
    """The evaluation as one HTML page that needs no other file."""
    registered = evaluation["registered"]
    table = pd.DataFrame({"new model": evaluation["metrics"]})
    if registered is None:
        note = "No model is registered yet."
    elif "error" in registered:
        note = (
            f"The registered version {registered['version']} cannot predict these rows:"
            f" {registered['error']}"
        )
    else:
        note = f"Compared with the registered version {registered['version']}."
        table[f"version {registered['version']}"] = pd.Series(registered["metrics"])
    note += f" Models are compared by {evaluation['compared_by']['metric']}."
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
    figure.savefig(picture, format="svg")
    return base64.b64encode(picture.getvalue()).decode()


def main() -> None:
    """Evaluate as the command line says, and write metrics, figures and the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--task", choices=list(COMPARED_BY), required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--model-name", required=True)
    args = parser.parse_args()

    model = mlflow.sklearn.load_model(str(args.model))
    features = pd.read_parquet(args.holdout)
    target = features.pop(args.target)
    predicted = model.predict(features)
    metric, higher_is_better = COMPARED_BY[args.task]
    evaluation = {
        "task": args.task,
        "target": args.target,
        "rows": len(target),
        "compared_by": {"metric": metric, "higher_is_better": higher_is_better},
        "metrics": measure(model, features, target, args.task),
        "registered": measure_registered(args.model_name, features, target, args.task),
    }
    plot = {"classification": plot_confusion, "regression": plot_residuals}[args.task]
    figures = {
        "Predictions": plot(target, predicted),
        "Importance of the features": plot_importance(
            importance(model, features, target, args.task)
        ),
    }
    title = f"{args.model_name}: {args.task} of {args.target}"
    args.evaluation.mkdir(parents=True, exist_ok=True)
    (args.evaluation / "metrics.json").write_text(json.dumps(evaluation, indent=2))
    (args.evaluation / "report.html").write_text(
        report_html(title, evaluation, figures), encoding="utf-8"
    )
    with mlflow.start_run():
        mlflow.log_metrics(evaluation["metrics"])
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"{name.lower().replace(' ', '_')}.png")
        mlflow.log_artifacts(str(args.evaluation))
    shown = (f"{name} {value:.4g}" for name, value in evaluation["metrics"].items())
    print(f"{len(target)} held-out rows: {', '.join(shown)}")


if __name__ == "__main__":
    main()
