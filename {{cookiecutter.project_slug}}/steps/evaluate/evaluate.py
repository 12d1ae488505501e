"""Evaluate a trained model on the held-out rows.

The model is compared with a baseline and with the registered model. `metrics.json` is read
by the step `register`, and `report.html` is for people. Metrics and figures also go to
MLflow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
    Tables,
    render_classes,
    render_report,
    render_worst_rows,
)
from leaks import note_leak
from model_metrics import (
    METRICS,
    CannotCompute,
    Metric,
    compute_metric,
    encode_target,
    find_metric,
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

# The importance of features is measured on at most this many rows.
IMPORTANCE_ROWS = 2_000


class EvaluationError(Exception):
    """The model cannot be evaluated. The message says why."""


@dataclass(frozen=True)
class Evaluation:
    """A model, the held-out rows, and the results on these rows.

    `importance` has a value for each feature, the largest first, measured by
    `importance_metric`. `results` is the content of `metrics.json`.
    """

    model: SavedModel
    rows: pl.DataFrame
    features: pd.DataFrame
    target: pd.Series
    metric: Metric
    importance: pd.Series
    importance_metric: Metric
    results: dict[str, Any]


def evaluate(
    model: Path,
    holdout: Path,
    evaluation: Path,
    *,
    model_name: str,
    metric_name: str = "default",
    margin: float = 0.02,
) -> None:
    """Evaluate a model on the held-out rows; write metrics, figures and a report.

    The model is compared with its baseline and with the registered model `model_name`, by
    one metric. `margin` is the share of the registered model's metric that the new model
    may lose.

    Raises EvaluationError if the model cannot be loaded or was not saved by the train step,
    or if there is no such metric for its task.
    """
    saved = load_for_evaluation(model)
    metric = choose_metric(metric_name, saved.task)
    rows = pl.read_parquet(holdout)
    judged = judge_model(saved, rows, metric, model_name=model_name, margin=margin)

    with mlflow.start_run() as run:
        page, pictures = make_report(
            judged,
            title=f"{model_name}: {saved.task} of {saved.target}",
            facts=describe_model(saved, len(rows), run),
            search=read_search(model),
        )
        evaluation.mkdir(parents=True, exist_ok=True)
        text = json.dumps(judged.results, indent=2, allow_nan=False)
        (evaluation / "metrics.json").write_text(text, encoding="utf-8")
        (evaluation / "report.html").write_text(page, encoding="utf-8")
        log_evaluation(judged, pictures, evaluation)
    print(summarize(judged.results))


def load_for_evaluation(folder: Path) -> SavedModel:
    """Load a model, with everything that its evaluation needs.

    Raises EvaluationError if the model cannot be loaded, or if it has no known task, no
    target, no baseline or no rule by which rows were held out. Raises OSError if a file
    cannot be read.
    """
    try:
        model = load_model(folder)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 (A saved model may raise anything.)
        raise EvaluationError(
            f"The model in {folder} cannot be loaded: {error}. Save it with save_model() of"
            " steps/train/train.py, by the same version of Python."
        ) from None

    missing = []
    if model.task not in METRICS:
        missing.append(f"the task, which is one of {', '.join(METRICS)}")
    if not model.target:
        missing.append("the target")
    if model.baseline is None:
        missing.append("the file baseline.pkl")
    if model.split is None:
        missing.append("the file split.pkl")
    if missing:
        raise EvaluationError(
            f"The model in {folder} was saved without {' and '.join(missing)}: save it with"
            " save_model() of steps/train/train.py."
        )
    return model


def choose_metric(name: str, task: str) -> Metric:
    """Return a metric by its name. Raises EvaluationError if the task has none."""
    try:
        return find_metric(name, task)
    except KeyError:
        names = ", ".join(metric.name for metric in METRICS[task])
        raise EvaluationError(
            f"There is no metric '{name}' of a {task}: set training.metric in settings.yml"
            f" to one of {names}."
        ) from None


def judge_model(
    model: SavedModel,
    rows: pl.DataFrame,
    metric: Metric,
    *,
    model_name: str,
    margin: float,
) -> Evaluation:
    """Measure a model on the held-out rows, and compare it with the other models."""
    features = select_columns(rows, model.columns)
    target = rows[model.target].to_pandas()
    task = model.task

    notes = note_weak_figures(model.pipeline, features, target, task)
    importance_metric = metric
    try:
        importance = rank_features(model.pipeline, features, target, metric)
    except CannotCompute as error:
        # The default metric of a task has a value for all rows.
        importance_metric = METRICS[task][0]
        importance = rank_features(model.pipeline, features, target, importance_metric)
        notes.append(
            f"the features are ranked by {importance_metric.title}, because {metric.title}"
            f" has no value for the rows: {error}."
        )
    notes += note_leak(model.pipeline, features, target, importance, task)
    for note in notes:
        print(f"note: {note}")

    results = {
        "task": task,
        "target": model.target,
        "rows": len(target),
        "compared_by": {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "margin": margin,
        },
        "metrics": measure(model.pipeline, features, target, task),
        "baseline": compare_with_baseline(model, rows, metric),
        "registered": compare_with_registered(model_name, model, rows, metric, margin),
        "notes": [*model.notes, *notes],
    }
    return Evaluation(
        model=model,
        rows=rows,
        features=features,
        target=target,
        metric=metric,
        importance=importance,
        importance_metric=importance_metric,
        results=results,
    )


def rank_features(
    model: Pipeline, features: pd.DataFrame, target: pd.Series, metric: Metric
) -> pd.Series:
    """Return how much worse the metric gets when each feature is shuffled.

    The largest loss comes first. It is measured on at most IMPORTANCE_ROWS rows. Raises
    CannotCompute if the metric has no value for these rows.
    """
    rows = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    classes = list_classes(target, [model])
    sign = 1 if metric.higher_is_better else -1

    def score(model: Pipeline, rows: pd.DataFrame, target: pd.Series) -> float:
        predictions = predict(model, rows, classes)
        encoded_target = encode_target(target, classes)
        return sign * compute_metric(metric.name, encoded_target, predictions)

    # For tables this small, starting a second thread takes longer than it saves.
    with threadpool_limits(1, user_api="openmp"):
        importance = permutation_importance(
            model, rows, target[rows.index], scoring=score, random_state=0
        )
    loss = pd.Series(importance.importances_mean, features.columns)
    return loss.sort_values(ascending=False)


# The report


def make_report(
    judged: Evaluation, *, title: str, facts: dict[str, str], search: Search | None
) -> tuple[str, list[Picture]]:
    """Return the page of the report, and the pictures in it.

    `facts` are names and texts to show. `search` is the search for hyperparameters, if
    there was one.
    """
    model = judged.model
    classes = list_classes(judged.target, [model.pipeline])
    target = encode_target(judged.target, classes)
    predictions = predict(model.pipeline, judged.features, classes)
    pictures = draw_pictures(
        target,
        predictions,
        classes,
        judged.importance,
        judged.importance_metric,
        model.target,
    )

    table_of_classes = ""
    if classes:
        table_of_classes = render_classes(target, predictions.values, classes)

    shown_columns = [*model.keys, *judged.importance.index[:SHOWN_FEATURES]]
    shown_table = pl.DataFrame({name: judged.rows[name] for name in shown_columns})
    worst_rows = render_worst_rows(shown_table, target, predictions, classes)

    table_of_tries = ""
    if search is not None:
        table_of_tries = render_search(search)
        picture = draw_search(search)
        if picture is not None:
            pictures.append(picture)

    tables = Tables(table_of_classes, worst_rows, table_of_tries)
    return render_report(title, judged.results, facts, pictures, tables), pictures


def describe_model(
    model: SavedModel, held_out: int, run: mlflow.ActiveRun
) -> dict[str, str]:
    """Return facts about a model and its evaluation, as names and texts.

    The date, the run and the commit are those of the evaluation. The model may have been
    trained in an earlier run.
    """
    tags = run.data.tags
    facts = {
        "evaluated on": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "run": tags.get("run", run.info.run_id),
    }
    commit = tags.get("mlflow.source.git.commit")
    if commit:
        # Azure ML sets this tag, too.
        has_uncommitted_changes = tags.get("azureml.git.dirty") == "True"
        if has_uncommitted_changes:
            commit += ", with uncommitted changes"
        facts["git commit"] = commit
    if model.training_rows is not None:
        facts["training rows"] = f"{model.training_rows:,}"
    facts["held-out rows"] = f"{held_out:,}"
    facts["features"] = f"{len(model.columns):,}"
    return facts | model.parameters


# MLflow and the screen


def log_evaluation(
    judged: Evaluation, pictures: Sequence[Picture], evaluation: Path
) -> None:
    """Log the verdict, the metrics, the pictures and the files to the active MLflow run."""
    results = judged.results
    baseline = results["baseline"]
    # The command `runs` shows these tags.
    mlflow.set_tags(
        {
            "metric": judged.metric.name,
            "verdict": describe_verdict(results["registered"], baseline),
        }
    )
    mlflow.log_metrics(results["metrics"])
    mlflow.log_metrics(
        {f"baseline_{name}": value for name, value in baseline["metrics"].items()}
    )
    for picture in pictures:
        mlflow.log_figure(picture.figure, f"{picture.name}.png")
    mlflow.log_artifacts(str(evaluation))


def describe_verdict(
    registered: dict[str, Any] | None, baseline: dict[str, Any]
) -> str:
    """Return in a few words how the model compares with the registered one.

    If no model is registered, it is compared with the baseline.
    """
    if registered is not None:
        return str(registered["verdict"])
    if baseline["is_beaten"]:
        return "better than the baseline"
    return "not better than the baseline"


def summarize(results: dict[str, Any]) -> str:
    """Return the metrics and the verdict as the line that the screen shows."""
    reason = "no model is registered yet"
    if results["registered"]:
        reason = results["registered"]["reason"]
    metrics = describe_metrics(
        results["metrics"], results["baseline"]["metrics"], results["task"]
    )
    return f"{results['rows']} held-out rows: {metrics}; {reason}"


def describe_metrics(
    values: dict[str, float], baseline: dict[str, float], task: str
) -> str:
    """Return all metrics as text, each with the value of the baseline in brackets."""
    shown = []
    for metric in METRICS[task]:
        if metric.name not in values:
            continue
        text = f"{metric.title} {metric.format(values[metric.name])}"
        if metric.name in baseline:
            text += f" (baseline: {metric.format(baseline[metric.name])})"
        shown.append(text)
    return ", ".join(shown)


def main() -> None:
    """Run the step with the arguments of the command line.

    Exits with a message if the model cannot be evaluated, or if a file cannot be read or
    written.
    """
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
