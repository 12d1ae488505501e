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
import pandas as pd
import polars as pl
from comparison import COMPARED_BY, Values, columns_of, compare_registered, load
from matplotlib import rcParams
from matplotlib.figure import Figure
from sklearn import metrics
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table
MOST_FEATURES, MOST_CLASSES, LONGEST_NAME = 20, 30, 24  # in the figures
STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
img { max-width: 100%; height: auto; }
"""
# Text in figures is what it says, in whatever letters, and never read as a formula.
rcParams.update({"svg.fonttype": "none", "text.parse_math": False})


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
    registered = compare_registered(args.model_name, model, columns, table, measure)
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
