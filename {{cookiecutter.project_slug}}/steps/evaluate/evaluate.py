"""Evaluate a trained model on the held-out rows, beside the model registered now.

Metrics and figures go to MLflow; `metrics.json` is what the register step decides by,
`report.html` what a person opens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import mlflow
import pandas as pd
import polars as pl
from comparison import METRICS, compare_with_registered
from evaluation_report import draw_figures, render_report
from saved_model import load_model, select_columns
from sklearn import metrics
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table


class EvaluationError(Exception):
    """The model cannot be evaluated; the message says why."""


def measure(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> dict[str, float]:
    """Return the metrics of a model's predictions, but those that cannot be computed."""
    if task == "regression":
        values = _measure_numbers(model, features, target)
    else:
        values = _measure_classes(model, features, target)
    return {name: float(value) for name, value in values.items()}


def _measure_numbers(
    model: Pipeline, features: pd.DataFrame, target: pd.Series
) -> dict[str, float]:
    """Return the metrics of a regression; there is no R² of a single row."""
    predicted = model.predict(features)
    values = {
        "rmse": metrics.root_mean_squared_error(target, predicted),
        "mae": metrics.mean_absolute_error(target, predicted),
    }
    if len(target) > 1:
        values["r2"] = metrics.r2_score(target, predicted)
    return values


def _measure_classes(
    model: Pipeline, features: pd.DataFrame, target: pd.Series
) -> dict[str, float]:
    """Return the metrics of a classification.

    The log loss needs a probability for every class in the rows, and the ROC curve of a
    class has no points if no row is of it.
    """
    predicted = model.predict(features)
    probabilities = model.predict_proba(features)
    classes = model.classes_
    values = {
        "accuracy": metrics.accuracy_score(target, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(target, predicted),
        "f1_macro": metrics.f1_score(target, predicted, average="macro"),
    }
    if set(target) <= set(classes):
        values["log_loss"] = metrics.log_loss(target, probabilities, labels=classes)
    if set(target) == set(classes):
        if len(classes) == 2:
            probabilities = probabilities[:, 1]
        values["roc_auc"] = metrics.roc_auc_score(
            target, probabilities, multi_class="ovr", labels=classes
        )
    return values


def rank_features(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, task: str
) -> pd.Series:
    """Return how much worse the model gets when a feature is shuffled, largest first."""
    rows = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    scoring = "neg_root_mean_squared_error" if task == "regression" else "f1_macro"
    # One thread: so few rows at a time are not worth waking others for.
    with threadpool_limits(1, user_api="openmp"):
        importance = permutation_importance(
            model, rows, target[rows.index], scoring=scoring, random_state=0
        )
    loss = pd.Series(importance.importances_mean, features.columns)
    return loss.sort_values(ascending=False)


def evaluate(model: Path, holdout: Path, evaluation: Path, *, model_name: str) -> None:
    """Evaluate the model on the held-out rows; write metrics, figures and the report.

    It is compared with the newest version of the registered model `model_name`. Raises
    EvaluationError if the model does not say what it was trained for.
    """
    saved = load_model(model)
    task = saved.task
    if not task:
        raise EvaluationError(
            f"The model in {model} does not say its task and target: save it with"
            " save_model() of steps/train/train.py."
        )
    rows = pl.read_parquet(holdout)
    features = select_columns(rows, saved.columns)
    target = rows[saved.target].to_pandas()

    values = measure(saved.pipeline, features, target, task)
    registered = compare_with_registered(model_name, saved, rows, measure)
    reason = registered["reason"] if registered else "no model is registered yet"
    metric = METRICS[task]
    results = {
        "task": task,
        "target": saved.target,
        "rows": len(target),
        "compared_by": {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
        },
        "metrics": values,
        "registered": registered,
    }
    importance = rank_features(saved.pipeline, features, target, task)
    predicted = saved.pipeline.predict(features)
    figures = draw_figures(target, predicted, importance, task)
    title = f"{model_name}: {task} of {saved.target}"
    page = render_report(title, reason, results, figures)

    evaluation.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2, allow_nan=False)
    (evaluation / "metrics.json").write_text(text, encoding="utf-8")
    (evaluation / "report.html").write_text(page, encoding="utf-8")
    with mlflow.start_run():
        mlflow.log_metrics(values)
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"{name.lower().replace(' ', '_')}.png")
        mlflow.log_artifacts(str(evaluation))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    print(f"{len(target)} held-out rows: {shown}; {reason}")


def main() -> None:
    """Evaluate as the command line says; end with one sentence if that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    args = parser.parse_args()
    try:
        evaluate(args.model, args.holdout, args.evaluation, model_name=args.model_name)
    except EvaluationError as error:
        sys.exit(f"evaluate: {error}")
    except OSError as error:
        sys.exit(f"evaluate: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
