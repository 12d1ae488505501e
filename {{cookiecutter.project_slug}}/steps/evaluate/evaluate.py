"""Evaluate a trained model on the held-out rows.

The model is compared with a baseline and with the registered model. The step `register`
reads the results from `metrics.json`, and people read `report.html`. Metrics and pictures
are also logged to MLflow.
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
    note_misleading_metrics,
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
    """A model, the held-out rows, and the results of the model on these rows.

    `features` and `target` are the columns of `rows` that the model needs and predicts.
    `importance` has the loss of `importance_metric` for each feature, the largest first.
    `results` is the content of `metrics.json`.
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
    model_folder: Path,
    holdout_folder: Path,
    results_folder: Path,
    *,
    model_name: str,
    metric_name: str = "default",
    margin: float = 0.02,
) -> None:
    """Evaluate a model on the held-out rows, and write `metrics.json` and `report.html`.

    The two files are written to `results_folder`, and everything is also logged to MLflow.
    The model is compared with its baseline and with the registered model `model_name`, by
    the metric `metric_name`. The new model may be worse by `margin`, a share of the
    registered model's value.

    Raises EvaluationError if the model cannot be loaded or was not saved by the step train,
    or if its task has no such metric.
    """
    model = load_for_evaluation(model_folder)
    metric = choose_metric(metric_name, model.task)
    rows = pl.read_parquet(holdout_folder)
    evaluation = evaluate_model(
        model, rows, metric, model_name=model_name, margin=margin
    )

    with mlflow.start_run() as run:
        page, pictures = make_report(
            evaluation,
            title=f"{model_name}: {model.task} of {model.target}",
            facts=describe_model(model, len(rows), run),
            search=read_search(model_folder),
        )
        results_folder.mkdir(parents=True, exist_ok=True)
        results_as_json = json.dumps(evaluation.results, indent=2, allow_nan=False)
        (results_folder / "metrics.json").write_text(results_as_json, encoding="utf-8")
        (results_folder / "report.html").write_text(page, encoding="utf-8")
        log_evaluation(evaluation, pictures, results_folder)
    print(summarize(evaluation.results))


def load_for_evaluation(folder: Path) -> SavedModel:
    """Load a model, and check that it has everything that its evaluation needs.

    Raises EvaluationError if the model cannot be loaded, or if it was saved without a known
    task, the target, the baseline, or the rule that decides which rows are held out. Raises
    OSError if a file cannot be read.
    """
    try:
        model = load_model(folder)
    except OSError:
        # The message names the file, and main() shows it.
        raise
    except Exception as error:  # noqa: BLE001 (A saved model may raise anything.)
        raise EvaluationError(
            f"The model in {folder} cannot be loaded: {error}. Save it with save_model() of"
            " steps/train/model_files.py, and let both steps run with the same version of"
            " Python."
        ) from None

    missing = []
    if model.task not in METRICS:
        missing.append(f"a task (one of {', '.join(METRICS)})")
    if not model.target:
        missing.append("the target")
    if model.baseline is None:
        missing.append("the file baseline.pkl")
    if model.split is None:
        missing.append("the file split.pkl")
    if missing:
        raise EvaluationError(
            f"The model in {folder} was saved without {' and '.join(missing)}: save it with"
            " save_model() of steps/train/model_files.py."
        )
    return model


def choose_metric(name: str, task: str) -> Metric:
    """Return the metric called `name`, or the first metric of a task for "default".

    Raises EvaluationError if the task has no metric of this name.
    """
    try:
        return find_metric(name, task)
    except KeyError:
        names = ", ".join(metric.name for metric in METRICS[task])
        raise EvaluationError(
            f"There is no metric '{name}' of a {task}: set training.metric in settings.yml"
            f" to one of {names}."
        ) from None


