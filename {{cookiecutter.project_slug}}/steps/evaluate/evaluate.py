"""Evaluate a trained model on the held-out rows, beside a baseline and the registered model.

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
from comparison import compare_with_baseline, compare_with_registered
from evaluation_report import draw_figures, render_report
from model_metrics import (
    METRICS,
    Metric,
    compute_metric,
    encode_target,
    find_metric,
    list_classes,
    measure,
    note_weak_figures,
    predict,
)
from saved_model import load_model, select_columns
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

IMPORTANCE_ROWS = 2_000  # enough to rank features, and quick on any table


class EvaluationError(Exception):
    """The model cannot be evaluated; the message says why."""


def rank_features(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, metric: Metric
) -> pd.Series:
    """Return how much worse the metric gets when a feature is shuffled, largest first."""
    rows = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    classes = list_classes(target, [model])
    sign = 1 if metric.higher_is_better else -1

    def score(model: Pipeline, rows: pd.DataFrame, target: pd.Series) -> float:
        predictions = predict(model, rows, classes)
        encoded = encode_target(target, classes)
        return sign * compute_metric(metric.name, encoded, predictions)

    # One thread: so few rows at a time are not worth waking others for.
    with threadpool_limits(1, user_api="openmp"):
        importance = permutation_importance(
            model, rows, target[rows.index], scoring=score, random_state=0
        )
    loss = pd.Series(importance.importances_mean, features.columns)
    return loss.sort_values(ascending=False)


def evaluate(
    model: Path,
    holdout: Path,
    evaluation: Path,
    *,
    model_name: str,
    metric_name: str = "default",
    margin: float = 0.02,
) -> None:
    """Evaluate the model on the held-out rows; write metrics, figures and the report.

    It is compared with its baseline and with a version of the registered model
    `model_name`, by one metric of the model's task. `margin` is the share of the
    registered model's metric that the new model may lose.

    Raises EvaluationError if the model does not say what it was trained for, or if its
    task has no such metric.
    """
    saved = load_model(model)
    task = saved.task
    if not task or saved.baseline is None:
        raise EvaluationError(
            f"The model in {model} does not say its task and target, or has no baseline:"
            " save it with save_model() of steps/train/train.py."
        )
    try:
        metric = find_metric(metric_name, task)
    except KeyError:
        names = ", ".join(metric.name for metric in METRICS[task])
        raise EvaluationError(
            f"There is no metric '{metric_name}' of a {task}: set training.metric in"
            f" settings.yml to one of {names}."
        ) from None
    rows = pl.read_parquet(holdout)
    features = select_columns(rows, saved.columns)
    target = rows[saved.target].to_pandas()

    values = measure(saved.pipeline, features, target, task)
    notes = note_weak_figures(saved.pipeline, features, target, task)
    for note in notes:
        print(f"note: {note}")
    baseline = compare_with_baseline(saved, rows, metric)
    registered = compare_with_registered(model_name, saved, rows, metric, margin)
    results = {
        "task": task,
        "target": saved.target,
        "rows": len(target),
        "compared_by": {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "margin": margin,
        },
        "metrics": values,
        "baseline": baseline,
        "registered": registered,
        "notes": [*saved.notes, *notes],
    }
    importance = rank_features(saved.pipeline, features, target, metric)
    predicted = saved.pipeline.predict(features)
    figures = draw_figures(target, predicted, importance, task)
    title = f"{model_name}: {task} of {saved.target}"
    page = render_report(title, results, figures)

    evaluation.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2, allow_nan=False)
    (evaluation / "metrics.json").write_text(text, encoding="utf-8")
    (evaluation / "report.html").write_text(page, encoding="utf-8")
    with mlflow.start_run():
        mlflow.log_metrics(values)
        mlflow.log_metrics(
            {f"baseline_{name}": value for name, value in baseline["metrics"].items()}
        )
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"{name.lower().replace(' ', '_')}.png")
        mlflow.log_artifacts(str(evaluation))
    reason = registered["reason"] if registered else "no model is registered yet"
    shown = describe_metrics(values, baseline["metrics"])
    print(f"{len(target)} held-out rows: {shown}; {reason}")


def describe_metrics(values: dict[str, float], baseline: dict[str, float]) -> str:
    """Return all metrics as text, each with the baseline's value in brackets."""
    shown = []
    for name, value in values.items():
        text = f"{name} {value:.4g}"
        if name in baseline:
            text += f" (baseline {baseline[name]:.4g})"
        shown.append(text)
    return ", ".join(shown)


def main() -> None:
    """Evaluate as the command line says; end with one sentence if that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--holdout", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--metric", default="default")
    parser.add_argument("--margin", type=float, default=0.02)
    args = parser.parse_args()
    try:
        evaluate(
            args.model,
            args.holdout,
            args.evaluation,
            model_name=args.model_name,
            metric_name=args.metric,
            margin=args.margin,
        )
    except EvaluationError as error:
        sys.exit(f"evaluate: {error}")
    except OSError as error:
        sys.exit(f"evaluate: a file cannot be read or written: {error}")


if __name__ == "__main__":
    main()
