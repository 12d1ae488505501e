"""Evaluate a trained model on the held-out rows, beside a baseline and the registered model.

Metrics and figures go to MLflow; `metrics.json` is what the register step decides by,
`report.html` what a person opens.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from comparison import compare_with_baseline, compare_with_registered
from evaluation_figures import Picture, draw_pictures
from evaluation_report import (
    SHOWN_FEATURES,
    render_classes,
    render_report,
    render_worst_rows,
)
from leaks import note_leak
from model_metrics import (
    METRICS,
    Metric,
    compute_metric,
    encode_target,
    find_metric,
    format_value,
    list_classes,
    measure,
    note_weak_figures,
    predict,
)
from saved_model import SavedModel, load_model, select_columns
from search_report import Search, draw_search, read_search, render_search
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
    importance = rank_features(saved.pipeline, features, target, metric)
    notes = note_weak_figures(saved.pipeline, features, target, task)
    notes += note_leak(saved.pipeline, features, target, importance, task)
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
    with mlflow.start_run() as run:
        # The command `runs` shows these tags.
        mlflow.set_tags(
            {"metric": metric.name, "verdict": describe_verdict(registered, baseline)}
        )
        page, pictures = make_report(
            f"{model_name}: {task} of {saved.target}",
            saved,
            rows,
            results,
            importance,
            metric,
            describe_training(saved, len(rows), run),
            read_search(model),
        )
        evaluation.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=2, allow_nan=False)
        (evaluation / "metrics.json").write_text(text, encoding="utf-8")
        (evaluation / "report.html").write_text(page, encoding="utf-8")
        mlflow.log_metrics(values)
        mlflow.log_metrics(
            {f"baseline_{name}": value for name, value in baseline["metrics"].items()}
        )
        for picture in pictures:
            mlflow.log_figure(picture.figure, f"{picture.name}.png")
        mlflow.log_artifacts(str(evaluation))
    reason = registered["reason"] if registered else "no model is registered yet"
    shown = describe_metrics(values, baseline["metrics"], task)
    print(f"{len(target)} held-out rows: {shown}; {reason}")


def make_report(
    title: str,
    saved: SavedModel,
    rows: pl.DataFrame,
    results: dict[str, Any],
    importance: pd.Series,
    metric: Metric,
    facts: dict[str, str],
    search: Search | None = None,
) -> tuple[str, list[Picture]]:
    """Return the page of the report, and the pictures in it."""
    features = select_columns(rows, saved.columns)
    answers = rows[saved.target].to_pandas()
    classes = list_classes(answers, [saved.pipeline])
    target = encode_target(answers, classes)
    predictions = predict(saved.pipeline, features, classes)
    pictures = draw_pictures(
        target, predictions, classes, importance, metric, saved.target
    )
    table_of_classes = ""
    if classes:
        table_of_classes = render_classes(target, predictions.values, classes)
    shown = [*saved.keys, *importance.index[:SHOWN_FEATURES]]
    shown_columns = pl.DataFrame({name: rows[name] for name in shown})
    worst_rows = render_worst_rows(shown_columns, target, predictions, classes)
    table_of_tries = ""
    if search is not None:
        table_of_tries = render_search(search)
        picture = draw_search(search)
        if picture is not None:
            pictures.append(picture)
    page = render_report(
        title, results, facts, pictures, table_of_classes, worst_rows, table_of_tries
    )
    return page, pictures


def describe_training(
    saved: SavedModel, held_out: int, run: mlflow.ActiveRun
) -> dict[str, str]:
    """Return facts on the model and its evaluation, as names and texts.

    The date and the run are those of the evaluation. The step `train` may have been reused
    from an earlier run.
    """
    facts = {
        "evaluated on": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "run": run.data.tags.get("run", run.info.run_id),
    }
    commit = run.data.tags.get("mlflow.source.git.commit")
    if commit:
        facts["git commit"] = commit
    if saved.training_rows is not None:
        facts["training rows"] = f"{saved.training_rows:,}"
    facts["held-out rows"] = f"{held_out:,}"
    facts["features"] = f"{len(saved.columns):,}"
    return facts | saved.parameters


def describe_verdict(
    registered: dict[str, Any] | None, baseline: dict[str, Any]
) -> str:
    """Return in a few words how the model compares with the registered one.

    If no model is registered, the baseline takes its place.
    """
    if registered is not None:
        return str(registered["verdict"])
    if baseline["is_beaten"]:
        return "better than the baseline"
    return "not better than the baseline"


def describe_metrics(
    values: dict[str, float], baseline: dict[str, float], task: str
) -> str:
    """Return all metrics as text, each with the baseline's value in brackets."""
    shown = []
    for metric in METRICS[task]:
        if metric.name not in values:
            continue
        text = f"{metric.title} {format_value(values[metric.name])}"
        if metric.name in baseline:
            text += f" (baseline: {format_value(baseline[metric.name])})"
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