def evaluate_model(
    model: SavedModel,
    rows: pl.DataFrame,
    metric: Metric,
    *,
    model_name: str,
    margin: float,
) -> Evaluation:
    """Measure a model on the held-out rows, and compare it with two other models.

    The other models are its baseline and the registered model `model_name`. Also prints
    notes if the results are misleading.
    """
    features = select_columns(rows, model.columns)
    target = rows[model.target].to_pandas()
    task = model.task

    notes = note_misleading_metrics(model.pipeline, features, target, task)
    importance_metric = metric
    try:
        importance = rank_features(model.pipeline, features, target, metric)
    except CannotCompute as error:
        # The first metric of a task can be computed for all rows.
        importance_metric = METRICS[task][0]
        importance = rank_features(model.pipeline, features, target, importance_metric)
        notes.append(
            f"the features are ranked by {importance_metric.title}, because {metric.title}"
            f" cannot be computed: {error}."
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
    """Return the importance of each feature, the most important one first.

    The importance is how much worse the metric gets when only the values of this feature
    are shuffled. It is measured on at most IMPORTANCE_ROWS rows. Raises CannotCompute if
    the metric cannot be computed for these rows.
    """
    sample = features.sample(min(len(features), IMPORTANCE_ROWS), random_state=0)
    classes = list_classes(target, [model])
    sign = 1 if metric.higher_is_better else -1

    def score_rows(
        _model: Pipeline, shuffled_rows: pd.DataFrame, target_of_rows: pd.Series
    ) -> float:
        """Return the metric of the model for some rows, negated if lower is better."""
        predictions = predict(model, shuffled_rows, classes)
        encoded_target = encode_target(target_of_rows, classes)
        return sign * compute_metric(metric.name, encoded_target, predictions)

    # For tables this small, starting a second thread takes longer than it saves.
    with threadpool_limits(1, user_api="openmp"):
        importance = permutation_importance(
            model, sample, target[sample.index], scoring=score_rows, random_state=0
        )
    losses = pd.Series(importance.importances_mean, features.columns)
    return losses.sort_values(ascending=False)


# The report


def make_report(
    evaluation: Evaluation, *, title: str, facts: dict[str, str], search: Search | None
) -> tuple[str, list[Picture]]:
    """Return the HTML page of the report, and the pictures in it.

    `facts` maps the names of facts about the model, such as "git commit", to their values.
    `search` is the search for hyperparameters, if there was one.
    """
    model = evaluation.model
    classes = list_classes(evaluation.target, [model.pipeline])
    target = encode_target(evaluation.target, classes)
    predictions = predict(model.pipeline, evaluation.features, classes)

    pictures = draw_pictures(
        target,
        predictions,
        classes,
        evaluation.importance,
        evaluation.importance_metric,
        model.target,
    )
    search_picture = draw_search(search) if search is not None else None
    if search_picture is not None:
        pictures.append(search_picture)

    # The features are sorted by their importance.
    shown_features = evaluation.importance.index[:SHOWN_FEATURES]
    shown_columns = [*model.keys, *shown_features]
    # polars reads a name such as `^a$` as a pattern, so columns are taken one by one.
    shown_table = pl.DataFrame({name: evaluation.rows[name] for name in shown_columns})
    tables = Tables(
        classes=render_classes(target, predictions.values, classes) if classes else "",
        worst_rows=render_worst_rows(shown_table, target, predictions, classes),
        tries=render_search(search) if search is not None else "",
    )
    page = render_report(title, evaluation.results, facts, pictures, tables)
    return page, pictures


def describe_model(
    model: SavedModel, held_out_rows: int, run: mlflow.ActiveRun
) -> dict[str, str]:
    """Return facts about a model and its evaluation, as a mapping from names to texts.

    The date, the run and the commit are those of the evaluation. The model may have been
    trained in an earlier run.
    """
    tags = run.data.tags
    facts = {
        "evaluated on": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        # In a local run, this tag has the name of the run's folder.
        "run": tags.get("run", run.info.run_id),
    }
    commit = tags.get("mlflow.source.git.commit")
    if commit:
        # Azure ML sets this tag along with the commit.
        has_uncommitted_changes = tags.get("azureml.git.dirty") == "True"
        if has_uncommitted_changes:
            commit += ", with uncommitted changes"
        facts["git commit"] = commit
    if model.training_rows is not None:
        facts["training rows"] = f"{model.training_rows:,}"
    facts["held-out rows"] = f"{held_out_rows:,}"
    facts["features"] = f"{len(model.columns):,}"
    return facts | model.parameters


# MLflow and the screen


def log_evaluation(
    evaluation: Evaluation, pictures: Sequence[Picture], folder: Path
) -> None:
    """Log the results and the pictures of an evaluation to the active MLflow run.

    The files in `folder` (the report and `metrics.json`) are logged, too.
    """
    results = evaluation.results
    baseline = results["baseline"]
    # The command `runs` shows these tags.
    mlflow.set_tags(
        {
            "metric": evaluation.metric.name,
            "verdict": describe_verdict(results["registered"], baseline),
        }
    )
    mlflow.log_metrics(results["metrics"])
    mlflow.log_metrics(
        {f"baseline_{name}": value for name, value in baseline["metrics"].items()}
    )
    for picture in pictures:
        mlflow.log_figure(picture.figure, f"{picture.name}.png")
    mlflow.log_artifacts(str(folder))


def describe_verdict(
    registered: dict[str, Any] | None, baseline: dict[str, Any]
) -> str:
    """Return in a few words how the new model compares with the registered model.

    An example is "no worse". If no model is registered, the text is the result of the
    comparison with the baseline, such as "better than the baseline". The arguments are
    parts of `metrics.json`.
    """
    if registered is not None:
        return str(registered["verdict"])
    if baseline["is_beaten"]:
        return "better than the baseline"
    return "not better than the baseline"


def summarize(results: dict[str, Any]) -> str:
    """Return the metrics and the verdict as one line for the screen.

    `results` is the content of `metrics.json`.
    """
    reason = "no model is registered yet"
    if results["registered"]:
        reason = results["registered"]["reason"]
    metrics = describe_metrics(
        results["metrics"], results["baseline"]["metrics"], results["task"]
    )
    return f"{results['rows']} held-out rows: {metrics}; {reason}"


def describe_metrics(
    value_by_metric: dict[str, float],
    baseline_value_by_metric: dict[str, float],
    task: str,
) -> str:
    """Return all metrics of a task as text, with the values of the baseline in brackets.

    An example is "accuracy 0.9672 (baseline: 0.3934), log loss 0.1379 (baseline: 1.07)".
    """
    descriptions = []
    for metric in METRICS[task]:
        if metric.name not in value_by_metric:
            continue
        value = metric.format(value_by_metric[metric.name])
        description = f"{metric.title} {value}"
        if metric.name in baseline_value_by_metric:
            baseline_value = metric.format(baseline_value_by_metric[metric.name])
            description += f" (baseline: {baseline_value})"
        descriptions.append(description)
    return ", ".join(descriptions)


def main() -> None:
    """Run the step with the command-line arguments.

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
